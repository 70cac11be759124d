"""The component `train`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward", install_kfp_package=False)
def train(
    epoch: int,
    num_epochs: int,
    replica: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    training_state: Input[Model],
    baseline: Input[Artifact],
    new_policy: Output[Model],
    new_training_state: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Sample, score and update for several epochs in one step; the same numbers as in steps of their own.

    Args:
        epoch: The first epoch, counted from 0.
        num_epochs: How many epochs.
        replica: The chain of epochs that they belong to, counted from 0; each has noise of its own.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that training goes on from.
        training_state: Optimizer moments and counters that belong to the policy.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        new_policy: The policy after this step, with the records of its training.
        new_training_state: Optimizer moments and counters after this step.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.train import train as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        num_epochs=num_epochs,
        replica=replica,
        run=run.path,
        base=base.path,
        policy=policy.path,
        training_state=training_state.path,
        baseline=baseline.path,
        new_policy=new_policy.path,
        new_training_state=new_training_state.path,
    )
    record(facts, metrics=metrics, outputs=[new_policy, new_training_state], epoch=epoch + num_epochs - 1)
