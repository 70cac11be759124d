"""The component `prepare`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output


@dsl.component(base_image="hrf-reward", install_kfp_package=False)
def prepare(
    preset: str,
    overrides: str,
    learning_rate: float,
    seed: int,
    experiment: str,
    run_id: str,
    storage: str,
    base: Input[Model],
    run: Output[Artifact],
    policy: Output[Model],
    training_state: Output[Model],
) -> None:
    """Put together what the run works with, and check it against the model.

    Args:
        preset: Name of a preset; empty if `overrides` is a whole configuration.
        overrides: YAML that is laid over the preset.
        learning_rate: Instead of `update.learning_rate`; 0 leaves it.
        seed: Instead of `run.seed`; -1 leaves it.
        experiment: Runs of one experiment share a promoted model.
        run_id: The run's id.
        storage: Where candidates and the promoted model live, as s3://bucket/prefix.
        base: The pretrained model, frozen.
        run: What the run is: configuration, seeds, where it starts.
        policy: The model that training starts from.
        training_state: Fresh optimizer moments and counters.
    """
    from hrf.steps.prepare import prepare as step
    from hrf_components.outputs import record

    facts = step(
        preset=preset,
        overrides=overrides,
        learning_rate=learning_rate,
        seed=seed,
        experiment=experiment,
        run_id=run_id,
        storage=storage,
        base=base.path,
        run=run.path,
        policy=policy.path,
        training_state=training_state.path,
    )
    record(facts, outputs=[run, policy, training_state])
