"""The comparison pipeline: several presets from the same base, seeds and budget, side by side in one report."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from hrf.config import Config, resolve
from hrf.config.overrides import lay_over
from hrf.errors import ConfigError
from hrf.steps.check import PRESETS_SEED
from hrf_components.compare import compare
from hrf_pipelines.epoch import build_epoch
from hrf_pipelines.finetune import GROUP, add_run, add_status
from hrf_pipelines.placement import Images, Placement, Site
from hrf_pipelines.plan import check_task_budget, count_tasks, plan_epochs

#: Of the parameters that a run of its own has beside its overrides: nothing.
AS_THE_PRESET = {"learning_rate": 0.0, "seed": PRESETS_SEED}
#: Slots of the component `compare`.
MOST_ARMS = 6
#: An arm is evaluated this often at most: enough for a curve, few enough for one package.
MOST_POINTS = 6


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of a comparison."""

    preset: str
    """Its preset, and its name."""
    overrides: str
    """What is laid over the preset: the shared overrides, and the length that the budget buys."""
    config: Config
    """The result."""


def plan_arm(preset: str, *, overrides: str, budget: int, evaluations: Callable[[Config], float]) -> Arm:
    """Find out how many epochs of a preset a budget buys, and split them into few steps.

    Args:
        preset: Name of a preset.
        overrides: YAML laid over it, the same for all arms.
        budget: Denoiser evaluations: a forward pass counts 1, a forward and backward pass 3.
        evaluations: Expected cost of all epochs of a configuration, in the same unit.

    Returns:
        The arm, always from the base: what was promoted before is not the same start for all.

    Raises:
        ConfigError: The budget does not buy one epoch, or the configuration is not valid at this length.
    """

    def of_length(epochs: int, per_step: int = 1) -> Arm:
        run = {"epochs": epochs, "epochs_per_step": per_step, "start_from": "base"}
        merged = lay_over(overrides, {"run": run, "evaluation": {"every": per_step}})
        return Arm(preset=preset, overrides=merged, config=resolve(preset, merged))

    one = evaluations(of_length(1).config)
    if one > budget:
        raise ConfigError(
            "budget",
            expected=f"at least {one:.0f}, the cost of one epoch of {preset}",
            got=budget,
            fix="raise --budget or leave this preset out",
        )
    # Windows move, so epochs differ in cost: the first guess is put right from both sides.
    affordable = max(1, int(budget // one))
    while affordable > 1 and evaluations(of_length(affordable).config) > budget:
        affordable -= 1
    while evaluations(of_length(affordable + 1).config) <= budget:
        affordable += 1
    points = _points(affordable)
    per_step = affordable // points
    return of_length(per_step * points, per_step)


def total_evaluations(config: Config, model_folder: Path) -> float:
    """Expected cost of all epochs of a run, and of its prefix pool; arguments as of `evaluations_by_epoch`."""
    return evaluations_by_epoch(config, model_folder)[-1]


def evaluations_by_epoch(config: Config, model_folder: Path) -> list[float]:
    """Expected cost of a run after each of its epochs, its prefix pool included.

    Args:
        config: The run's configuration.
        model_folder: Its base model, whose noise schedule says which steps are trained.
    """
    from hrf.planning.cost import expected_epoch_evaluations, pool_evaluations
    from hrf.policies.components import scheduler_config
    from hrf.policies.folders import noise_schedule

    schedule = noise_schedule(scheduler_config(model_folder), config)
    epochs = (expected_epoch_evaluations(config, schedule, epoch) for epoch in range(config.run.epochs))
    return list(accumulate(epochs, initial=pool_evaluations(config)))[1:]


def build(arms: list[Arm], *, images: Images | None = None, placement: Placement | None = None) -> BaseComponent:
    """Make the pipeline that runs all arms and compares them.

    Args:
        arms: Two to six, with different presets.
        images: The image of each role.
        placement: Resources; by default none.

    Returns:
        A pipeline that can be compiled.

    Raises:
        ConfigError: Too few or too many arms, arms that can't be compared, or too many tasks.
    """
    check_comparable(arms)
    plans = [plan_epochs(arm.config, few_tasks=True) for arm in arms]
    check_task_budget(1 + sum(count_tasks(plan) for plan in plans))
    sites = [Site.of(arm.config, images, placement) for arm in arms]
    epochs = [build_epoch(plan, site) for plan, site in zip(plans, sites, strict=True)]

    @dsl.pipeline(name="hrf-compare", description="Train several presets on the same budget and compare them.")
    def comparison(experiment: str = "compare", storage: str = "s3://hrf", run_tag: str = "") -> None:
        """Train several presets from the same base, on the same seeds and budget, and compare them.

        Args:
            experiment: Each arm's promoted model is kept under this name and the arm's.
            storage: Where candidates and promoted models are kept, as s3://bucket/prefix.
            run_tag: The run's own id. Empty: Kubeflow's. Use it once only.
        """
        site = sites[0]
        kept = {"storage": storage, "run_tag": run_tag}
        experiments = {arm.preset: f"{experiment}-{arm.preset}" for arm in arms}
        everywhere = ",".join([f"{experiment}", *experiments.values()])
        with dsl.ExitHandler(add_status(site, experiments=everywhere, **kept), name=GROUP):
            summaries = {}
            for slot, (arm, plan, epoch, arm_site) in enumerate(zip(arms, plans, epochs, sites, strict=True), start=1):
                configured = {"preset": arm.preset, "overrides": arm.overrides, **AS_THE_PRESET}
                place = {"experiment": experiments[arm.preset], "storage": storage}
                summaries[f"arm_{slot}"] = add_run(
                    {**configured, **place},
                    {"run_tag": run_tag, "noise_tag": "", "start_from": "base"},
                    config=arm.config,
                    steps=plan,
                    epoch=epoch,
                    site=arm_site,
                    name=arm.preset,
                )
            names = ",".join(arm.preset for arm in arms)
            site.place(compare(names=names, **summaries), "compare")

    return comparison


def _points(epochs: int) -> int:
    """The number of equal steps, 3 to 6 where there are that many epochs, that leaves the fewest epochs out."""
    candidates = range(min(3, epochs), min(MOST_POINTS, epochs) + 1)
    return max(candidates, key=lambda points: (epochs // points * points, points))


def check_comparable(arms: list[Arm]) -> None:
    """Refuse arms whose numbers would not be comparable.

    Raises:
        ConfigError: They differ in model, sampler, reward, evaluation or gate; or there are too few or too many.
    """
    if not 2 <= len(arms) <= MOST_ARMS:
        raise ConfigError("presets", expected=f"2 to {MOST_ARMS} presets", got=len(arms), fix="name that many")
    if len({arm.preset for arm in arms}) < len(arms):
        raise ConfigError(
            "presets", expected="different presets", got=[arm.preset for arm in arms], fix="name each once"
        )
    first, *others = arms
    for arm in others:
        for section, value in _measured(first.config).items():
            if _measured(arm.config)[section] != value:
                raise ConfigError(
                    section,
                    expected=f"the same in {first.preset} and {arm.preset}",
                    got="different values",
                    fix=f"compare presets with the same {section}, or set it for all with --set",
                )


def _measured(config: Config) -> dict[str, object]:
    """What arms must agree on, by field, for their numbers to be comparable."""
    return {
        "model.source": (config.model.source, config.model.revision, config.model.forward_dtype),
        "sampler": (config.sampler.steps, config.sampler.spacing),
        "reward": config.reward,
        "evaluation": config.evaluation.model_dump(exclude={"every"}),
        "gate": (config.gate_floor, config.gate.monitors),
    }
