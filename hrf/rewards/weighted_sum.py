"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrf.rewards.base import Prompts, Reward


@dataclass(frozen=True, kw_only=True)
class NormalisedTerm:
    """One reward of the sum, checked itself: its mistakes carry its own name."""

    reward: Reward
    weight: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """score = sum over terms of weight (reward - mean) / std.

    Mean and deviation are numbers of the configuration, not of the batch: an image's score depends on no other image,
    and means the same in every epoch.
    """

    terms: Sequence[NormalisedTerm]

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1], and their prompts: [B]."""
        return self._sum(len(images), (term.reward(images, prompts) for term in self.terms))

    def of_samples(self, samples: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score finished samples [B, 3, H, W] in [-1, 1], and their prompts: [B]."""
        return self._sum(len(samples), (term.reward.of_samples(samples, prompts) for term in self.terms))

    def _sum(self, count: int, scores: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        total = np.zeros(count)
        for term, own in zip(self.terms, scores, strict=True):
            total += term.weight * (own - term.mean) / term.std
        return total
