"""From finished samples to the sampler's picture range: nothing to do in pixels, an autoencoder for latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hrf.networks.visits import visiting
from hrf.policies.components import load_component


class Decoder(Protocol):
    """Finished samples [B, C, H, W] -> pictures [B, 3, H', W'] in [-1, 1]."""

    def __call__(self, samples: Tensor) -> Tensor:
        """Decode."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Of models that work on pixels: a finished sample is the picture."""

    def __call__(self, samples: Tensor) -> Tensor:
        """The samples themselves."""
        return samples


PIXELS = Pixels()


@dataclass(frozen=True, kw_only=True)
class LatentDecoder:
    """Of latent diffusion: an AutoencoderKL, loaded when the first picture is wanted, as an update wants none.

    It is on the device while it decodes: the denoiser's next call wants the room.
    """

    folder: Path
    """Of the autoencoder."""
    device: torch.device

    @cached_property
    def _autoencoder(self) -> Any:
        return load_component(self.folder, "AutoencoderKL").requires_grad_(False)

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Decode one latent after the other: little memory, and a picture's bits don't depend on its neighbours.

        What the decoder overshoots is cut off, as in diffusers' own pipelines; NaN stays NaN.
        """
        scale, shift = self._autoencoder.config.scaling_factor, self._autoencoder.config.shift_factor or 0.0
        latents = samples.to(self.device, torch.float32) / scale + shift
        with visiting(self._autoencoder, self.device):
            pictures = torch.cat([self._autoencoder.decode(latent[None]).sample for latent in latents])
        return pictures.clamp(-1, 1)
