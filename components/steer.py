"""The component `steer`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def steer(
    epoch: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    training_state: Input[Model],
    baseline: Input[Artifact],
    history: Input[Artifact],
    new_policy: Output[Model],
    new_training_state: Output[Model],
    new_history: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Hold the run above its diversity floor: go on, more carefully, from an earlier candidate, or not at all.

    Args:
        epoch: The epoch that was evaluated, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that this step is given.
        training_state: Optimizer moments and counters that belong to the policy.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        history: The records of the epochs so far, with this one's evaluation and decision.
        new_policy: The model that training goes on from.
        new_training_state: Optimizer moments and counters that belong to it, and the factor of the learning rate.
        new_history: The history with this step's record added.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.steer import steer as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        run=run.path,
        base=base.path,
        policy=policy.path,
        training_state=training_state.path,
        baseline=baseline.path,
        history=history.path,
        new_policy=new_policy.path,
        new_training_state=new_training_state.path,
        new_history=new_history.path,
    )
    record(
        facts,
        metrics=metrics,
        outputs=[new_policy, new_training_state, new_history],
        epoch=epoch,
    )
