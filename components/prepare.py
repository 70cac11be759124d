"""The component `prepare`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward:latest", install_kfp_package=False)
def prepare(
    request: Input[Artifact],
    base: Input[Model],
    run: Output[Artifact],
    policy: Output[Model],
    training_state: Output[Model],
    history: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Put together what the run works with, and check it against the model.

    Args:
        request: What is asked for: the configuration, and the candidate that the run starts from.
        base: The pretrained model, frozen.
        run: What the run is: configuration, seeds, where it starts.
        policy: The model that training starts from.
        training_state: Fresh optimizer moments and counters.
        history: An empty history.
        metrics: The step's numbers, for the run's page.
    """
    from components.outputs import record
    from hrf.steps.prepare import prepare as step

    facts = step(
        request=request.path,
        base=base.path,
        run=run.path,
        policy=policy.path,
        training_state=training_state.path,
        history=history.path,
    )
    record(facts, metrics=metrics, outputs=[run, policy, training_state, history], parents=[request, base])
