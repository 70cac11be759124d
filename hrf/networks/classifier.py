"""A small image classifier with a class for everything it does not know.

The fraction of samples in each class is the mode histogram, the plainest measure of diversity there is. The last class,
"unrecognised", takes what belongs to no mode (flat fields, noise, blur, mixtures), so that a model that drifts into
nonsense cannot be counted as one that covers a mode.
"""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hrf.errors import ArtifactError
from hrf.networks.labels import UNRECOGNISED
from hrf.networks.tensor_files import load_exactly
from hrf.storage.shipped import SHIPPED_CLASSIFIERS, shipped_classifier

_FORMAT = "hrf-image-classifier-1"
_RANGE_TOLERANCE = 1e-3
_broken = partial(
    ArtifactError,
    producer="ImageClassifier.save_pretrained",
    fix="give the folder that save_pretrained wrote, with config.json and model.safetensors",
)


class ImageClassifier(nn.Module):
    """Convolutional classifier of small pictures, about 90,000 parameters at the default width.

    Args:
        labels: Names of the classes; the last one must be "unrecognised", the outlier class.
        image_size: Height and width of the pictures, in pixels; a multiple of 8.
        channels: Channels after each of the four convolutions; the last is the number D of features.

    Raises:
        ValueError: The labels repeat, are fewer than 2 or do not end with "unrecognised"; there are not four channel
            numbers; or the size is not a positive multiple of 8.
    """

    def __init__(
        self,
        labels: tuple[str, ...],
        *,
        image_size: int = 32,
        channels: tuple[int, int, int, int] = (24, 48, 64, 80),
    ) -> None:
        super().__init__()
        if len(labels) < 2 or labels[-1] != UNRECOGNISED or len(set(labels)) != len(labels):
            raise ValueError(f"labels must be distinct, at least 2, and end with {UNRECOGNISED!r}, got {labels}")
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a positive multiple of 8, got {image_size}")
        if len(channels) != 4:
            raise ValueError(f"channels must be four numbers, got {channels}")
        self.labels = tuple(labels)
        self.image_size = image_size
        self.channels = tuple(channels)
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise((3, *channels))):
            stride = 1 if index == 0 else 2
            # Batch statistics, frozen after training, and no normalisation per image: contrast must stay visible.
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1], len(labels))

    def features(self, images: Tensor) -> Tensor:
        """Map pictures to the features that the last linear layer reads.

        Args:
            images: [B, 3, H, W] floating point, red-green-blue, in [0, 1], H = W = ``image_size``.

        Returns:
            [B, D] non-negative features, differentiable with respect to the pictures.

        Raises:
            ValueError: Wrong rank, channels, size or type, or values outside [0, 1] (NaN included).
        """
        self._check(images)
        activations: Tensor = self.trunk(images)
        return activations.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Score every class, for the same pictures as `features`.

        Returns:
            [B, number of labels] logits, in the order of ``labels``.
        """
        logits: Tensor = self.head(self.features(images))
        return logits

    def _check(self, images: Tensor) -> None:
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images must be [B, {', '.join(map(str, expected))}], got {list(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1], got {images.dtype}: divide bytes by 255")
        if images.numel() == 0:
            return
        lowest, highest = (bound.item() for bound in images.detach().aminmax())
        # Written so that NaN fails, too.
        if not (lowest >= -_RANGE_TOLERANCE and highest <= 1 + _RANGE_TOLERANCE):
            raise ValueError(
                f"images must lie in [0, 1], got [{lowest:.4g}, {highest:.4g}]: map samples in [-1, 1] by (x + 1) / 2"
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        config = {
            "format": _FORMAT,
            "labels": list(self.labels),
            "image_size": self.image_size,
            "channels": list(self.channels),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        # Not save_file: it makes a file that only its owner may read, whatever the umask.
        (target / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> ImageClassifier:
        """Read what ``save_pretrained`` wrote.

        Returns:
            The classifier on the CPU, fp32, in evaluation mode.

        Raises:
            ArtifactError: A file is missing, is not what ``save_pretrained`` writes, or holds other tensors than the
                configuration asks for.
        """
        source = Path(folder)
        model = cls._from_config(source / "config.json")
        path = source / "model.safetensors"
        if not path.is_file():
            raise _broken(path, problem="there is no such file")
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise _broken(path, problem=f"the weights do not fit config.json: {error}") from error
        load_exactly(model, tensors, path)
        return model

    @classmethod
    def _from_config(cls, path: Path) -> ImageClassifier:
        if not path.is_file():
            raise _broken(path, problem="there is no such file")
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if config["format"] != _FORMAT:
                raise ValueError(f"format is {config['format']!r}, not {_FORMAT!r}")
            return cls(tuple(config["labels"]), image_size=config["image_size"], channels=tuple(config["channels"]))
        except (ValueError, KeyError, TypeError) as error:
            raise _broken(path, problem=f"not the configuration of an image classifier: {error!r}") from error


def classifier_folder(classifier: str, field: str) -> Path:
    """The folder of an image classifier: of `SHIPPED_CLASSIFIERS`, or a path.

    Raises:
        ArtifactError: If it holds no classifier.
    """
    if classifier in SHIPPED_CLASSIFIERS:
        return shipped_classifier(classifier)
    folder = Path(classifier).expanduser()
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            folder, problem="no classifier (config.json, model.safetensors) here", fix=f"correct {field}"
        )
    return folder
