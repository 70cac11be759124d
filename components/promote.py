"""The component `promote`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-control:latest", install_kfp_package=False)
def promote(
    epoch: int,
    run: Input[Artifact],
    policy: Input[Model],
    baseline: Input[Artifact],
    evaluation: Input[Artifact],
    history: Input[Artifact],
    new_history: Output[Artifact],
    decision: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Let the gate decide, and move the promoted pointer if the candidate passes.

    Args:
        epoch: The epoch, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        policy: The policy that this step is given.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        evaluation: The candidate measured on the fixed seeds.
        history: The records of the epochs so far.
        new_history: The history with this step's record added.
        decision: What the gate decided, with every number it was taken on.
        metrics: The step's numbers, for the run's page.
    """
    from components.outputs import record
    from hrf.steps.promote import promote as step

    facts = step(
        epoch=epoch,
        run=run.path,
        policy=policy.path,
        baseline=baseline.path,
        evaluation=evaluation.path,
        history=history.path,
        new_history=new_history.path,
        decision=decision.path,
    )
    record(
        facts,
        metrics=metrics,
        outputs=[new_history, decision],
        parents=[run, policy, baseline, evaluation, history],
        epoch=epoch,
    )
