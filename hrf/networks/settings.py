"""What a configuration says of pretrained networks. No torch: whoever reads a configuration reads this."""

from __future__ import annotations

from typing import Literal

from hrf.storage.schema import Count, Section
from hrf.storage.weights import PinnedWeights


class Network(Section):
    """How a pretrained network is run."""

    batch_size: Count = 16
    """Images in every call of the network, the last ones filled up: a score's bits depend on this number, by the
    network's rounding, and never on which other images are scored."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the network runs, apart from the model's device: a cluster may score where there is no GPU. No fallback.
    On a GPU it is while it is asked, and else in memory: the room is the denoiser's."""


class Encoder(Network):
    """The pretrained network whose features diversity is measured on."""

    model: PinnedWeights = PinnedWeights()
    """A CLIP model in open_clip's layout, or a DINOv2 model in transformers' layout."""
