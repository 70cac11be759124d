"""How often the intervals of `hrf.study.matching` cover the truth, on curves where it is known.

Run `python -m benchmarks.matching_coverage` (some minutes on one core; `--repetitions 200` for a quick look).

A synthetic run gains reward along one shape and loses diversity along another, faster or slower by its seed:

    gain(e) = 0.25 g(s e),   ratio(e) = 1 - loss a h(s e),   log s and log a normal of deviation `SPREAD`

with e the share of the budget spent. Half of the variance of log s belongs to the seed, whatever the arm: that is what
pairing removes. What is measured is gain + noise of 0.01 and ratio + noise of 0.03, at P points after the base; half of
the variance of the gain's noise belongs to the evaluation seeds, the same for all runs and for the base, and cancels.
So much the repeated runs of the shipped model spread.

The truth is the mean over seeds on the curve through the same points without noise, by brute force over `POPULATION`
seeds. "Bend" is how far the truth of the smooth curve lies from it, in half widths of the interval, and what is then
left of the coverage: the price of straight lines between few points. A level that a run does not reach leaves a
repetition without an interval; "given" tells how many had one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrf.study.matching import QUANTITIES, RATIO, Curve, Mean, compare, default_gains

Values = NDArray[np.float64]
GAIN = 0.25
GAIN_NOISE, RATIO_NOISE = 0.01, 0.03
SHARED = 0.5
SPREAD = 0.12
POPULATION = 5_000
SMOOTH = 240
ARM, REFERENCE = "arm", "reference"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How reward and loss of diversity go with the share of the budget spent; both from 0 to about 1."""

    name: str
    gain: Callable[[Values], Values]
    loss: Callable[[Values], Values]


def _saturating(spent: Values) -> Values:
    return (1 - np.exp(-2.5 * spent)) / (1 - math.exp(-2.5))


LINEAR = Shape(name="linear", gain=lambda e: e, loss=lambda e: e)
LATE = Shape(name="collapses late", gain=lambda e: e, loss=lambda e: e**3)
SATURATING = Shape(name="reward saturates", gain=_saturating, loss=lambda e: e)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Two arms, where they are compared, and how much is measured."""

    arm: Shape
    arm_loss: float
    reference: Shape
    reference_loss: float
    points: int
    seeds: int = 5
    gain: float | None = 0.15
    """The level of matched reward; None: by the default rule, from the noisy curves."""
    ratio: float = 0.9
    """The level of matched diversity."""

    @property
    def name(self) -> str:
        """Both arms, points and seeds."""
        level = "default level" if self.gain is None else f"gain {self.gain:g}"
        return (
            f"{self.arm.name} -{self.arm_loss:g} / {self.reference.name} -{self.reference_loss:g}, "
            f"P = {self.points}, n = {self.seeds}, {level}"
        )


PAIRS = (
    (LINEAR, 0.1, LINEAR, 0.4),
    (LATE, 0.1, LATE, 0.5),
    (LINEAR, 0.15, LATE, 0.5),
    (SATURATING, 0.15, SATURATING, 0.4),
    (LINEAR, 0.3, LINEAR, 0.3),
)
SCENARIOS = tuple(
    Scenario(arm=arm, arm_loss=loss, reference=reference, reference_loss=their_loss, points=points, **more)
    for arm, loss, reference, their_loss in PAIRS
    for points, more in ((3, {}), (4, {}), (6, {}), (4, {"seeds": 10}), (4, {"gain": None}))
)


def truth_curves(scenario: Scenario, count: int, points: int, generator: np.random.Generator) -> dict[str, list[Curve]]:
    """Noiseless runs of both arms: `count` seeds, each at `points` points after the base."""
    spent = np.arange(points + 1) / points
    of_the_seed = generator.standard_normal(count)
    arms = {}
    for name, shape, loss in (
        (ARM, scenario.arm, scenario.arm_loss),
        (REFERENCE, scenario.reference, scenario.reference_loss),
    ):
        own, depth = generator.standard_normal((2, count))
        speed = np.exp(SPREAD * (of_the_seed + own) / math.sqrt(2))[:, None]
        gain = GAIN * shape.gain(spent * speed)
        ratio = 1 - loss * np.exp(SPREAD * depth)[:, None] * shape.loss(spent * speed)
        arms[name] = [_curve(seed, spent, gain[seed], ratio[seed]) for seed in range(count)]
    return arms


def measured(arms: Mapping[str, list[Curve]], generator: np.random.Generator) -> dict[str, dict[int, Curve]]:
    """The same runs as an evaluation would see them: noise on every point but the base."""
    noisy: dict[str, dict[int, Curve]] = {}
    for name, curves in arms.items():
        noisy[name] = {}
        for curve in curves:
            gain_noise = GAIN_NOISE * math.sqrt(1 - SHARED) * generator.standard_normal(curve.gain.shape)
            ratio_noise = RATIO_NOISE * generator.standard_normal(curve.gain.shape)
            gain_noise[0] = ratio_noise[0] = 0.0
            noisy[name][curve.seed] = _curve(
                curve.seed, curve.evaluations, curve.gain + gain_noise, curve.quantities[RATIO] + ratio_noise
            )
    return noisy


def _curve(seed: int, spent: Values, gain: Values, ratio: Values) -> Curve:
    quantities = dict.fromkeys(QUANTITIES, ratio)
    return Curve(seed=seed, points=range(len(spent)), evaluations=spent, gain=gain, quantities=quantities)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What became of one interval over the repetitions."""

    question: str
    covered: float
    """Share of the intervals that held the truth."""
    covered_smooth: float
    """Share of those that held the truth of the smooth curve."""
    given: float
    """Share of the repetitions that had an interval."""
    bend: float
    """Truth of the smooth curve less the truth through the points, in mean half widths."""
    half_width: float

    def error(self, repetitions: int) -> float:
        """Monte Carlo standard error of `covered`."""
        return math.sqrt(self.covered * (1 - self.covered) / (self.given * repetitions))


Value = Callable[[Curve], float | None]


class Truth:
    """Values of a scenario's arms without noise, through its points and on the smooth curve."""

    def __init__(self, scenario: Scenario, generator: np.random.Generator) -> None:
        self.through_points = truth_curves(scenario, POPULATION, scenario.points, generator)
        self.smooth = truth_curves(scenario, POPULATION // 5, SMOOTH, generator)

    def of(self, value: Value) -> dict[str, tuple[float, float]]:
        """Per question, arm alone and difference: the truth through the points, and on the smooth curve."""
        through, smooth = (
            {name: self._mean(value, curves) for name, curves in arms.items()}
            for arms in (self.through_points, self.smooth)
        )
        return {
            ARM: (through[ARM], smooth[ARM]),
            "difference": (through[ARM] - through[REFERENCE], smooth[ARM] - smooth[REFERENCE]),
        }

    @staticmethod
    def _mean(value: Value, curves: list[Curve]) -> float:
        return float(np.mean([number for curve in curves if (number := value(curve)) is not None]))


def simulate(scenario: Scenario, repetitions: int, seed: int) -> list[Coverage]:
    """Coverage of the four intervals of a scenario: at matched reward and at matched diversity, alone and paired."""
    generator = np.random.default_rng(seed)
    truth = Truth(scenario, generator)
    tables: dict[float, dict[str, tuple[float, float]]] = {}
    within = truth.of(_gain_within(scenario.ratio))
    seen: dict[str, list[tuple[Mean, tuple[float, float]]]] = {}
    for _ in range(repetitions):
        arms = measured(truth_curves(scenario, scenario.seeds, scenario.points, generator), generator)
        level = default_gains(arms[REFERENCE])[0] if scenario.gain is None else scenario.gain
        if level not in tables:
            tables[level] = truth.of(_at_gain(level))
        for question, value, truths in (
            ("diversity at matched reward", _at_gain(level), tables[level]),
            ("reward at matched diversity", _gain_within(scenario.ratio), within),
        ):
            compared = compare(arms, value, reference=REFERENCE)[ARM]
            for kind, mean in ((ARM, compared.mean), ("difference", compared.difference)):
                if mean is not None:
                    seen.setdefault(f"{question}, {kind}", []).append((mean, truths[kind]))
    return [_coverage(question, found, repetitions) for question, found in seen.items()]


def _at_gain(level: float) -> Value:
    return lambda curve: curve.at_gain(RATIO, level)


def _gain_within(level: float) -> Value:
    return lambda curve: curve.gain_within(level)


def _coverage(question: str, found: list[tuple[Mean, tuple[float, float]]], repetitions: int) -> Coverage:
    low, high = (np.array([getattr(mean, end) for mean, _ in found], dtype=np.float64) for end in ("low", "high"))
    points, smooth = (np.array([truth[place] for _, truth in found]) for place in (0, 1))
    half_width = float((high - low).mean() / 2)
    return Coverage(
        question=question,
        covered=float(((low <= points) & (points <= high)).mean()),
        covered_smooth=float(((low <= smooth) & (smooth <= high)).mean()),
        given=len(found) / repetitions,
        bend=float((smooth - points).mean()) / half_width,
        half_width=half_width,
    )


def main() -> None:
    """Simulate all scenarios and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for scenario in SCENARIOS:
        print(scenario.name)
        for row in simulate(scenario, arguments.repetitions, arguments.seed):
            error = 100 * row.error(arguments.repetitions)
            print(
                f"  {row.question:40s} covers {100 * row.covered:5.1f}% +- {error:.1f}, given {100 * row.given:5.1f}%, "
                f"half width {row.half_width:.3f}, bend {row.bend:+.2f} leaves {100 * row.covered_smooth:.1f}%"
            )


if __name__ == "__main__":
    main()
