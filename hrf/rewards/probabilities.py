"""The probability of chosen classes under a pretrained classifier, of transformers or in an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hrf.errors import ConfigError, NumericalError
from hrf.rewards.base import Prompts

_SUM_TOLERANCE = 1e-3
"""Of a network's probabilities, which are float32 sums over up to thousands of classes."""


@dataclass(frozen=True, kw_only=True)
class ClassesProbability:
    """Sum p of the probabilities of some classes, or `below` where p <= threshold; in double precision."""

    network: Callable[[NDArray[np.float32]], Tensor]
    """Images [n, 3, H, W] in [0, 1] to logits or probabilities [n, C]."""
    classes: Sequence[int]
    are_logits: bool
    threshold: float | None = None
    below: float = -1.0

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
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
        scores: NDArray[np.float64] = probabilities[:, list(self.classes)].sum(dim=1).numpy()
        return scores if self.threshold is None else np.where(scores > self.threshold, scores, self.below)


def label_indices(model: Any, labels: Sequence[str], field: str) -> list[int]:
    """Where labels stand among a classifier's of transformers.

    Raises:
        ConfigError: If it has no such label, or does not choose one label per image.
    """
    names: dict[int, str] = model.config.id2label
    if model.config.problem_type == "multi_label_classification":
        raise ConfigError(
            f"{field}.model.source",
            expected="a classifier whose labels exclude each other",
            got="one for several labels per image",
            fix="choose another one, or write a function (reward.name: python)",
        )
    indices = {name: index for index, name in names.items()}
    for label in labels:
        if label not in indices:
            raise ConfigError(
                f"{field}.labels",
                expected=f"labels of the classifier: {', '.join(names.values())}",
                got=label,
                fix="choose some of them, or another classifier",
            )
    return [indices[label] for label in labels]


def check_classes(classes: tuple[int, int], num_classes: int, field: str) -> None:
    """Refuse classes that an ONNX classifier hasn't.

    Raises:
        ConfigError: Naming how many it has.
    """
    if classes[1] > num_classes:
        raise ConfigError(
            f"{field}.classes",
            expected=f"[i, j] with j at most {num_classes}, the number of its classes",
            got=list(classes),
            fix="correct the range",
        )


def logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    """Prepared pictures to a classifier's logits."""

    def run(prepared: Tensor) -> Tensor:
        logits: Tensor = model(prepared).logits
        return logits

    return run
