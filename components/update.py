"""The component `update`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def update(
    epoch: int,
    replica: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    training_state: Input[Model],
    trajectories: Input[Dataset],
    scores: Input[Dataset],
    new_policy: Output[Model],
    new_training_state: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Train the policy on the scored branches.

    Args:
        epoch: The epoch, counted from 0.
        replica: The chain of epochs that it belongs to, counted from 0; each has noise of its own.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that sampled.
        training_state: Optimizer moments and counters that belong to the policy.
        trajectories: The recorded tails of the branches.
        scores: One reward per branch.
        new_policy: The policy after this step, with the records of its training.
        new_training_state: Optimizer moments and counters after this step.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.update import update as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        replica=replica,
        run=run.path,
        base=base.path,
        policy=policy.path,
        training_state=training_state.path,
        trajectories=trajectories.path,
        scores=scores.path,
        new_policy=new_policy.path,
        new_training_state=new_training_state.path,
    )
    record(facts, metrics=metrics, outputs=[new_policy, new_training_state], epoch=epoch)
