"""The record of an evaluation: what promotion decides on, what reports show, and what every table has. Needs no torch.

`hrf.evaluation.measure` makes it, once; all others read it by attribute. It lies in `evaluation.json` of a candidate
and in `baseline.json` and `start.json` of a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field

from hrf.networks.labels import UNRECOGNISED
from hrf.storage.records import Record

Value = TypeVar("Value")
OfPrompts = Annotated[Value | None, Field(exclude_if=lambda value: value is None)]
"""What only a text-to-image model has: the files of others do not name it."""


class Interval(Record):
    """An estimate with its confidence interval, in the unit of the quantity."""

    value: float
    low: float
    high: float


class Estimate(Interval):
    """A mean, or a mean of paired differences, over independent observations: the fixed seeds, or prompts."""

    standard_error: float


class _Named(Record):
    name: str


# Files begin with the name: fields stand in the order of the bases, the last one's first.
class NamedEstimate(Estimate, _Named):
    """Mean of a reward, which it names."""


class Diversity(Record):
    """Diversity of the samples; the gate looks at `vendi_order2_ratio` (candidate / base) only.

    Of a text-to-image model, both `vendi_order2` are measured among the samples of the same prompt.
    """

    vendi_order2: Interval
    vendi_order2_ratio: Interval
    across_prompts_vendi_order2: OfPrompts[float] = None
    vendi_order1: float
    mean_pairwise_distance: float
    features: str
    """What they are measured on: `evaluation.features`."""


class MeanAndDeviation(Record):
    """A mean and its standard deviation over splits."""

    mean: float
    std: float


class Fidelity(Record):
    """How far the samples left the base's; None where a number needs a classifier, or more samples."""

    coverage: float
    density: float
    classifier_frechet_distance: float | None
    classifier_inception_score: MeanAndDeviation | None


class MonitorReading(Record):
    """One drift monitor; None is a statistic that has no value, such as the hue of grey, or a change from or to it."""

    value: float | None
    base: float | None
    change: float | None
    limit: float | None
    """Largest change allowed; None only reports."""
    tripped: bool


class PromptReward(Record):
    """Mean reward of an evaluation prompt."""

    prompt: str
    reward: float
    base_reward: float


class FrontPoint(Record):
    """What one strength of a policy was measured to be worth: a point of its front."""

    strength: float
    """a in base + a (tuned - base), see `hrf.policies.strength`."""
    reward_vs_base: Estimate
    diversity_ratio: Interval
    """Order-2 Vendi score over the base's."""
    coverage: float
    monitors: dict[str, MonitorReading]

    def keeps(self, floor: float) -> bool:
        """Whether the lower end of its diversity ratio is above a floor and no drift monitor has tripped."""
        return self.diversity_ratio.low > floor and not self.tripped_monitors

    @property
    def tripped_monitors(self) -> list[str]:
        """Names of the drift monitors past their limit, sorted."""
        return _tripped(self.monitors)


class EvaluationRecord(Record):
    """The fixed seeds, measured against the base."""

    epoch: int
    """Epoch that made the candidate; -1 of what the run has not trained."""
    num_samples: int
    eta: float
    evaluation_seed: int
    num_evaluations: int
    """Denoiser evaluations (forward equivalents) spent on the candidate so far."""
    reward: NamedEstimate
    reward_vs_base: Estimate
    held_out_reward: NamedEstimate | None
    held_out_reward_vs_base: Estimate | None
    diversity: Diversity
    fidelity: Fidelity
    modes: dict[str, int] | None
    """Samples of each class of the classifier, "unrecognised" included; None without one, as the two below."""
    mode_entropy: float | None
    """In nats, of the recognised samples; None where there are none, too."""
    mean_confidence: float | None
    monitors: dict[str, MonitorReading]
    rewards: list[float]
    """Of each seed."""
    prompts: OfPrompts[list[int]] = None
    """Which prompt each sample was made from, numbered by first appearance."""
    by_prompt: OfPrompts[list[PromptReward]] = None
    strength: float = 1.0
    """Of the policy that was measured, and is stored with it folded in: see `hrf.policies.strength`."""
    front: tuple[FrontPoint, ...] = ()
    """Every strength that was measured to find this one; empty where no other was to be."""

    @property
    def at_strength(self) -> FrontPoint:
        """This measurement as a point of a front."""
        return FrontPoint(
            strength=self.strength,
            reward_vs_base=self.reward_vs_base,
            diversity_ratio=self.diversity.vendi_order2_ratio,
            coverage=self.fidelity.coverage,
            monitors=self.monitors,
        )

    @property
    def unrecognised_fraction(self) -> float | None:
        """Share of samples in which the classifier saw none of its modes; None without a mode histogram."""
        if not self.modes or UNRECOGNISED not in self.modes:
            return None
        return self.modes[UNRECOGNISED] / max(1, sum(self.modes.values()))

    @property
    def tripped_monitors(self) -> list[str]:
        """Names of the drift monitors past their limit, sorted."""
        return _tripped(self.monitors)


class StartRecord(EvaluationRecord):
    """The evaluation of the policy that a run starts from, the base or another."""

    switch_step: int
    """First step that its tuned weights take."""


def _tripped(monitors: Mapping[str, MonitorReading]) -> list[str]:
    return sorted(name for name, monitor in monitors.items() if monitor.tripped)
