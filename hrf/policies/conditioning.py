"""How a denoiser is asked: of a state alone, or of a state and a prompt, with or without guidance.

Conditioning flows through a run as numbers: a prompt is its index in the run's table of prompts, [B] int64, and only
here does it become what the denoiser reads. Models without prompts have no such tensor anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrf.errors import ArtifactError

EMBEDDINGS_FILE = "embeddings.safetensors"


class Conditioning(Protocol):
    """Asks a denoiser about states at diffusion timesteps."""

    @property
    def forwards(self) -> int:
        """Forward passes of the denoiser per sample and question."""
        ...

    def ask(self, denoiser: nn.Module, states: Tensor, timesteps: Tensor, prompts: Tensor | None) -> Tensor:
        """The denoiser's output, [B, C, H, W]; `prompts` are [B] int64 indices, or None where there are none."""
        ...

    def unguided(self) -> Conditioning:
        """The same without guidance."""
        ...


@dataclass(frozen=True)
class Unconditional:
    """Of the state alone."""

    @property
    def forwards(self) -> int:
        """One."""
        return 1

    def ask(self, denoiser: nn.Module, states: Tensor, timesteps: Tensor, prompts: Tensor | None) -> Tensor:
        """Ask without a prompt.

        Raises:
            ValueError: If there are prompts.
        """
        if prompts is not None:
            raise ValueError("an unconditional model was given prompts")
        output: Tensor = denoiser(states, timesteps).sample
        return output

    def unguided(self) -> Unconditional:
        """Itself: there is nothing to guide by."""
        return self


UNCONDITIONAL = Unconditional()


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeddings:
    """A run's prompts as the denoiser reads them."""

    prompts: Tensor
    """[P, L, D] float32: P prompts of L tokens."""
    negative: Tensor
    """[L, D] float32: what guidance leads away from, the empty prompt unless the configuration says otherwise."""

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        tensors = {"prompts": self.prompts.contiguous(), "negative": self.negative.contiguous()}
        save_file(tensors, folder / EMBEDDINGS_FILE)

    @classmethod
    def load(cls, folder: Path) -> PromptEmbeddings:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If it is not there, or something else.
        """
        path = folder / EMBEDDINGS_FILE
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ArtifactError(
                path, problem=f"no embeddings of prompts: {error}", producer="prepare", fix="run `prepare` again"
            ) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class TextConditioning:
    """Of a state and a prompt, with classifier-free guidance where the scale is above 1.

        output = f(x, negative) + s (f(x, prompt) - f(x, negative))        Ho and Salimans 2022, arXiv 2207.12598

    in the convention of Stable Diffusion, where s = 1 is no guidance. Both questions go to the denoiser in one call.
    """

    embeddings: PromptEmbeddings
    guidance_scale: float = 1.0
    """s, at least 1."""

    @property
    def forwards(self) -> int:
        """Two with guidance, one without."""
        return 2 if self.guidance_scale > 1 else 1

    def ask(self, denoiser: nn.Module, states: Tensor, timesteps: Tensor, prompts: Tensor | None) -> Tensor:
        """Ask about each state with its own prompt.

        Raises:
            ValueError: If there are no prompts.
        """
        if prompts is None:
            raise ValueError("a text-to-image model needs a prompt for each sample")
        wanted = self.embeddings.prompts[prompts.cpu()].to(device=states.device, dtype=states.dtype)
        if self.forwards == 1:
            return _ask(denoiser, states, timesteps, wanted)
        negative = self.embeddings.negative.to(device=states.device, dtype=states.dtype).expand_as(wanted)
        both = _ask(denoiser, torch.cat([states] * 2), torch.cat([timesteps] * 2), torch.cat([negative, wanted]))
        away, towards = both.chunk(2)
        return away + self.guidance_scale * (towards - away)

    def unguided(self) -> TextConditioning:
        """The same prompts at scale 1."""
        return TextConditioning(embeddings=self.embeddings)


def _ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
    output: Tensor = denoiser(states, timesteps, encoder_hidden_states=embeddings).sample
    # In half precision the difference of the two answers would lose what guidance then multiplies.
    return output.to(states.dtype)
