"""The fine-tuning pipeline: prepare, baseline, one sub-pipeline per epoch, summarize."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Model
from kfp.dsl.base_component import BaseComponent

from components.baseline import baseline
from components.prepare import prepare
from components.summarize import summarize
from hrf.config import Config
from pipelines.epoch import build_epochs
from pipelines.overrides import lay_over
from pipelines.placement import Images, place
from pipelines.plan import EpochStep, check_task_budget, count_tasks, plan_epochs


class RunOutputs(NamedTuple):
    """What a run ends in."""

    report: HTML
    summary: Artifact
    policy: Model


def build(config: Config, *, preset: str = "", overrides: str = "", images: Images | None = None) -> BaseComponent:
    """Make the fine-tuning pipeline of a configuration.

    The number of epochs, how many a step trains and which are evaluated are fixed here; everything else is read from
    the run's parameters when it runs. `prepare` refuses a run whose configuration has another number of epochs.

    Args:
        config: The resolved configuration that the pipeline is shaped by.
        preset: Default of the parameter of the same name.
        overrides: Default of the parameter of the same name. With neither, the whole configuration is the default.
        images: The image of each role.

    Returns:
        A pipeline that can be compiled.

    Raises:
        ConfigError: The run would have more tasks than a cluster can hold.
    """
    steps = plan_epochs(config)
    check_task_budget(count_tasks(steps))
    placed = images or Images.from_environment()
    epochs = build_epochs(steps, placed)
    # In one line: Kubeflow's compiler writes defaults into a comment, which a second line would end.
    default_overrides = lay_over(overrides, {} if preset or overrides else config.to_mapping())

    @dsl.pipeline(name="hrf-finetune", description="Fine-tune a diffusion model on a reward, window by window.")
    def finetune(
        preset: str = preset,
        overrides: str = default_overrides,
        start_from: str = "",
        experiment: str = "default",
        storage: str = "s3://hrf",
        run_tag: str = "",
    ) -> RunOutputs:
        """Fine-tune a diffusion model on a reward, window by window.

        Args:
            preset: Name of a preset, where every value starts from. Empty: overrides is a whole configuration.
            overrides: YAML laid over the preset, such as {update: {learning_rate: 5e-5}}. Not for run.epochs.
            start_from: promoted, base, or empty for what the configuration says.
            experiment: Runs of one experiment share a promoted model.
            storage: Where candidates and the promoted model are kept, as s3://bucket/prefix.
            run_tag: The run's own id. Empty: Kubeflow's. Use it once only; a schedule adds its time to it.
        """
        parameters = {"preset": preset, "overrides": overrides, "start_from": start_from}
        return add_run(
            {**parameters, "experiment": experiment, "storage": storage, "run_tag": run_tag},
            config=config,
            epochs=epochs,
            images=placed,
        )

    return finetune


def add_run(
    parameters: Mapping[str, Any],
    *,
    config: Config,
    epochs: Sequence[tuple[EpochStep, Callable[..., Any]]],
    images: Images,
    name: str = "",
) -> RunOutputs:
    """Add one whole run, from `prepare` to `summarize`, to the pipeline that is being built.

    Args:
        parameters: What `prepare` is told, without the pipeline's shape and Kubeflow's id.
        config: What the pipeline is compiled for: `prepare` refuses a run of another shape.
        epochs: The plan of its epochs, with their sub-pipelines.
        images: The image of each role.
        name: Set before the display names, where a pipeline has several runs.

    Returns:
        Its report, its summary and its last policy.
    """
    prefix = f"{name}: " if name else ""
    shape = {
        "num_epochs": config.run.epochs,
        "epochs_per_step": config.run.epochs_per_step,
        "evaluate_every": config.evaluation.every,
    }
    task = prepare(job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **shape, **parameters)
    prepared = place(task, "worker", images).set_display_name(f"{prefix}prepare").outputs
    settled = {"run": prepared["run"], "base": prepared["base"]}
    task = place(baseline(policy=prepared["policy"], **settled), "worker", images)
    measured = task.set_display_name(f"{prefix}baseline").outputs["baseline"]
    current = {key: prepared[key] for key in ("policy", "training_state", "history")}
    for step, epoch_pipeline in epochs:
        numbers = {"epoch": step.first_epoch, "last_epoch": step.last_epoch, "num_epochs": step.num_epochs}
        epoch = epoch_pipeline(baseline=measured, **numbers, **settled, **current)
        epoch.set_display_name(f"{prefix}{step.label}").set_caching_options(enable_caching=False)
        current = {key: epoch.outputs[key] for key in current}
    task = place(summarize(run=prepared["run"], baseline=measured, history=current["history"]), "control", images)
    summarized = task.set_display_name(f"{prefix}summarize").outputs
    return RunOutputs(report=summarized["report"], summary=summarized["summary"], policy=current["policy"])
