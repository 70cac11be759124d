"""The fine-tuning pipeline: check, fetch, prepare, baseline, then training and evaluation by turns, and the status."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from hrf.config import Config
from hrf.config.overrides import lay_over
from hrf.steps.check import AS_CONFIGURED, PRESETS_SEED, shape_of
from hrf_components.baseline import baseline
from hrf_components.check import check
from hrf_components.evaluate import evaluate
from hrf_components.fetch import fetch
from hrf_components.merge import merge
from hrf_components.prepare import prepare
from hrf_components.report_status import report_status
from hrf_components.steer import steer
from hrf_components.summarize import summarize
from hrf_pipelines.epoch import TRAINED, Trained, add_training, build_epoch
from hrf_pipelines.forecasting import settle_epochs_per_step
from hrf_pipelines.placement import Placement, Site, check_shards
from hrf_pipelines.plan import EpochStep, check_task_budget, count_tasks, plan_epochs

#: Runs the last task whatever became of the others; the UI shows it as one group.
GROUP = "run"


def build(
    config: Config, *, preset: str = "", overrides: str = "", placement: Placement | None = None
) -> BaseComponent:
    """Make the fine-tuning pipeline of a configuration.

    The number of epochs, how many a step trains and which are evaluated are fixed here; everything else is read from
    the run's parameters when it runs. `check` refuses a run whose configuration has another number of epochs.

    Args:
        config: The resolved configuration that the pipeline is shaped by.
        preset: Default of the parameter of the same name.
        overrides: Default of the parameter of the same name. With neither, the whole configuration is the default.
        placement: Resources and shards; by default none, and one, as on this machine.

    Raises:
        ConfigError: The run would have more tasks than a cluster can hold, or more shards than it has roots.
    """
    # In one line: Kubeflow's compiler writes defaults into a comment, which a second line would end.
    default_overrides = lay_over(overrides, {} if preset or overrides else config.to_mapping())
    config = settle_epochs_per_step(config, placement)
    site = Site.of(config, placement)
    check_shards(site.placement, config)
    steps = plan_epochs(config, num_shards=site.placement.shards)
    check_task_budget(count_tasks(steps))
    epoch_pipeline = build_epoch(steps, site)

    @dsl.pipeline(name="hrf-finetune", description="Fine-tune a diffusion model on a reward, window by window.")
    def finetune(
        preset: str = preset,
        start_from: str = AS_CONFIGURED,
        learning_rate: float = 0.0,
        seed: int = PRESETS_SEED,
        overrides: str = default_overrides,
        experiment: str = "default",
        storage: str = "s3://hrf",
        run_tag: str = "",
        noise_tag: str = "",
    ) -> None:
        """Fine-tune a diffusion model on a reward, window by window.

        Args:
            preset: Name of a preset, where every value starts from. Empty: overrides is a whole configuration.
            start_from: promoted, base, or what the preset says (as configured).
            learning_rate: 0 takes the preset's.
            seed: Of all training noise; -1 takes the preset's.
            overrides: YAML laid over the preset, such as {update: {learning_rate: 5e-5}}. Not for run.epochs.
            experiment: Runs of one experiment share a promoted model.
            storage: Where candidates and the promoted model are kept, as s3://bucket/prefix.
            run_tag: The run's own id. Empty: Kubeflow's. Use it once only; a schedule adds its time to it.
            noise_tag: Draws other training noise than runs with the same seed and start. A schedule gives its time.
        """
        configured = {"preset": preset, "overrides": overrides, "learning_rate": learning_rate, "seed": seed}
        kept = {"experiment": experiment, "storage": storage}
        identity = {"run_tag": run_tag, "noise_tag": noise_tag, "start_from": start_from}
        with dsl.ExitHandler(add_status(site, experiments=experiment, storage=storage, run_tag=run_tag), name=GROUP):
            add_run({**configured, **kept}, identity, config=config, steps=steps, epoch=epoch_pipeline, site=site)

    return finetune


def add_status(site: Site, *, experiments: Any, storage: Any, run_tag: Any) -> Any:
    """Add the exit task: it stores how the run ended, with the failures that its steps have written down."""
    job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    task = report_status(experiments=experiments, run_tag=run_tag, job_id=job_id, storage=storage)
    return site.place(task, "report_status")


@dataclass(frozen=True, kw_only=True)
class Control:
    """Another way to sample what a run trains: measured beside it, with records and a promoted model of its own."""

    name: str
    """Set before the display names."""
    config: Config
    parameters: Mapping[str, Any]
    """As of `add_run`."""
    site: Site


def add_run(
    parameters: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    config: Config,
    steps: Sequence[EpochStep],
    epoch: Callable[..., Any] | None,
    site: Site,
    controls: Sequence[Control] = (),
    fresh_seeds: bool = True,
) -> None:
    """Add one whole run, from `check` to `summarize`, to the pipeline that is being built.

    Args:
        parameters: What `check` and `prepare` are told: of the configuration, and where the run is kept.
        identity: What `check` alone is told: which run it is and from where it starts.
        config: What the pipeline is compiled for: `check` refuses a run of another shape.
        steps: The plan of its epochs.
        epoch: The sub-pipeline of a single epoch, as `build_epoch` made it.
        site: Where the tasks run.
        controls: Other ways to sample what it trains, which are measured whenever it is.
        fresh_seeds: Whether promotions are decided on seeds of their own.
    """
    settled, start = _add_start(parameters, identity, config=config, site=site, prefix="")
    own = _Way(site=site, prefix="", settled=settled)
    ways = [own, *(_add_control(control, identity, base=settled["base"]) for control in controls)]
    chains, earlier = [start] * config.run.replicas, list[Any]()
    for step in steps:
        for replica, current in enumerate(chains):
            task, chains[replica] = add_training(step, epoch, site, replica=replica, **settled, **current)
            if earlier and not site.on_cluster:
                # A cluster trains all replicas at a time, and evaluates meanwhile. One machine does one thing at a
                # time: the evaluation, then one replica after another.
                task.after(*earlier)
            earlier = [task] if len(chains) > 1 else []
        if step.evaluated:
            policies = [current["policy"] for current in chains]
            candidate = policies[0] if len(chains) == 1 else _add_merging(step, site, policies, run=settled["run"])
            earlier = [_add_judging(way, step, candidate, fresh_seeds) for way in ways]
        if step.steered:
            # Under a floor there is one replica.
            task = steer(epoch=step.last_epoch, **settled, **chains[0], **own.history)
            task = site.place(task, "steer")
            task.set_display_name(f"epoch {step.last_epoch}: steer")
            chains = [{key: task.outputs[output] for key, output in zip(Trained._fields, TRAINED, strict=True)}]
            own.history = {"history": task.outputs["new_history"]}
    for way in ways:
        task = summarize(run=way.settled["run"], baseline=way.settled["baseline"], **way.history)
        way.site.place(task, "summarize", prefix=way.prefix)


@dataclass(kw_only=True)
class _Way:
    """A way in which a run's weights are sampled and measured: its own, or a control's."""

    site: Site
    prefix: str
    settled: Mapping[str, Any]
    """Artifacts that stay as they are."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """The records of what was measured so far, once there are some."""


def _add_start(
    parameters: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    config: Config,
    site: Site,
    prefix: str,
    base: Any = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add what comes before the first epoch; returns the artifacts that stay, and those to train from."""
    task = check(job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **shape_of(config), **parameters, **identity)
    asked = site.place(task, "check", prefix=prefix).outputs
    if base is None:
        task = fetch(source=asked["source"], revision=asked["revision"], version=asked["version"])
        base = site.place(task, "fetch", prefix=prefix).outputs["base"]
    task = prepare(run_id=asked["run_id"], base=base, **parameters)
    prepared = site.place(task, "prepare", prefix=prefix).outputs
    settled = {"run": prepared["run"], "base": base}
    task = site.place(baseline(policy=prepared["policy"], **settled), "baseline", prefix=prefix)
    settled["baseline"] = task.outputs["baseline"]
    return settled, {key: prepared[key] for key in Trained._fields}


def _add_control(control: Control, identity: Mapping[str, Any], *, base: Any) -> _Way:
    """Add what comes before a control is measured."""
    prefix = f"{control.name}: "
    settled, _ = _add_start(
        control.parameters, identity, config=control.config, site=control.site, prefix=prefix, base=base
    )
    return _Way(site=control.site, prefix=prefix, settled=settled)


def _add_merging(step: EpochStep, site: Site, policies: Sequence[Any], *, run: Any) -> Any:
    """Add the mean of the replicas' weights."""
    named = {f"policy_{replica}": policy for replica, policy in enumerate(policies)}
    task = site.place(merge(epoch=step.last_epoch, run=run, **named), "merge")
    task.set_display_name(f"epoch {step.last_epoch}: merge")
    return task.outputs["new_policy"]


def _add_judging(way: _Way, step: EpochStep, policy: Any, fresh_seeds: bool) -> Any:
    """Add an evaluation and its decision, which join the history."""
    task = evaluate(epoch=step.last_epoch, policy=policy, fresh_seeds=fresh_seeds, **way.settled, **way.history)
    judged = way.site.place(task, "evaluate", prefix=way.prefix)
    judged.set_display_name(f"{way.prefix}epoch {step.last_epoch}: evaluate and promote")
    way.history = {"history": judged.outputs["new_history"]}
    return judged
