"""Images to feature vectors, for the metrics that compare samples with each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.networks.calls import usable_device
from hrf.networks.classifier import ImageClassifier
from hrf.networks.settings import Encoder
from hrf.storage.weights import weights_folder

PIXEL_GRID = 8
"""Height and width, in boxes, of the grid that pixel features are averaged over."""

CLASSIFIER_BATCH = 256
"""Images per classifier call; bounds memory and does not change the features."""

_ENCODER = "evaluation.encoder"

Embedder = Callable[[NDArray[np.float32]], Tensor]
"""Images [n, 3, H, W] in [0, 1] to features [n, D]."""


class FeatureSettings(Protocol):
    """The part of a configuration's `evaluation` that says which features to use."""

    @property
    def features(self) -> str:
        """`classifier`, `pixels`, `clip` or `dinov2`."""
        ...

    @property
    def encoder(self) -> Encoder:
        """The pretrained network of `clip` and `dinov2` features."""
        ...


def build_embedder(
    settings: FeatureSettings, classifier: ImageClassifier | None, *, device: str | None = None
) -> Embedder:
    """Return the function that embeds images as the evaluation settings ask.

    Args:
        settings: `features` is "classifier" (what the classifier's last layer reads), "pixels" (`pixel_features`),
            "clip" or "dinov2" (a pretrained network's embedding).
        classifier: Needed for "classifier" and not looked at otherwise.
        device: Where a pretrained network runs, in place of the configured device.

    Returns:
        [n, 3, H, W] float32 in [0, 1] -> [n, D] float32 on the CPU. A row depends on its own image alone, so sets
        embedded apart compare. It raises ValueError for images that it does not take.

    Raises:
        ValueError: An unknown kind of features, or no classifier where one is needed.
        HrfError: Weights that cannot be fetched or are not what they should be.
    """
    match settings.features:
        case "pixels":
            return pixel_features
        case "clip":
            return _clip_embedder(settings.encoder, device)
        case "dinov2":
            return _dinov2_embedder(settings.encoder, device)
        case "classifier":
            if classifier is None:
                raise ValueError("classifier features need a classifier")
            return lambda images: classifier_features(images, classifier)
    raise ValueError(f"features must be 'classifier', 'pixels', 'clip' or 'dinov2', got {settings.features!r}")


def _clip_embedder(encoder: Encoder, device: str | None) -> Embedder:
    """CLIP's image embeddings, of length 1: [n, D]."""
    from hrf.networks.clip import fetch_open_clip

    return fetch_open_clip(encoder.model, encoder, f"{_ENCODER}.model", device=device, field=_ENCODER).embed_images


def _dinov2_embedder(encoder: Encoder, device: str | None) -> Embedder:
    """What DINOv2's class token ends as, after the last normalisation (its paper's image feature): [n, D]."""
    from hrf.networks import pretrained

    network = pretrained.load_pretrained(
        weights_folder(encoder.model, f"{_ENCODER}.model", pretrained.HUB_FILES),
        "Dinov2Model",
        device=usable_device(device or encoder.device, _ENCODER),
        call_size=encoder.batch_size,
        field=_ENCODER,
    )

    def class_token(prepared: Tensor) -> Tensor:
        token: Tensor = network.model(prepared).last_hidden_state[:, 0]
        return token

    return lambda images: network.on_images(images, class_token)


def classifier_features(images: NDArray[np.float32], classifier: ImageClassifier) -> Tensor:
    """Return what the classifier's last layer reads: [n, D] for images [n, 3, H, W] in [0, 1].

    They are not negative (they come out of a ReLU), so cosines lie in [0, 1].

    Raises:
        ValueError: Images of another size than the classifier's, or outside [0, 1].
    """
    with torch.no_grad():
        batches = torch.split(torch.from_numpy(images), CLASSIFIER_BATCH)
        return torch.cat([classifier.features(batch) for batch in batches])


def pixel_features(images: NDArray[np.float32]) -> Tensor:
    """Return the images' colours on an 8 x 8 grid of boxes, less mid-grey: [n, 192] in [-0.5, 0.5].

    They are centred at a constant, not at the set's mean, so that base and candidate are embedded by the same function.

    Args:
        images: [n, 3, H, W] in [0, 1], H and W multiples of 8.

    Raises:
        ValueError: Another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % PIXEL_GRID or images.shape[3] % PIXEL_GRID:
        raise ValueError(f"expected images [n, 3, H, W] with H and W multiples of {PIXEL_GRID}, got {images.shape}")
    count, channels, height, width = images.shape
    boxes = (count, channels, PIXEL_GRID, height // PIXEL_GRID, PIXEL_GRID, width // PIXEL_GRID)
    averages = images.reshape(boxes).mean(axis=(3, 5), dtype=np.float64)
    return torch.from_numpy((averages.reshape(count, -1) - 0.5).astype(np.float32))
