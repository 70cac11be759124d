"""How a denoiser is asked: of a state alone, or of a state and a prompt, with or without guidance.

Conditioning flows through a run as numbers: a prompt is its index in the run's table of prompts, [B] int64, and only
here does it become what the denoiser reads. Models without prompts have no such tensor anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
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
class Text:
    """A prompt for each of B samples, as a denoiser reads it."""

    tokens: Tensor
    """[B, L, D]."""
    pooled: Tensor | None
    """[B, E]: the prompt as a whole; None where the denoiser reads none."""

    def __add__(self, other: Text) -> Text:
        """Those of the other after these."""
        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        return Text(tokens=torch.cat([self.tokens, other.tokens]), pooled=pooled)


Ask = Callable[[nn.Module, Tensor, Tensor, Text], Tensor]
"""Calls a denoiser: states, timesteps [B] and a prompt for each to its output."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeddings:
    """A run's prompts as the denoiser reads them."""

    prompts: Tensor
    """[P, L, D] float32: P prompts of L tokens."""
    negative: Tensor
    """[L, D] float32: what guidance leads away from, the empty prompt unless the configuration says otherwise."""
    pooled: Tensor | None = None
    """[P, E] float32: each prompt as a whole, where the denoiser reads that, too."""
    negative_pooled: Tensor | None = None
    """[E] float32: the same of the negative prompt."""

    def of(self, prompts: Tensor, like: Tensor) -> Text:
        """The prompts at some indices [B], where and as `like` is."""
        chosen = prompts.cpu()
        pooled = None if self.pooled is None else self.pooled[chosen].to(like.device, like.dtype)
        return Text(tokens=self.prompts[chosen].to(like.device, like.dtype), pooled=pooled)

    def of_negative(self, count: int, like: Tensor) -> Text:
        """The negative prompt so often, where and as `like` is."""
        tokens = self.negative.to(like.device, like.dtype).expand(count, -1, -1)
        pooled = self.negative_pooled
        return Text(
            tokens=tokens, pooled=None if pooled is None else pooled.to(like.device, like.dtype).expand(count, -1)
        )

    def save(self, folder: Path) -> None:
        """Write them into an existing folder."""
        tensors = {name: value.contiguous() for name, value in self.__dict__.items() if value is not None}
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
    call: Ask
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
        wanted = self.embeddings.of(prompts, like=states)
        if self.forwards == 1:
            return self.call(denoiser, states, timesteps, wanted).to(states.dtype)
        negative = self.embeddings.of_negative(len(states), like=states)
        both = self.call(denoiser, torch.cat([states] * 2), torch.cat([timesteps] * 2), negative + wanted)
        # In half precision the difference of the two answers would lose what guidance then multiplies.
        away, towards = both.to(states.dtype).chunk(2)
        return away + self.guidance_scale * (towards - away)

    def unguided(self) -> TextConditioning:
        """The same prompts at scale 1."""
        return TextConditioning(embeddings=self.embeddings, call=self.call)
