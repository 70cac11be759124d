"""Putting a package on a cluster and starting a run of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrf.errors import ClusterError
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.package import read_package
from hrf_pipelines.versions import VersionName, name_version

PIPELINE = "hrf-finetune"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of the pipeline on a cluster."""

    pipeline_id: str
    version_id: str
    name: str
    was_there: bool
    """Whether it had been uploaded before."""


def put_version(cluster: Cluster, package: str, about: str = "") -> Version:
    """Have a package on the cluster: found if it is there, uploaded if not.

    For `about`, see `hrf_pipelines.versions.about_package`.

    Raises:
        ClusterError: The cluster refuses, or has another package of this name.
    """
    info = read_package(package)[0]["pipelineInfo"]
    explained = info.get("description", "")
    pipeline_id = _put_pipeline(cluster, info["name"], explained)
    wanted = name_version(package, about)
    found = _find_version(cluster, pipeline_id, wanted)
    was_there = found is not None
    if found is None:
        found = _upload(cluster, pipeline_id, wanted, package, explained)
    return Version(pipeline_id=pipeline_id, version_id=found.pipeline_version_id, name=wanted.name, was_there=was_there)


def put_experiment(cluster: Cluster, name: str) -> str:
    """The id of the experiment of that name, which is made if absent.

    Raises:
        ClusterError: The cluster refuses, or the experiment is archived.
    """
    from kfp_server_api import V2beta1Experiment

    api = cluster.api.experiments
    wanted = V2beta1Experiment(display_name=name, namespace=cluster.namespace or None)
    listing = {"filter": equals("display_name", name), **cluster.scoped()}
    found = _find_or_make(
        lambda: cluster.list_all(api.experiment_service_list_experiments, "experiments", **listing),
        lambda: cluster.tell(api.experiment_service_create_experiment, experiment=wanted),
    )
    if found.storage_state == "ARCHIVED":
        raise ClusterError(
            cluster.host,
            problem=f"the experiment {name!r} is archived, and takes no runs",
            fix="restore it in the UI (Experiments, Archived), or name another one with --experiment",
        )
    return str(found.experiment_id)


def start_run(
    cluster: Cluster,
    *,
    version: Version,
    experiment_id: str,
    name: str,
    parameters: Mapping[str, str],
    service_account: str,
) -> Any:
    """Start a run; its pods run as the service account, or as the cluster's own where it is empty."""
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    run = V2beta1Run(
        display_name=name,
        experiment_id=experiment_id,
        pipeline_version_reference=V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=service_account or None,
    )
    return cluster.tell(cluster.api.runs.run_service_create_run, run=run)


def equals(key: str, value: str) -> str:
    """A filter for listing calls: one field has one value."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})


def _put_pipeline(cluster: Cluster, name: str, description: str) -> str:
    from kfp_server_api import V2beta1Pipeline

    api = cluster.api.pipelines
    about = {"name": name, "display_name": name, "description": description}
    wanted = V2beta1Pipeline(**about, namespace=cluster.namespace or None)
    listing = {"filter": equals("name", name), **cluster.scoped()}
    found = _find_or_make(
        lambda: cluster.list_all(api.pipeline_service_list_pipelines, "pipelines", **listing),
        lambda: cluster.tell(api.pipeline_service_create_pipeline, pipeline=wanted),
    )
    return str(found.pipeline_id)


def _find_version(cluster: Cluster, pipeline_id: str, wanted: VersionName) -> Any | None:
    found = next(
        cluster.list_all(
            cluster.api.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline_id,
            filter=equals("name", wanted.name),
        ),
        None,
    )
    if found is not None and wanted.digest not in (found.description or ""):
        raise ClusterError(
            cluster.host,
            problem=f"version {wanted.name!r} of pipeline {PIPELINE!r} is there, and is not this package",
            fix="delete that version in the UI: somebody uploaded another package under this name",
        )
    return found


def _upload(cluster: Cluster, pipeline_id: str, wanted: VersionName, package: str, explained: str) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{PIPELINE}.yaml"
        file.write_text(package, encoding="ascii")
        try:
            return cluster.tell(
                cluster.api.pipeline_uploads.upload_pipeline_version,
                uploadfile=str(file),
                name=wanted.name,
                display_name=wanted.name,
                pipelineid=pipeline_id,
                description=f"{wanted.description}\n\n{explained}",
            )
        except ClusterError as error:
            if error.status == 409 and (found := _find_version(cluster, pipeline_id, wanted)) is not None:
                return found
            raise


def _find_or_make(list_equal: Callable[[], Iterator[Any]], make: Callable[[], Any]) -> Any:
    """What is there; else what is made, here or, between our look and our order, by another client."""
    if (found := next(list_equal(), None)) is not None:
        return found
    try:
        return make()
    except ClusterError as error:
        if error.status == 409 and (found := next(list_equal(), None)) is not None:
            return found
        raise
