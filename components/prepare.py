"""The component `prepare`."""

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Model, Output


@dsl.component(base_image="hrf-worker:latest", install_kfp_package=False)
def prepare(
    preset: str,
    overrides: str,
    num_epochs: int,
    epochs_per_step: int,
    evaluate_every: int,
    experiment: str,
    run_tag: str,
    job_id: str,
    start_from: str,
    storage: str,
    run: Output[Artifact],
    base: Output[Model],
    policy: Output[Model],
    training_state: Output[Model],
    history: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Check the configuration and settle what the run is, before anything costs time.

    Args:
        preset: Name of a preset; empty if `overrides` is a whole configuration.
        overrides: YAML that is laid over the preset.
        num_epochs: How many epochs the pipeline was compiled for; the configuration must say the same.
        epochs_per_step: How many of them a step trains; likewise.
        evaluate_every: How often the pipeline evaluates; likewise.
        experiment: Runs of one experiment share a promoted model.
        run_tag: The run's id; empty takes Kubeflow's.
        job_id: Kubeflow's id of this run.
        start_from: `promoted`, `base`, or empty for what the configuration says.
        storage: Where candidates and the promoted model live, as s3://bucket/prefix.
        run: What the run is: configuration, seeds, where it starts.
        base: The pretrained model, frozen.
        policy: The model that training starts from.
        training_state: Fresh optimizer moments and counters.
        history: An empty history.
        metrics: The step's numbers, for the run's page.
    """
    from components.outputs import record
    from hrf.steps.prepare import prepare as step

    facts = step(
        preset=preset,
        overrides=overrides,
        num_epochs=num_epochs,
        epochs_per_step=epochs_per_step,
        evaluate_every=evaluate_every,
        experiment=experiment,
        run_id=run_tag or job_id,
        start_from=start_from,
        storage=storage,
        run=run.path,
        base=base.path,
        policy=policy.path,
        training_state=training_state.path,
        history=history.path,
    )
    record(facts, metrics=metrics, outputs=[run, base, policy, training_state, history])
