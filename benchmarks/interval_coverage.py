"""How often the jackknife intervals of the order-2 Vendi score cover the truth.

Run `python benchmarks/interval_coverage.py` (a few minutes on one core; `--repetitions 200` for a quick look).

Populations are clusters whose truth is known in closed form. A sample is a mode m, with probability w_m, and an angle
from von Mises(0, κ); its feature vector is (cos, sin) of the angle in mode m's own plane, zero elsewhere. With
ρ = I_2(κ)/I_0(κ), E[K²] = sum_m w_m² (1 + ρ²)/2, and the score is its inverse. A candidate keeps the base's mode with
probability `keep`, and then half of the times its angle, else it draws from other weights: so candidate and base are
correlated row by row, as two policies on the same seeds are.

Rows: the library's intervals, nominal 95%, and their rivals on the log scale. Columns: coverage, how often the truth
lies below the lower end (what promotion bets on: 2.5% nominal) and above the upper one, and the mean width relative to
the truth.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ive

from hrf.core.diversity import vendi_order2, vendi_order2_interval, vendi_order2_ratio_interval
from hrf.core.statistics import Interval, jackknife_interval


@dataclass(frozen=True)
class Population:
    """Modes with weights for base and candidate, and how tight they are."""

    name: str
    base_weights: tuple[float, ...]
    other_weights: tuple[float, ...]
    keep: float
    concentration: float

    @property
    def candidate_weights(self) -> NDArray[np.float64]:
        """Marginal mode weights of the candidate."""
        return self.keep * np.array(self.base_weights) + (1 - self.keep) * np.array(self.other_weights)

    def score(self, weights: NDArray[np.float64]) -> float:
        """Population value of the order-2 score."""
        resultant = ive(2, self.concentration) / ive(0, self.concentration)
        return float(2.0 / (np.square(weights).sum() * (1.0 + resultant**2)))

    def draw(self, count: int, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw base and candidate features, both [count, 2 * modes], paired by row."""
        modes = len(self.base_weights)
        base_mode = generator.choice(modes, count, p=self.base_weights)
        other_mode = generator.choice(modes, count, p=self.other_weights)
        kept = generator.random(count) < self.keep
        base_angle = generator.vonmises(0.0, self.concentration, count)
        # A kept sample keeps its angle half of the time: the marginal stays von Mises and the pair is correlated.
        fresh_angle = generator.vonmises(0.0, self.concentration, count)
        same_angle = kept & (generator.random(count) < 0.5)
        candidate_angle = np.where(same_angle, base_angle, fresh_angle)
        return (
            _features(base_mode, base_angle, modes),
            _features(np.where(kept, base_mode, other_mode), candidate_angle, modes),
        )


UNEVEN = (0.24, 0.2, 0.2, 0.18, 0.1, 0.08)
POPULATIONS = (
    Population(
        name="six modes, uneven; candidate a little less diverse",
        base_weights=UNEVEN,
        other_weights=(0.6, 0.1, 0.1, 0.1, 0.05, 0.05),
        keep=0.8,
        concentration=20.0,
    ),
    Population(
        name="six modes, even (the statistic is degenerate); candidate the same",
        base_weights=(1 / 6,) * 6,
        other_weights=(1 / 6,) * 6,
        keep=0.8,
        concentration=20.0,
    ),
    Population(
        name="six modes, uneven, wide; candidate collapsing",
        base_weights=UNEVEN,
        other_weights=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        keep=0.4,
        concentration=1.0,
    ),
    Population(
        name="forty modes, uneven; candidate a little less diverse",
        base_weights=tuple(np.arange(1, 41) / 820),
        other_weights=(0.0,) * 20 + (0.05,) * 20,
        keep=0.7,
        concentration=5.0,
    ),
)


def _features(mode: NDArray[np.int64], angle: NDArray[np.float64], modes: int) -> torch.Tensor:
    features = np.zeros((len(mode), 2 * modes))
    rows = np.arange(len(mode))
    features[rows, 2 * mode], features[rows, 2 * mode + 1] = np.cos(angle), np.sin(angle)
    return torch.from_numpy(features)


def log_interval(features: torch.Tensor) -> Interval:
    """The rival: the same jackknife of log V_2, carried back."""
    squared = (features @ features.T).square().fill_diagonal_(0.0)
    left = squared.sum() - 2.0 * squared.sum(dim=1)
    count = len(features)
    replicates = math.log((count - 1) * (count - 2)) - torch.log(left)
    return _from_log_scale(jackknife_interval(math.log(vendi_order2(features)), replicates.tolist()))


def log_ratio_interval(candidate: torch.Tensor, base: torch.Tensor) -> Interval:
    """The rival of the paired ratio, on the log scale."""
    squared = [(rows @ rows.T).square().fill_diagonal_(0.0) for rows in (candidate, base)]
    candidate_left, base_left = (pairs.sum() - 2.0 * pairs.sum(dim=1) for pairs in squared)
    value = math.log(vendi_order2(candidate) / vendi_order2(base))
    return _from_log_scale(jackknife_interval(value, torch.log(base_left / candidate_left).tolist()))


def _from_log_scale(interval: Interval) -> Interval:
    value = math.exp(interval.value)
    return Interval(value, math.exp(interval.low), math.exp(interval.high), value * interval.standard_error)


def summarise(intervals: list[Interval], truth: float) -> tuple[float, float, float, float]:
    """Coverage, share with the truth below, share with the truth above, mean relative width."""
    low, high = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    below, above = float((truth < low).mean()), float((truth > high).mean())
    return 1.0 - below - above, below, above, float((high - low).mean() / truth)


def study(population: Population, count: int, repetitions: int, seed: int) -> list[str]:
    """Simulate one population at one size; returns the rows of the table."""
    generator = np.random.default_rng([seed, count])
    results: dict[str, list[Interval]] = {name: [] for name in ("score", "score log", "ratio", "ratio log")}
    for _ in range(repetitions):
        base, candidate = population.draw(count, generator)
        results["score"].append(vendi_order2_interval(base))
        results["score log"].append(log_interval(base))
        results["ratio"].append(vendi_order2_ratio_interval(candidate, base))
        results["ratio log"].append(log_ratio_interval(candidate, base))
    base_score = population.score(np.array(population.base_weights))
    ratio = population.score(population.candidate_weights) / base_score
    rows = []
    for name, intervals in results.items():
        truth = base_score if name.startswith("score") else ratio
        coverage, below, above, width = summarise(intervals, truth)
        rows.append(f"{count:4d}  {name:9s} {truth:7.3f} {coverage:9.1%} {below:12.1%} {above:12.1%} {width:8.3f}")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192, 256])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for population in POPULATIONS:
        print(f"\n{population.name}")
        print("   n  interval    truth  coverage  truth below  truth above    width")
        for count in arguments.sizes:
            print("\n".join(study(population, count, arguments.repetitions, arguments.seed)), flush=True)


if __name__ == "__main__":
    main()
