"""HRF-D's choice of a start step, from mean rewards and distances at candidate steps. Plain numbers.

Source: HRF-D of arXiv 2410.08315. The coarse grid with refinement is ours: it looks at fewer candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def minmax(values: Sequence[float]) -> list[float]:
    """Scale values to [0, 1]; constant values give zeros."""
    low, high = min(values), max(values)
    if high == low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]


def pair_scores(mean_rewards: Sequence[float], distances: Sequence[float], beta: float) -> list[float]:
    """Score each pair of neighbouring candidates: minmax(r_{j+1} - r_j) - beta minmax(d_{j+1}).

    A pair wins where starting one candidate later gains the most reward (what decides the reward happens between the
    two) and where the later candidate stays near the root.

    Args:
        mean_rewards: Mean reward of the branches of each of n >= 2 candidates, noisiest first.
        distances: Mean distance of each candidate's branches to the root, n values.
        beta: Weight of the distance, >= 0; the paper's 0.5.

    Returns:
        n - 1 scores.

    Raises:
        ValueError: If there are fewer than two candidates or the lengths differ.
    """
    if len(mean_rewards) < 2 or len(mean_rewards) != len(distances):
        raise ValueError(f"need at least two candidates, got {len(mean_rewards)} rewards, {len(distances)} distances")
    gains = [later - earlier for earlier, later in pairwise(mean_rewards)]
    return [gain - beta * distance for gain, distance in zip(minmax(gains), minmax(list(distances)[1:]), strict=True)]


def best_pair(mean_rewards: Sequence[float], distances: Sequence[float], beta: float) -> int:
    """Index of the earlier candidate of the highest-scoring pair; the first of equals."""
    scores = pair_scores(mean_rewards, distances, beta)
    return scores.index(max(scores))


def coarse_candidates(candidates: Sequence[int], stride: int) -> list[int]:
    """Every stride-th candidate, and the last one, so that the coarse grid spans the same range."""
    coarse = list(candidates[::stride])
    return coarse if coarse[-1] == candidates[-1] else [*coarse, candidates[-1]]


def refined_candidates(candidates: Sequence[int], coarse: Sequence[int], winner: int) -> list[int]:
    """The fine candidates from the winning coarse pair's earlier step to its later one, both included."""
    return [step for step in candidates if coarse[winner] <= step <= coarse[winner + 1]]
