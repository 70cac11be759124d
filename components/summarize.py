"""The component `summarize`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Output


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def summarize(
    run: Input[Artifact],
    baseline: Input[Artifact],
    history: Input[Artifact],
    report: Output[HTML],
    summary: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Turn the run's records into one report and one table of numbers.

    Args:
        run: What `prepare` settled: configuration, seeds, where the run started.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        history: The records of the epochs so far.
        report: The report, one self-contained page.
        summary: The whole run as data: `summary.json` and the sample grids.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.summarize import summarize as step
    from hrf_components.outputs import record

    facts = step(
        run=run.path,
        baseline=baseline.path,
        history=history.path,
        report=report.path,
        summary=summary.path,
    )
    record(facts, metrics=metrics, outputs=[report, summary])
