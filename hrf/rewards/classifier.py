"""The probability of a class under an image classifier."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward, Images, Numbers, Prompts
from hrf.rewards.family import RewardFamily, RewardRecord
from hrf.storage.shipped import SHIPPED_CLASSIFIERS
from hrf.storage.weights import digest_or_absent

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

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
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
        scores: Numbers = torch.cat(probabilities).numpy()
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


class ClassifierReward(RewardFamily):
    """Probability of a class under a small classifier of this project's own kind."""

    name: Literal["classifier"] = "classifier"
    label: str = ""
    """The class whose probability is the reward."""
    classifier: str = "shipped"
    """`shipped`, `shipped-second` or a local folder."""

    catalogue = (
        RewardRecord(
            name="classifier",
            measures="probability of a class under a small classifier in this project's format",
            range="[0, 1]",
            direction="more likely the class",
            needs_prompts=False,
            weights="shipped (two of 90 k parameters for six kinds of avatars), or a folder",
            licence="MIT (the shipped one)",
            cost="0.012 GFLOP at 32 x 32",
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        del device
        if folder is None:
            raise ConfigError(
                f"{field}.classifier", expected="a folder with a classifier", got=None, fix="name one, or `shipped`"
            )
        probability = load_class_probability(folder, self.label, field=field)
        return CheckedReward(name=f"classifier:{self.label}", score=probability, field=field)

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        if not self.label or not self.classifier:
            missing = "label" if not self.label else "classifier"
            expected = "a class of the classifier" if missing == "label" else "'shipped', 'shipped-second' or a folder"
            yield ConfigError(f"{path}.{missing}", expected=expected, got="", fix=f"set {path}.{missing}")

    def input_digests(self, path: str) -> dict[str, str]:
        """See `RewardFamily.input_digests`: the classifier's folder."""
        if self.classifier in SHIPPED_CLASSIFIERS:
            return {}
        return {f"{path}.classifier": digest_or_absent(self.classifier)}

    def pack_classifiers(self, path: str, target: Path) -> Iterator[tuple[Path, str]]:
        """See `RewardFamily.pack_classifiers`."""
        from hrf.networks.classifier import classifier_folder

        shutil.copytree(classifier_folder(self.classifier, f"{path}.classifier"), target)
        yield target, path

    @classmethod
    def words(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.words`."""
        del built_name
        return f"the classifier's probability of “{settings.get('label')}”: larger is better"
