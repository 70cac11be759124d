"""The component `train`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward:latest", install_kfp_package=False)
def train(
    epoch: int,
    num_epochs: int,
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
    """Sample, score and update for several epochs in one step.

    Args:
        epoch: The epoch, counted from 0.
        num_epochs: How many epochs.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that this step is given.
        training_state: Optimizer moments and counters that belong to the policy.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        history: The records of the epochs so far.
        new_policy: The model after this step.
        new_training_state: Optimizer moments and counters after this step.
        new_history: The history with this step's record added.
        metrics: The step's numbers, for the run's page.
    """
    from components.outputs import record
    from hrf.steps.train import train as step

    facts = step(
        epoch=epoch,
        num_epochs=num_epochs,
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
        parents=[run, base, policy, training_state, baseline, history],
        epoch=epoch,
    )
