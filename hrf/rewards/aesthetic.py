"""LAION's aesthetic predictor (v2, "sac+logos+ava1-l14-linearMSE"): a head on CLIP's image embedding.

https://github.com/christophschuhmann/improved-aesthetic-predictor; the reward of DDPO's aesthetic task.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hrf.errors import ArtifactError, ConfigError
from hrf.networks.tensor_files import load_exactly
from hrf.rewards.base import Prompts

if TYPE_CHECKING:
    from hrf.networks.clip import OpenClip

EMBEDDING_SIZE = 768
"""Of CLIP ViT-L/14, which the published head was trained on."""

_FIX = "convert the published sac+logos+ava1-l14-linearMSE.pth as docs/rewards.md says, with its tensors' own names"


class AestheticHead(nn.Module):
    """The published head: 768-1024-128-64-16-1, linear maps without activations; dropout only while it was trained."""

    def __init__(self) -> None:
        super().__init__()
        # The places of the dropouts stay, so that the layers have the published file's names.
        self.layers = nn.Sequential(
            nn.Linear(EMBEDDING_SIZE, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings of length 1, [n, 768], to scores [n]."""
        scores: Tensor = self.layers(embeddings)
        return scores[:, 0]


@dataclass(frozen=True, kw_only=True)
class Aesthetic:
    """score = head(e / |e|), with e the image's CLIP embedding. The head, which is small, runs in double precision."""

    clip: OpenClip
    head: AestheticHead

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1]: [B], about 1 to 10."""
        del prompts
        # One by one: a product of matrices rounds a row by where it stands.
        rows = self.clip.embed_images(images).double().split(1)
        with torch.inference_mode():
            scores: NDArray[np.float64] = torch.cat([self.head(row) for row in rows]).numpy()
        return scores


def load_head(file: Path) -> AestheticHead:
    """Load the head, in double precision.

    Raises:
        ArtifactError: If the file is no safetensors file, or holds other tensors than the published head's.
    """
    head = AestheticHead()
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _broken(file, f"not a safetensors file: {error}") from error
    load_exactly(head, tensors, file, owner="the published head", fix=_FIX)
    return head.double().requires_grad_(False)


def check_embedding_size(clip: OpenClip, field: str) -> None:
    """Refuse a CLIP model whose embeddings the head does not take.

    Raises:
        ConfigError: Naming both sizes.
    """
    size = clip.embedding_size
    if size != EMBEDDING_SIZE:
        raise ConfigError(
            f"{field}.clip.source",
            expected=f"a CLIP model with embeddings of {EMBEDDING_SIZE} numbers, which the head was trained on",
            got=f"one of {size}",
            fix="name ViT-L/14 with OpenAI's weights",
        )


def _broken(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(
        path,
        problem=problem,
        producer="another tool",
        fix=_FIX,
    )
