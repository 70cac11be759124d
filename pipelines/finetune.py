"""The fine-tuning pipeline: check, fetch, prepare, baseline, one sub-pipeline per epoch, summarize; and its status."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.baseline import baseline
from components.check import check
from components.fetch import fetch
from components.prepare import prepare
from components.report_status import report_status
from components.summarize import summarize
from hrf.config import Config
from pipelines.epoch import build_epochs
from pipelines.overrides import lay_over
from pipelines.placement import Images, Placement, Site, check_shards
from pipelines.plan import EpochStep, check_task_budget, count_tasks, plan_epochs

#: Runs the last task whatever became of the others; the UI shows it as one group.
GROUP = "run"


def build(
    config: Config,
    *,
    preset: str = "",
    overrides: str = "",
    images: Images | None = None,
    placement: Placement | None = None,
) -> BaseComponent:
    """Make the fine-tuning pipeline of a configuration.

    The number of epochs, how many a step trains and which are evaluated are fixed here; everything else is read from
    the run's parameters when it runs. `check` refuses a run whose configuration has another number of epochs.

    Args:
        config: The resolved configuration that the pipeline is shaped by.
        preset: Default of the parameter of the same name.
        overrides: Default of the parameter of the same name. With neither, the whole configuration is the default.
        images: The image of each role.
        placement: Resources and shards; by default none, and one.

    Returns:
        A pipeline that can be compiled.

    Raises:
        ConfigError: The run would have more tasks than a cluster can hold, or more shards than it has roots.
    """
    site = Site.of(config, images, placement)
    check_shards(site.placement, config)
    steps = plan_epochs(config, num_shards=site.placement.shards)
    check_task_budget(count_tasks(steps))
    epochs = build_epochs(steps, site)
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
        noise_tag: str = "",
    ) -> None:
        """Fine-tune a diffusion model on a reward, window by window.

        Args:
            preset: Name of a preset, where every value starts from. Empty: overrides is a whole configuration.
            overrides: YAML laid over the preset, such as {update: {learning_rate: 5e-5}}. Not for run.epochs.
            start_from: promoted, base, or empty for what the configuration says.
            experiment: Runs of one experiment share a promoted model.
            storage: Where candidates and the promoted model are kept, as s3://bucket/prefix.
            run_tag: The run's own id. Empty: Kubeflow's. Use it once only; a schedule adds its time to it.
            noise_tag: Draws other training noise than runs with the same seed and start. A schedule gives its time.
        """
        parameters = {"preset": preset, "overrides": overrides, "start_from": start_from, "noise_tag": noise_tag}
        kept = {"storage": storage, "run_tag": run_tag}
        with dsl.ExitHandler(add_status(site, experiments=experiment, **kept), name=GROUP):
            add_run({**parameters, **kept, "experiment": experiment}, config=config, epochs=epochs, site=site)

    return finetune


def add_status(site: Site, *, experiments: Any, storage: Any, run_tag: Any) -> Any:
    """Add the exit task: it stores how the run ended, with the failures that its steps have written down.

    Args:
        site: Where it runs.
        experiments: Whose steps may fail, separated by commas.
        storage: As of the pipeline.
        run_tag: As of the pipeline.
    """
    job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    task = report_status(experiments=experiments, run_tag=run_tag, job_id=job_id, storage=storage)
    return site.place(task, "report_status")


def add_run(
    parameters: Mapping[str, Any],
    *,
    config: Config,
    epochs: Sequence[tuple[EpochStep, Callable[..., Any]]],
    site: Site,
    name: str = "",
) -> Any:
    """Add one whole run, from `check` to `summarize`, to the pipeline that is being built.

    Args:
        parameters: What `check` is told, without the pipeline's shape and Kubeflow's id.
        config: What the pipeline is compiled for: `check` refuses a run of another shape.
        epochs: The plan of its epochs, with their sub-pipelines.
        site: Where the tasks run.
        name: Set before the display names, where a pipeline has several runs.

    Returns:
        The output `summary` of its last task.
    """
    prefix = f"{name}: " if name else ""
    shape = {
        "num_epochs": config.run.epochs,
        "epochs_per_step": config.run.epochs_per_step,
        "evaluate_every": config.evaluation.every,
        "steered": config.diversity_floor is not None,
    }
    task = check(job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **shape, **parameters)
    asked = site.place(task, "check", prefix=prefix).outputs
    task = fetch(source=asked["source"], revision=asked["revision"], version=asked["version"])
    base = site.place(task, "fetch", prefix=prefix).outputs["base"]
    prepared = site.place(prepare(request=asked["request"], base=base), "prepare", prefix=prefix).outputs
    settled = {"run": prepared["run"], "base": base}
    task = site.place(baseline(policy=prepared["policy"], **settled), "baseline", prefix=prefix)
    measured = task.outputs["baseline"]
    current = {key: prepared[key] for key in ("policy", "training_state", "history")}
    for step, epoch_pipeline in epochs:
        numbers = {"epoch": step.first_epoch, "last_epoch": step.last_epoch, "num_epochs": step.num_epochs}
        epoch = epoch_pipeline(baseline=measured, **numbers, **settled, **current)
        epoch.set_display_name(f"{prefix}{step.label}").set_caching_options(enable_caching=False)
        current = {key: epoch.outputs[key] for key in current}
    task = summarize(run=prepared["run"], baseline=measured, history=current["history"])
    return site.place(task, "summarize", prefix=prefix).outputs["summary"]
