"""How well an image fits its prompt: what CLIP score and PickScore have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hrf.networks.settings import Network
from hrf.rewards.base import CheckedReward, Images, Numbers, Prompts
from hrf.rewards.family import RewardFamily
from hrf.storage.weights import pinned_in

if TYPE_CHECKING:
    from torch import Tensor

# A ViT's forward pass: L (24 n d^2 + 4 n^2 d) floating-point operations for L layers of width d on n tokens.
VIT_L = "162 GFLOP (ViT-L/14, 224 pixels)"
VIT_H = "334 GFLOP (ViT-H/14, 224 pixels)"


class PairEncoder(Protocol):
    """What embeds images and texts in one space."""

    def embed_images(self, images: Images) -> Tensor:
        """[n, D], of length 1."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[n, D], of length 1."""


@dataclass(frozen=True, kw_only=True)
class TextImageCosine:
    """score = scale x cos(image, text).

    The CLIP score has scale 1: the plain cosine, in [-1, 1]. Hessel et al. (2021) report 2.5 max(cos, 0); the clipping
    has no gradient where it acts, and a factor changes no advantage. torchmetrics reports 100 max(cos, 0).
    PickScore (Kirstain et al. 2023) has the model's own scale, exp(logit_scale), about 100.
    """

    encoder: PairEncoder
    scale: float = 1.0

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1] against their B prompts: [B], in [-scale, scale]."""
        assert prompts is not None, "CheckedReward refuses images without prompts"
        of_images, of_texts = self.encoder.embed_images(images), self.encoder.embed_texts(prompts)
        cosines: Numbers = (of_images.double() * of_texts.double()).sum(dim=1).numpy()
        return self.scale * cosines


class CosineReward(RewardFamily, Network):
    """Base of the families whose reward is a `TextImageCosine`."""

    def cosine(self, field: str, *, device: str | None) -> TextImageCosine:
        """Bring the encoder to this machine and load it; arguments and errors as of `RewardFamily.build`."""
        raise NotImplementedError

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        del folder
        return CheckedReward(name=self.name, score=self.cosine(field, device=device), needs_prompts=True, field=field)

    def encoder_pins(self) -> dict[str, str]:
        """What the embeddings depend on: field -> sha256 of its weights; of a repository of the hub, its commit."""
        pins = pinned_in(self).items()
        return {f"{self.name}.{name}": weights.sha256 or weights.revision for name, weights in pins}
