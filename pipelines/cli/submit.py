"""`hrf submit`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from hrf_pipelines.cli.cluster_options import (
    Host,
    Namespace,
    ServiceAccount,
    StorageUri,
    pack,
    reach,
)
from hrf_pipelines.cli.compiling import Placement
from hrf_pipelines.cli.configuring import Epochs, Experiment, Preset, Settings, StartFrom
from hrf_pipelines.cli.console import AsJson, Traceback
from hrf_pipelines.cli.following import Poll, Resumes, Wait, check_resumes, tell_end, tell_start


def submit(
    preset: Preset,
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    experiment: Experiment = "default",
    start_from: StartFrom = "",
    epochs: Epochs = 0,
    storage: StorageUri = "",
    placement: Placement = "",
    run_tag: Annotated[
        str, typer.Option("--run-tag", help="The run's name in the bucket, to be used once; else Kubeflow's id.")
    ] = "",
    wait: Wait = False,
    resumes: Resumes = 0,
    poll: Poll = 5.0,
    service_account: ServiceAccount = "",
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Fine-tune on a Kubeflow cluster: upload the package, unless it is there, and start a run of it."""
    import yaml

    from hrf.promotion.pointer import check_name
    from hrf_pipelines.cli.cluster_view import link_of
    from hrf_pipelines.cluster.submitting import PIPELINE, put_experiment, put_version, start_run

    check_resumes(resumes, wait)
    if run_tag:
        check_name(run_tag, "--run-tag")
    packed = pack(
        preset,
        settings,
        epochs=epochs,
        start_from=start_from,
        experiment=experiment,
        storage=storage,
        placement=placement,
    )
    cluster, account = reach(host, namespace, packed.placement, service_account, packed.parameters["storage"])
    version = put_version(cluster, packed.package, packed.about)
    experiment_id = put_experiment(cluster, experiment)
    run = start_run(
        cluster,
        version=version,
        experiment_id=experiment_id,
        name=run_tag or f"{packed.stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        parameters={**packed.parameters, "run_tag": run_tag},
        service_account=account,
    )
    place = f"{packed.parameters['storage']}/{experiment}/runs/{run_tag or run.run_id}"
    facts = {
        "id": run.run_id,
        "name": run.display_name,
        "version": version.name,
        "uploaded": not version.was_there,
        "experiment": experiment,
        "storage": place,
        "link": link_of(cluster, run.run_id),
    }
    lines = (
        f"Version:  {version.name} of {PIPELINE}, {'was there' if version.was_there else 'uploaded'}",
        f"Run:      {run.display_name}  {run.run_id}",
        f"See:      {facts['link']}",
        f"Records:  {place}",
    )
    tell_start(run, lines, facts, wait=wait, as_json=as_json)
    if wait:
        spec = next(yaml.safe_load_all(packed.package))
        tell_end(cluster, run, spec, poll=poll, resumes=resumes, facts=facts, as_json=as_json)
