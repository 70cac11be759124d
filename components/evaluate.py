"""The component `evaluate`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward:latest", install_kfp_package=False)
def evaluate(
    epoch: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    baseline: Input[Artifact],
    history: Input[Artifact],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """Measure the candidate on the fixed seeds, against the base.

    Args:
        epoch: The epoch, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that this step is given.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        history: The records of the epochs so far, this one's update included.
        evaluation: The candidate measured on the fixed seeds.
        metrics: The step's numbers, for the run's page.
        page: The sample grid and the main numbers.
    """
    from pathlib import Path

    from components.outputs import record
    from hrf.report import render_evaluation
    from hrf.steps.evaluate import evaluate as step

    facts = step(
        epoch=epoch,
        run=run.path,
        base=base.path,
        policy=policy.path,
        baseline=baseline.path,
        history=history.path,
        evaluation=evaluation.path,
    )
    record(facts, metrics=metrics, outputs=[evaluation], parents=[run, base, policy, baseline, history], epoch=epoch)
    Path(page.path).write_text(render_evaluation(Path(evaluation.path)), encoding="utf-8")
