"""The head of LAION's aesthetic predictor (v2, "sac+logos+ava1-l14-linearMSE"), which takes CLIP's image embedding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hrf.errors import ArtifactError
from hrf.networks.tensor_files import load_exactly

EMBEDDING_SIZE = 768
"""Of CLIP ViT-L/14, which the published head was trained on."""

_FIX = "convert the published sac+logos+ava1-l14-linearMSE.pth as docs/rewards.md says, with its tensors' own names"
_broken = partial(ArtifactError, producer="another tool", fix=_FIX)


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


def load_head(file: Path) -> AestheticHead:
    """Load the head, in double precision.

    Raises:
        ArtifactError: If the file is no safetensors file, or holds other tensors than the published head's.
    """
    head = AestheticHead()
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _broken(file, problem=f"not a safetensors file: {error}") from error
    load_exactly(head, tensors, file, owner="the published head", fix=_FIX)
    return head.double().requires_grad_(False)
