"""The probability of chosen classes: what classifiers of transformers and in ONNX files have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hrf.errors import ConfigError, NumericalError
from hrf.rewards.base import Images, Numbers, Prompts
from hrf.rewards.family import RewardFamily
from hrf.storage.schema import Fraction, inert

if TYPE_CHECKING:
    from torch import Tensor

_SUM_TOLERANCE = 1e-3
"""Of a network's probabilities, which are float32 sums over up to thousands of classes."""


@dataclass(frozen=True, kw_only=True)
class ClassesProbability:
    """Sum p of the probabilities of some classes, or `below` where p <= threshold; in double precision."""

    network: Callable[[Images], Tensor]
    """Images [n, 3, H, W] in [0, 1] to logits or probabilities [n, C]."""
    classes: Sequence[int]
    are_logits: bool
    threshold: float | None = None
    below: float = -1.0

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1]: [B], in [0, 1], or `below`.

        Raises:
            NumericalError: If what should be probabilities does not add up to 1.
        """
        del prompts
        outputs = self.network(images).double()
        probabilities = outputs.softmax(dim=1) if self.are_logits else outputs
        sums = probabilities.sum(dim=1)
        if not self.are_logits and bool(((sums - 1).abs() > _SUM_TOLERANCE).any()):
            raise NumericalError(
                f"the classifier's outputs don't add up to 1 but to {float(sums[0]):.4g}",
                where="image=0",
                fix="if they are logits, set output: logits",
            )
        scores: Numbers = probabilities[:, list(self.classes)].sum(dim=1).numpy()
        if self.threshold is None:
            return scores
        import numpy as np

        return np.where(scores > self.threshold, scores, self.below)


class ProbabilityReward(RewardFamily):
    """Base of the families whose reward is a `ClassesProbability`, with what a small probability is worth."""

    threshold: Fraction | None = None
    """A probability that is not above this counts as `below`; null: every probability counts as itself."""
    below: float = -1.0
    """For `threshold` only. (Published code of the HRF paper, task "over 50": threshold 0.6, below -1.)"""

    def probability(
        self, network: Callable[[Images], Tensor], classes: Sequence[int], *, are_logits: bool
    ) -> ClassesProbability:
        """The scorer of a network's classes; arguments as of `ClassesProbability`."""
        return ClassesProbability(
            network=network, classes=classes, are_logits=are_logits, threshold=self.threshold, below=self.below
        )

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        if self.threshold is None:
            yield from inert(self, path, ("below",), f"without a threshold ({path}.threshold)")
        yield from super().problems(path)
