"""What the curves of a study say: diversity at matched reward, reward at matched diversity, and how sure that is.

The **curve** of a run goes from the base (no evaluations, gain 0, diversity ratio 1) through its measured points, in
straight lines. On it,

    diversity at matched reward   the value where the gain over the base first reaches a level
    reward at matched diversity   the largest gain on the curve at which the diversity ratio is at least a level
    gain promoted                 the gain of the point that the gate promoted last; 0 if it promoted none

**What the intervals are of.** Each is one number per run. An arm's estimate is their mean over training seeds, with
Student's interval; the comparison with the reference arm is the mean of the differences between runs of one seed. The
truth that is to be covered is the mean, over all training seeds there could be, of that number on the curve through the
same points as they would be measured without noise. `benchmarks.matching_coverage` counts how often it is.

**What they leave out.** How a curve bends between two points. Where the reference collapses late, straight lines put it
too low and flatter the arm: with three points by a third of the interval's half width, with six by a tenth. Then, what
the evaluation seeds have in common, as they are the same for all runs: gains over the base on the same seeds cancel
what the base shares. Last, that one interval in twenty misses: among thirty arms, one or two differences will look real
that are not.

**Seeds that never get there** have no such number, and to average the others would favour an arm for its lucky seeds.
So an arm has an estimate at a level only if all of its runs reach it; else `num_reached` tells how many did.

**Levels** come from the study's definition. Without them, gains are compared at `DEFAULT_SHARES` of the smallest, over
the reference's seeds, of its largest gain: the reference then has all its seeds, and no diversity and no other arm had
a say in where arms are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hrf.core.statistics import mean_interval

Values = NDArray[np.float64]
RATIO = "vendi_order2_ratio"
QUANTITIES = (RATIO, "coverage", "mode_entropy", "unrecognised_fraction")
"""Columns that are read off at matched reward."""
DEFAULT_SHARES = (0.5, 0.8)
"""Of the reference's gain: the levels of reward where a definition has none."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One run: P measured points after the base, P + 1 values of each kind, in the order of the points."""

    seed: int
    points: Sequence[int]
    """Their numbers; the base is 0."""
    evaluations: Values
    """Denoiser evaluations spent."""
    gain: Values
    """Mean reward less the base's, on the same evaluation seeds."""
    quantities: Mapping[str, Values]
    """Columns of the table, by name; NaN where a study does not measure one."""
    promoted: int = 0
    """Index of the point that the gate promoted last; 0, the base, where it never did."""

    @property
    def promoted_gain(self) -> float:
        """What the run's user ends up with: the gain of that point."""
        return float(self.gain[self.promoted])

    def at_gain(self, quantity: str, level: float) -> float | None:
        """The value of a quantity where the gain first reaches a level; None if it never does."""
        reached = np.flatnonzero(self.gain >= level)
        if not reached.size:
            return None
        after, values = int(reached[0]), self.quantities[quantity]
        if after == 0:
            return float(values[0])
        share = (level - self.gain[after - 1]) / (self.gain[after] - self.gain[after - 1])
        return float(values[after - 1] + share * (values[after] - values[after - 1]))

    def gain_within(self, level: float, quantity: str = RATIO) -> float | None:
        """The largest gain on the curve at which a quantity is at least a level; None if it is nowhere."""
        excess, gain = self.quantities[quantity] - level, self.gain
        kept = [float(value) for value in gain[excess >= 0]]
        for before in np.flatnonzero(excess[:-1] * excess[1:] < 0):
            share = excess[before] / (excess[before] - excess[before + 1])
            kept.append(float(gain[before] + share * (gain[before + 1] - gain[before])))
        return max(kept, default=None)


_Run = TypeVar("_Run")
Runs = Mapping[int, Curve]
"""The runs of one arm, by seed."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds, with its 95% interval; a single seed has none."""

    value: float
    low: float | None
    high: float | None
    num_seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm at one level."""

    arm: str
    num_runs: int
    """Runs that the arm has."""
    num_reached: int
    """Of those, the ones that have a value."""
    mean: Mean | None
    """None unless all runs have a value."""
    difference: Mean | None
    """Arm less reference, over the seeds of both; None for the reference, and unless all runs of both have a value."""


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """One measured point of an arm, as means over the seeds that have it."""

    arm: str
    point: int
    evaluations: float
    gain: Mean
    quantities: Mapping[str, Mean]
    """Those that the study measures."""

    @property
    def ratio(self) -> Mean:
        """The diversity ratio."""
        return self.quantities[RATIO]


def read_curves(table: pd.DataFrame, reward: str) -> dict[str, dict[int, Curve]]:
    """The curves of one reward: arm -> seed -> curve, in the table's order."""
    curves: dict[str, dict[int, Curve]] = {}
    in_order = table[table.reward_name == reward].sort_values("point", kind="stable")
    for (arm, seed), rows in in_order.groupby(["arm", "seed"], sort=False):
        curves.setdefault(str(arm), {})[int(seed)] = Curve(
            seed=int(seed),
            points=[int(point) for point in rows.point],
            evaluations=rows.evaluations.to_numpy(dtype=np.float64),
            gain=rows.reward_vs_base.to_numpy(dtype=np.float64),
            quantities={name: rows[name].to_numpy(dtype=np.float64) for name in QUANTITIES},
            promoted=int(max(np.flatnonzero(rows.promoted), default=0)),
        )
    return curves


def mean_over_seeds(values: Iterable[float]) -> Mean:
    """Mean with Student's 95% interval.

    Raises:
        ValueError: There is no value, or one is not finite.
    """
    numbers = list(values)
    if len(numbers) == 1 and math.isfinite(numbers[0]):
        return Mean(value=numbers[0], low=None, high=None, num_seeds=1)
    interval = mean_interval(numbers)
    return Mean(value=interval.value, low=interval.low, high=interval.high, num_seeds=len(numbers))


def compare(
    arms: Mapping[str, Mapping[int, _Run]], value: Callable[[_Run], float | None], *, reference: str
) -> dict[str, Comparison]:
    """Compare arms in one number per run.

    Args:
        arms: Runs by arm and seed: their curves, or whatever `value` makes its number of.
        value: The number of a run, such as its diversity at a gain; None where it has none.
        reference: The arm that the others are compared with. Without runs of it there are no differences.
    """
    numbers = {arm: {seed: value(run) for seed, run in runs.items()} for arm, runs in arms.items()}
    theirs = _if_all(numbers.get(reference, {}))
    return {arm: _comparison(arm, own, theirs if arm != reference else {}) for arm, own in numbers.items()}


def _comparison(arm: str, own: Mapping[int, float | None], theirs: Mapping[int, float]) -> Comparison:
    complete = _if_all(own)
    shared = [seed for seed in complete if seed in theirs]
    return Comparison(
        arm=arm,
        num_runs=len(own),
        num_reached=len(_known(own)),
        mean=mean_over_seeds(complete.values()) if complete else None,
        difference=mean_over_seeds(complete[seed] - theirs[seed] for seed in shared) if shared else None,
    )


def _known(numbers: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: number for seed, number in numbers.items() if number is not None and math.isfinite(number)}


def _if_all(numbers: Mapping[int, float | None]) -> dict[int, float]:
    """The numbers, if all runs have one; else none."""
    known = _known(numbers)
    return known if len(known) == len(numbers) else {}


def default_gains(reference: Runs) -> tuple[float, ...]:
    """The levels of gain where a definition has none, rounded down to two digits; none if a run gains nothing."""
    least = min((float(curve.gain.max()) for curve in reference.values()), default=0.0)
    if least <= 0:
        return ()
    return tuple(_rounded_down(share * least) for share in DEFAULT_SHARES)


def _rounded_down(value: float) -> float:
    decimals = 1 - math.floor(math.log10(value))
    unit = 10.0**-decimals
    # A hair more, so that 0.3 / 0.01 counts as 30.
    return round(math.floor(value / unit + 1e-9) * unit, max(0, decimals))


def arm_points(arms: Mapping[str, Runs]) -> list[ArmPoint]:
    """The measured points of all arms, each arm's base included."""
    found = []
    for arm, runs in arms.items():
        for point in sorted({point for curve in runs.values() for point in curve.points}):
            at = [(curve, curve.points.index(point)) for curve in runs.values() if point in curve.points]
            columns = {name: [float(curve.quantities[name][place]) for curve, place in at] for name in QUANTITIES}
            found.append(
                ArmPoint(
                    arm=arm,
                    point=point,
                    evaluations=float(np.mean([curve.evaluations[place] for curve, place in at])),
                    gain=mean_over_seeds(float(curve.gain[place]) for curve, place in at),
                    quantities={
                        name: mean_over_seeds(values)
                        for name, values in columns.items()
                        if all(map(math.isfinite, values))
                    },
                )
            )
    return found


def pareto_front(points: Iterable[ArmPoint]) -> list[ArmPoint]:
    """The points that no other beats in both mean gain and mean diversity ratio, by rising gain.

    p is left out if some q has gain_q >= gain_p and ratio_q >= ratio_p, one of them strictly.
    """
    front: list[ArmPoint] = []
    for point in sorted(points, key=lambda p: (p.gain.value, p.ratio.value), reverse=True):
        last = (front[-1].gain.value, front[-1].ratio.value) if front else (math.inf, -math.inf)
        if point.ratio.value > last[1] or (point.gain.value, point.ratio.value) == last:
            front.append(point)
    return front[::-1]
