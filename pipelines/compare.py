"""The comparison pipeline: several presets from the same base, seeds and budget, side by side in one report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact
from kfp.dsl.base_component import BaseComponent

from components.compare import compare
from hrf.config import Config, resolve
from hrf.errors import ConfigError
from pipelines.epoch import build_epochs
from pipelines.finetune import add_run
from pipelines.overrides import lay_over
from pipelines.placement import Images, place
from pipelines.plan import check_task_budget, count_tasks, plan_epochs

#: Slots of the component `compare`.
MOST_ARMS = 6
#: An arm is evaluated this often at most: enough for a curve, few enough for one package.
MOST_POINTS = 6
#: What arms must agree on for their numbers to be comparable.
SHARED_SECTIONS = ("model", "sampler", "reward", "evaluation", "gate")


class CompareOutputs(NamedTuple):
    """What a comparison ends in."""

    report: HTML
    summary: Artifact


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of a comparison."""

    preset: str
    """Its preset, and its name."""
    overrides: str
    """What is laid over the preset: the shared overrides, and the length that the budget buys."""
    config: Config
    """The result."""


def plan_arm(preset: str, *, overrides: str, budget: int, evaluations_per_epoch: Callable[[Config], float]) -> Arm:
    """Find out how many epochs of a preset a budget buys, and split them into few steps.

    Args:
        preset: Name of a preset.
        overrides: YAML laid over it, the same for all arms.
        budget: Denoiser evaluations: a forward pass counts 1, a forward and backward pass 3.
        evaluations_per_epoch: Expected cost of an epoch of a configuration, in the same unit.

    Returns:
        The arm, always from the base: what was promoted before is not the same start for all.

    Raises:
        ConfigError: The budget does not buy one epoch, or the configuration is not valid at this length.
    """
    cost = evaluations_per_epoch(resolve(preset, overrides))
    affordable = int(budget // cost)
    if affordable < 1:
        raise ConfigError(
            "budget",
            expected=f"at least {cost:.0f}, one epoch of {preset}",
            got=budget,
            fix="raise --budget or leave this preset out",
        )
    points = _points(affordable)
    per_step = affordable // points
    run = {
        "epochs": per_step * points,
        "epochs_per_step": per_step,
        "start_from": "base",
    }
    merged = lay_over(overrides, {"run": run, "evaluation": {"every": per_step}})
    return Arm(preset=preset, overrides=merged, config=resolve(preset, merged))


def build(arms: list[Arm], *, images: Images | None = None) -> BaseComponent:
    """Make the pipeline that runs all arms and compares them.

    Args:
        arms: Two to six, with different presets.
        images: The image of each role.

    Returns:
        A pipeline that can be compiled.

    Raises:
        ConfigError: Too few or too many arms, arms that can't be compared, or too many tasks.
    """
    _check_comparable(arms)
    plans = [plan_epochs(arm.config) for arm in arms]
    check_task_budget(1 + sum(count_tasks(plan) for plan in plans))
    placed = images or Images.from_environment()
    epochs = [build_epochs(plan, placed) for plan in plans]

    @dsl.pipeline(name="hrf-compare", description="Train several presets on the same budget and compare them.")
    def comparison(experiment: str = "compare", storage: str = "s3://hrf", run_tag: str = "") -> CompareOutputs:
        """Train several presets from the same base, on the same seeds and budget, and compare them.

        Args:
            experiment: Each arm's promoted model is kept under this name and the arm's.
            storage: Where candidates and promoted models are kept, as s3://bucket/prefix.
            run_tag: The run's own id. Empty: Kubeflow's. Use it once only.
        """
        summaries = {}
        for slot, (arm, arm_epochs) in enumerate(zip(arms, epochs, strict=True), start=1):
            parameters = {
                "preset": arm.preset,
                "overrides": arm.overrides,
                "start_from": "base",
                "experiment": f"{experiment}-{arm.preset}",
                "storage": storage,
                "run_tag": run_tag,
            }
            outputs = add_run(parameters, epochs=arm_epochs, images=placed, name=arm.preset)
            summaries[f"arm_{slot}"] = outputs.summary
        names = ",".join(arm.preset for arm in arms)
        task = place(compare(names=names, **summaries), "control", placed).set_display_name("compare")
        return CompareOutputs(report=task.outputs["report"], summary=task.outputs["summary"])

    return comparison


def _points(epochs: int) -> int:
    """The number of equal steps, 3 to 6 where there are that many epochs, that leaves the fewest epochs out."""
    candidates = range(min(3, epochs), min(MOST_POINTS, epochs) + 1)
    return max(candidates, key=lambda points: (epochs // points * points, points))


def _check_comparable(arms: list[Arm]) -> None:
    if not 2 <= len(arms) <= MOST_ARMS:
        raise ConfigError("presets", expected=f"2 to {MOST_ARMS} presets", got=len(arms), fix="name that many")
    if len({arm.preset for arm in arms}) < len(arms):
        raise ConfigError(
            "presets", expected="different presets", got=[arm.preset for arm in arms], fix="name each once"
        )
    first, *others = arms
    for arm in others:
        for section in SHARED_SECTIONS:
            if getattr(arm.config, section) != getattr(first.config, section):
                raise ConfigError(
                    section,
                    expected=f"the same in {first.preset} and {arm.preset}",
                    got="different values",
                    fix=f"compare presets with the same {section}, or set it for all with --set {section}.FIELD=VALUE",
                )
