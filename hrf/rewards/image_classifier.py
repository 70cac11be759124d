"""The probability of labels under an image classifier of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrf.errors import ConfigError
from hrf.networks.settings import Network
from hrf.rewards.base import CheckedReward
from hrf.rewards.family import REWARD_EXTRA, RewardRecord
from hrf.rewards.probabilities import ProbabilityReward
from hrf.storage.weights import PinnedWeights, weights_folder

if TYPE_CHECKING:
    from torch import Tensor


class ImageClassifierReward(ProbabilityReward, Network):
    """Probability of labels under an image classifier of transformers."""

    name: Literal["image_classifier"] = "image_classifier"
    model: PinnedWeights = PinnedWeights()
    """The classifier with its image processor, in transformers' layout."""
    labels: tuple[str, ...] = ()
    """The labels whose probabilities are added up, as the model's config.json spells them."""

    catalogue = (
        RewardRecord(
            name="image_classifier",
            measures="sum of the probabilities of chosen labels under a classifier of transformers",
            range="[0, 1]; -1, or what `below` says, at or under a threshold",
            direction="more likely one of the labels",
            needs_prompts=False,
            weights="any AutoModelForImageClassification",
            licence="of the model",
            cost="35 GFLOP (ViT-B/16, 224 pixels)",
            extra=REWARD_EXTRA,
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        from hrf.networks import pretrained
        from hrf.networks.calls import usable_device

        del folder
        network = pretrained.load_pretrained(
            weights_folder(self.model, f"{field}.model", pretrained.HUB_FILES),
            "AutoModelForImageClassification",
            device=usable_device(device or self.device, field),
            call_size=self.batch_size,
            field=field,
        )
        classes = _label_indices(network.model, self.labels, field)
        logits = _logits_of(network.model)
        score = self.probability(lambda images: network.on_images(images, logits), classes, are_logits=True)
        return CheckedReward(name=f"image_classifier:{'|'.join(self.labels)}", score=score, field=field)

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        yield from super().problems(path)
        if not self.labels or len(set(self.labels)) < len(self.labels):
            yield ConfigError(
                f"{path}.labels",
                expected="one or more different labels of the classifier",
                got=list(self.labels),
                fix="write them as the id2label of its config.json spells them",
            )

    @classmethod
    def chosen(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.chosen`."""
        del built_name
        return f" ({', '.join(settings.get('labels') or ())})"


def _label_indices(model: Any, labels: Sequence[str], field: str) -> list[int]:
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


def _logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    """Prepared pictures to a classifier's logits."""

    def run(prepared: Tensor) -> Tensor:
        logits: Tensor = model(prepared).logits
        return logits

    return run
