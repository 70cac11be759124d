"""How often a chain of 200 decisions ever promotes wrongly, and which of the better candidates it promotes.

    python -m benchmarks.verdicts        # a minute or two on one core; `--repetitions 200` for a look

Simulated are the numbers that the gate looks at, on 192 seeds. The reward's paired differences are skewed to the left:
most seeds gain a little, a few lose much. For diversity, a sample is one of six kinds, and two of a kind are alike; a
candidate's sample is mostly of the same kind as the base's on that seed, and else of a kind drawn anew, or, where it
has lost diversity, the most frequent one. So the share that moves there sets the true ratio.

Rules: `old` promotes whoever passes the gate on the fixed seeds, at 95%; `new` asks them for a verdict on fresh seeds,
at the levels of `hrf.core.spending`; `no selection` gives every candidate a verdict, as if selection could be deceived
always. What `new` and `no selection` show is to be at most 5%.

The second table is how often one test errs at a level: what is claimed rests on it, and no interval is exact so far
out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hrf.core.spending import level

NUM_SEEDS, CONFIDENCE, FLOOR, ERROR = 192, 0.95, 0.9, 0.05
BASE = np.array((0.24, 0.2, 0.2, 0.18, 0.1, 0.08))
SELECTED = (1.0 - CONFIDENCE) / 2.0
ANEW = 0.2
"""Share of the seeds on which a candidate as diverse as the base draws a sample of another kind."""
SHAPE = 4.0
"""Of the gamma distribution of a seed's loss: skewness 1."""
Floats = NDArray[np.float64]


def joint(ratio: float) -> Floats:
    """Probabilities of (kind of the base's sample, kind of the candidate's), [6, 6], at a true diversity ratio."""
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2.0
        weights = (1.0 - share) * BASE + share * np.eye(6)[0]
        low, high = (share, high) if np.square(BASE).sum() / np.square(weights).sum() > ratio else (low, share)
    kept = (1.0 - ANEW) * np.eye(6) + ANEW * BASE[None, :]
    moved = (1.0 - low) * kept + low * np.eye(6)[0][None, :]
    return BASE[:, None] * moved


def ratio_statistics(counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Diversity ratio and its jackknife standard error from counts of pairs of kinds, [repetitions, 6, 6]."""
    num = counts.sum(axis=(1, 2), dtype=float)[:, None, None]

    def means(kinds: Floats) -> tuple[Floats, Floats]:
        pairs = (kinds * (kinds - 1.0)).sum(axis=1)[:, None]
        return pairs, (pairs - 2.0 * (kinds - 1.0)) / ((num[..., 0] - 1.0) * (num[..., 0] - 2.0))

    (base, without_base), (candidate, without) = (means(counts.sum(axis=axis, dtype=float)) for axis in (2, 1))
    replicates = without_base[:, :, None] / without[:, None, :]
    mean = (counts * replicates).sum(axis=(1, 2), keepdims=True) / num
    spread = (counts * (replicates - mean) ** 2).sum(axis=(1, 2), keepdims=True)
    return (base / candidate)[:, 0], np.sqrt((num - 1.0) / num * spread)[:, 0, 0]


def null_p_values(counts: NDArray[np.int64]) -> Floats:
    """`hrf.core.diversity.vendi_order2_ratio_p_value` at the floor, from counts of pairs of kinds."""
    amounts = counts.astype(float)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        of_cell = amounts * weights
        base, candidate = of_cell.sum(axis=2)[:, :, None], of_cell.sum(axis=1)[:, None, :]
        influences = base - FLOOR * candidate - (1.0 - FLOOR) * weights
        squares = (amounts * weights**2).sum(axis=(1, 2))
        return (of_cell * influences).sum(axis=(1, 2)) / (1.0 - squares), influences

    def weights_at(tilts: Floats) -> Floats:
        exponents = -tilts[:, None, None] * scaled
        weights = np.exp(exponents - np.where(counts > 0, exponents, -np.inf).max(axis=(1, 2), keepdims=True))
        weights /= (amounts * weights).sum(axis=(1, 2), keepdims=True)
        return weights

    equal = np.full(counts.shape, 1.0 / NUM_SEEDS)
    value, influences = at(equal)
    mean = (amounts * influences).sum(axis=(1, 2), keepdims=True) / NUM_SEEDS
    scaled = (influences - mean) / np.sqrt(
        (amounts * (influences - mean) ** 2).sum(axis=(1, 2), keepdims=True) / NUM_SEEDS
    )
    low, high, tilted = np.zeros(len(counts)), np.full(len(counts), 0.25), np.ones(len(counts), dtype=bool)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for _ in range(10):
            weights = weights_at(high)
            tilted &= (amounts * weights**2).sum(axis=(1, 2)) <= 0.5
            rising = tilted & (at(weights)[0] > 0.0)
            low, high = np.where(rising, high, low), np.where(rising, 2.0 * high, high)
        for _ in range(20):
            middle = (low + high) / 2.0
            above = at(weights_at(middle))[0] > 0.0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        weights = weights_at(high)
        own = at(weights)[1]
        own = own - (amounts * weights * own).sum(axis=(1, 2), keepdims=True)
        error = 2.0 * np.sqrt((amounts * weights * own**2).sum(axis=(1, 2)) / NUM_SEEDS)
        found: Floats = np.where(tilted, stats.t.sf(value / error, NUM_SEEDS - 1), 0.0)
    return found


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What of a chain's candidates is true: their gain over the incumbent and their ratio, decision by decision."""

    name: str
    gain: Sequence[float]
    """In standard errors of 192 seeds; infinite: beyond doubt."""
    ratio: Sequence[float]

    def is_wrong(self, number: int) -> bool:
        """Whether promoting one is an error."""
        return self.gain[number] <= 0.0 or self.ratio[number] <= FLOOR


def p_values(
    candidates: Candidates,
    number: int,
    repetitions: int,
    generator: np.random.Generator,
    *,
    verdict_at: float | Floats = 0.0,
) -> Floats:
    """The largest p-value of the tests, on as many independent samples of the seeds.

    Args:
        candidates: A chain.
        number: Of the decision.
        repetitions: How many p-values, of chains side by side.
        generator: Of all noise.
        verdict_at: Where the p-value is below this level, that of a verdict's further test is among them; 0: never.
    """
    values = np.zeros(repetitions)
    if math.isfinite(gain := candidates.gain[number]):
        noise = 1.0 - generator.gamma(SHAPE, 1.0 / SHAPE, (repetitions, NUM_SEEDS))
        differences = gain / math.sqrt(SHAPE * NUM_SEEDS) + noise
        errors = differences.std(axis=1, ddof=1) / math.sqrt(NUM_SEEDS)
        values = stats.t.sf(differences.mean(axis=1) / errors, NUM_SEEDS - 1)
    counts = generator.multinomial(NUM_SEEDS, joint(candidates.ratio[number]).ravel(), repetitions).reshape(-1, 6, 6)
    ratios, errors = ratio_statistics(counts)
    values = np.maximum(values, stats.t.sf((ratios - FLOOR) / errors, NUM_SEEDS - 1))
    # Where the first tests fail, the second changes nothing.
    if (passing := values < verdict_at).any():
        values[passing] = np.maximum(values[passing], null_p_values(counts[passing]))
    return values


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rule did in all repetitions of a chain."""

    promoted: NDArray[np.bool_]
    """[decisions, repetitions]."""
    num_verdicts: float
    """Mean of a chain."""


def play(candidates: Candidates, rule: str, repetitions: int, seed: int = 0) -> Outcome:
    """Let one of the rules decide on a chain of candidates, all repetitions side by side."""
    generator = np.random.default_rng(seed)
    spent, verdicts = np.zeros(repetitions, dtype=int), 0
    levels = np.array([level(ERROR, count) for count in range(len(candidates.gain) + 1)])
    promoted = np.zeros((len(candidates.gain), repetitions), dtype=bool)
    for number in range(len(candidates.gain)):
        if rule == "no selection":
            selected = np.ones(repetitions, dtype=bool)
        else:
            selected = p_values(candidates, number, repetitions, generator) < SELECTED
        promoted[number] = selected
        if rule != "old":
            fresh = p_values(candidates, number, repetitions, generator, verdict_at=levels[spent])
            promoted[number] &= fresh < levels[spent]
            spent += selected & ~promoted[number]
            verdicts += int(selected.sum())
    return Outcome(promoted=promoted, num_verdicts=verdicts / repetitions)


def chains(length: int = 200) -> list[Candidates]:
    """Those whose promotion is an error, always or from some decision on."""
    sure, same = [math.inf] * length, [1.0] * length
    collapsing = np.linspace(1.0, 0.8, length).tolist()
    return [
        Candidates(name="exactly as good as the incumbent", gain=[0.0] * length, ratio=same),
        Candidates(name="more reward, each a little less diverse", gain=sure, ratio=collapsing),
        Candidates(name="more reward, diversity exactly at the floor", gain=sure, ratio=[FLOOR] * length),
    ]


def improving(gain: float, length: int = 200) -> Candidates:
    """One candidate in five is better than its incumbent, by so many standard errors; the others are as good."""
    gains = [gain if number % 5 == 0 else 0.0 for number in range(length)]
    return Candidates(name=f"every fifth better by {gain:g} standard errors", gain=gains, ratio=[1.0] * length)


def ever_wrong(candidates: Candidates, outcome: Outcome) -> float:
    """The share of the repetitions in which one was promoted that should not have been."""
    wrong = [number for number in range(len(candidates.gain)) if candidates.is_wrong(number)]
    return float(outcome.promoted[wrong].any(axis=0).mean())


def power(candidates: Candidates, outcome: Outcome, first: int, stop: int) -> float:
    """The share of the better candidates among decisions [first, stop) that were promoted."""
    better = [number for number in range(first, stop) if not candidates.is_wrong(number)]
    return float(outcome.promoted[better].mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    print("| candidates | ever promoted wrongly: old | new | no selection | verdicts in a chain: new |")
    print("|---|---|---|---|---|")
    for candidates in chains():
        outcomes = [play(candidates, rule, repetitions) for rule in ("old", "new", "no selection")]
        shares = " | ".join(f"{ever_wrong(candidates, outcome):.1%}" for outcome in outcomes)
        print(f"| {candidates.name} | {shares} | {outcomes[1].num_verdicts:.1f} |", flush=True)
    print("\n| candidates | promoted of the better ones, decisions 1-20: old | new | 21-200: old | new |")
    print("|---|---|---|---|---|")
    for gain in (2.0, 3.0, 4.0, 6.0):
        candidates = improving(gain)
        outcomes = [play(candidates, rule, repetitions) for rule in ("old", "new")]
        cells = [f"{power(candidates, outcome, *part):.0%}" for part in ((0, 20), (20, 200)) for outcome in outcomes]
        print(f"| {candidates.name} | {' | '.join(cells)} |", flush=True)
    print("\n| level | reward, no gain | diversity at the floor: by the interval | by both tests |")
    print("|---|---|---|---|")
    generator = np.random.default_rng(1)
    reward, diversity = (chain for chain in (chains(1)[0], chains(1)[2]))
    found = [
        np.concatenate([p_values(chain, 0, 2000, generator, verdict_at=at) for _ in range(repetitions // 20)])
        for chain, at in ((reward, 0.0), (diversity, 0.0), (diversity, SELECTED))
    ]
    for nominal in (0.025, level(ERROR, 0), 1e-3, 1e-4):
        print(f"| {nominal:.2g} | {' | '.join(f'{float((values < nominal).mean()):.2g}' for values in found)} |")


if __name__ == "__main__":
    main()
