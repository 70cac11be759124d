"""Going on with a run that a cluster has not finished: in a new run of Kubeflow, under the same id in the bucket.

Kubeflow's own cache does it. The package is the same version and the run's id is among the parameters of its steps, so
that those that were finished are answered with what they wrote, and the first that was not is computed. `check`, which
every attempt computes again, finds on record from where the run started, and refuses another configuration or code.
"""

from __future__ import annotations

from typing import Any

from hrf.errors import ClusterError, HrfError
from hrf.promotion.records import RunStart
from hrf.promotion.run_ids import fill_macros
from hrf.promotion.runs import RunRecords
from hrf.storage.objects import Storage
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.records import end_of, fetch_records
from hrf_pipelines.cluster.runs import FINAL, default_parameters, names_in_bucket, package_of, parameters_of


def resume_run(cluster: Cluster, run: Any) -> Any:
    """Start a run that goes on with another one from its last finished step, whoever started that.

    Raises:
        ClusterError: The run has succeeded, is still at work, is none of hrf's pipelines, or Kubeflow refuses.
    """
    from kfp_server_api import V2beta1Run, V2beta1RuntimeConfig

    spec = package_of(cluster, run)
    parameters = {**default_parameters(spec), **parameters_of(run)}
    _check_resumable(cluster, run, parameters, is_known=spec is not None)
    started = _started(run, parameters)
    names = names_in_bucket(run)
    own = {
        **parameters_of(run),
        "run_tag": started.run_id if started else names[-1],
        # Of a scheduled run, the text may hold a macro that the first attempt filled with its own id.
        "noise_tag": started.noise_tag if started else fill_macros(str(parameters["noise_tag"]), run.run_id),
    }
    resumed = V2beta1Run(
        display_name=f"{run.display_name} (resumed)".replace(" (resumed) (resumed)", " (resumed)"),
        description=f"Goes on with {run.run_id}",
        experiment_id=run.experiment_id,
        pipeline_version_reference=run.pipeline_version_reference,
        pipeline_spec=None if run.pipeline_version_reference else run.pipeline_spec,
        runtime_config=V2beta1RuntimeConfig(parameters=own, pipeline_root=run.runtime_config.pipeline_root or None),
        service_account=run.service_account or None,
    )
    return cluster.tell(cluster.api.runs.run_service_create_run, run=resumed)


def _check_resumable(cluster: Cluster, run: Any, parameters: dict[str, Any], *, is_known: bool) -> None:
    """Refuse what can't be resumed, or must not be."""
    if not is_known:
        raise ClusterError(
            cluster.host,
            problem=f"the pipeline version that run {run.run_id} was made from is gone",
            fix="upload it again and start the run with its id as `run_tag`, or start anew",
        )
    if not {"run_tag", "noise_tag", "storage", "experiment"} <= parameters.keys():
        raise ClusterError(
            cluster.host,
            problem=f"run {run.run_id} is none of the pipeline hrf-finetune",
            fix="name one that `hrf submit` or a schedule of it has started",
        )
    if run.state == "SUCCEEDED":
        raise ClusterError(
            cluster.host,
            problem=f"run {run.run_id} has succeeded",
            fix="there is nothing to resume; start another run",
        )
    # Of a run that it has lost, Kubeflow says for ever that it is running; its exit step has said how it ended.
    if run.state not in FINAL and end_of(run, fetch_records(run)) is None:
        raise ClusterError(
            cluster.host,
            problem=f"run {run.run_id} is still {str(run.state or 'pending').lower()}",
            fix="wait for its end, or terminate it in the UI: two attempts at once would do the same work twice",
        )


def _started(run: Any, parameters: dict[str, Any]) -> RunStart | None:
    """What the run's first step has put on record; None where it never ran, or the bucket can't be read from here."""
    try:
        storage = Storage.open(str(parameters["storage"]), attempts=1)
        for name in names_in_bucket(run):
            records = RunRecords(storage=storage, experiment=str(parameters["experiment"]), run_id=name)
            if (found := records.started()) is not None:
                return found
    except HrfError:
        return None
    return None
