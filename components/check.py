"""The component `check`."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def check(
    preset: str,
    overrides: str,
    learning_rate: float,
    seed: int,
    num_epochs: int,
    epochs_per_step: int,
    evaluate_every: int,
    steered: bool,
    replicas: int,
    experiment: str,
    run_tag: str,
    job_id: str,
    start_from: str,
    noise_tag: str,
    storage: str,
) -> NamedTuple("Run", [("run_id", str), ("source", str), ("revision", str), ("version", str)]):
    """Refuse within seconds what can't work, and settle what the run is.

    It returns parameters and no artifact: a step is answered from Kubeflow's cache only if the artifacts that it is
    given are the same ones, and this step is computed again by each attempt.

    Args:
        preset: Name of a preset; empty if `overrides` is a whole configuration.
        overrides: YAML that is laid over the preset.
        learning_rate: Instead of `update.learning_rate`; 0 leaves it.
        seed: Instead of `run.seed`; -1 leaves it.
        num_epochs: How many epochs the pipeline was compiled for; the configuration must say the same.
        epochs_per_step: How many of them a step trains; likewise.
        evaluate_every: How often the pipeline evaluates; likewise.
        steered: Whether the pipeline holds the run above a diversity floor; likewise.
        replicas: How many chains of epochs it trains; likewise.
        experiment: Runs of one experiment share a promoted model.
        run_tag: The run's id; empty takes Kubeflow's.
        job_id: Kubeflow's id of this run.
        start_from: `promoted`, `base`, or `as configured`.
        noise_tag: Makes the training noise another one than that of runs with the same seed and start; may be empty.
        storage: Where candidates and the promoted model live, as s3://bucket/prefix.

    Returns:
        The run's id; and the base model's source and revision, and what changes whenever its files may have.
    """
    from hrf.promotion.run_ids import fill_macros, settle_run_id
    from hrf.steps.check import check as step

    facts = step(
        preset=preset,
        overrides=overrides,
        learning_rate=learning_rate,
        seed=seed,
        num_epochs=num_epochs,
        epochs_per_step=epochs_per_step,
        evaluate_every=evaluate_every,
        steered=steered,
        replicas=replicas,
        experiment=experiment,
        run_id=settle_run_id(run_tag, job_id),
        start_from=start_from,
        noise_tag=fill_macros(noise_tag, job_id),
        storage=storage,
    )
    return (facts["run_id"], facts["source"], facts["revision"], facts["version"])
