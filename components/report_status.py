"""The component `report_status`."""

from kfp import dsl
from kfp.dsl import HTML, Output


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def report_status(
    experiments: str,
    run_tag: str,
    job_id: str,
    storage: str,
    status: dsl.PipelineTaskFinalStatus,
    page: Output[HTML],
) -> None:
    """Tell how the run ended and what its steps said of their failures; runs whatever became of it.

    Args:
        experiments: Whose steps may have failed, separated by commas; the record is kept with the first.
        run_tag: The run's id; empty takes Kubeflow's.
        job_id: Kubeflow's id of this run.
        storage: Where candidates and the promoted model live, as s3://bucket/prefix.
        status: How the run ended, which Kubeflow fills in.
        page: The same for people: state, failures, where in the code.
    """
    from hrf.promotion.run_ids import settle_run_id
    from hrf.steps.report_status import report_status as step

    step(
        experiments=experiments,
        run_id=settle_run_id(run_tag, job_id),
        storage=storage,
        state=status.state,
        error_code=int(status.error_code or 0),
        error_message=status.error_message or "",
        kubeflow_run=status.pipeline_job_resource_name,
        page=page.path,
    )
