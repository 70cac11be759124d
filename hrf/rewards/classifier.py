"""The probability of a class under an image classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrf.errors import ConfigError
from hrf.rewards.base import Prompts

if TYPE_CHECKING:
    from hrf.networks.classifier import ImageClassifier

_BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """softmax(logits)[label] of a classifier in double precision, so that batching does not show."""

    classifier: ImageClassifier
    index: int
    """Of the label among the classifier's."""
    field: str
    """Which reward of the configuration this is, for messages."""

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1]: [B], in [0, 1].

        Raises:
            ConfigError: If the classifier is for images of another size.
        """
        import torch

        del prompts
        size = self.classifier.image_size
        if images.shape[2:] != (size, size):
            raise ConfigError(
                f"{self.field}.classifier",
                expected=f"a classifier of {images.shape[2]} x {images.shape[3]} images, as the model makes them",
                got=f"one of {size} x {size} images",
                fix="name a classifier that was trained on images of the model's size",
            )
        with torch.no_grad():
            batches = torch.split(torch.tensor(images, dtype=torch.float64), _BATCH_SIZE)
            probabilities = [self.classifier(batch).softmax(dim=1)[:, self.index] for batch in batches]
        scores: NDArray[np.float64] = torch.cat(probabilities).numpy()
        return scores


def load_class_probability(folder: str | Path, label: str, *, field: str) -> ClassProbability:
    """Load a classifier and look up the label.

    Raises:
        ArtifactError: If the folder holds no classifier.
        ConfigError: If the classifier has no such class.
    """
    from hrf.networks.classifier import ImageClassifier

    classifier = ImageClassifier.from_pretrained(folder).double()
    return ClassProbability(classifier=classifier, index=_index(classifier.labels, label, field), field=field)


def _index(labels: Sequence[str], label: str, field: str) -> int:
    if label not in labels:
        raise ConfigError(
            f"{field}.label",
            expected=f"a class of the classifier: {', '.join(labels)}",
            got=label,
            fix="choose one of them, or another classifier",
        )
    return labels.index(label)
