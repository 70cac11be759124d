"""Text-to-image models of the class of Stable Diffusion 1 and 2: StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_sample_size
from hrf.policies.conditioning import Text
from hrf.policies.kinds.kind import TextToImage
from hrf.policies.text import TextEncoder, read_by_clip

_PROMPT_TOKENS = 77
"""CLIP's context length."""


class StableDiffusion(TextToImage):
    """Text-to-image models of the class of Stable Diffusion 1 and 2: StableDiffusionPipeline."""

    pipeline = "StableDiffusionPipeline"
    component = "unet"
    denoiser = "UNet2DConditionModel"
    text_encoders = (TextEncoder(),)
    unused = ("feature_extractor", "safety_checker")

    def trial(self, config: Any) -> dict[str, Any]:
        """As of others, of a UNet that reads no more than a latent, a timestep and a text.

        Raises:
            ConfigError: If it reads more.
        """
        check_sample_size(config)
        extras = (
            "addition_embed_type",
            "class_embed_type",
            "num_class_embeds",
            "encoder_hid_dim_type",
            "time_cond_proj_dim",
        )
        found = [name for name in extras if config.get(name) is not None]
        if found or config.in_channels != config.out_channels:
            raise _refused(", ".join(found) or f"channels {config.in_channels} and {config.out_channels}")
        return super().trial(config)

    def check_fits(self, denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
        """One number of channels, and the text's width."""
        channels = (denoiser.in_channels, denoiser.out_channels, autoencoder.latent_channels)
        widths = (denoiser.cross_attention_dim, encoders["text_encoder"].hidden_size)
        if len(set(channels)) > 1 or len(set(widths)) > 1 or autoencoder.out_channels != 3:
            raise _refused(f"channels {channels} and {autoencoder.out_channels}, widths {widths}")

    def said_of(self, source: Path) -> dict[str, Any]:
        """That it is drawn without a safety checker, and has no pictures for prompts."""
        del source
        return {"image_encoder": [None, None], "requires_safety_checker": False}

    @staticmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Of a latent, a timestep and a text."""
        output: Tensor = denoiser(states, timesteps, encoder_hidden_states=text.tokens).sample
        return output

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """A latent, a timestep and a text."""
        return {
            "sample": torch.zeros(1, *shape),
            "timestep": torch.zeros(1, dtype=torch.int64),
            "encoder_hidden_states": torch.zeros(1, _PROMPT_TOKENS, config["cross_attention_dim"]),
        }

    def read(self, base: Path, asked: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor | None]:
        """The last hidden states of the one text encoder."""
        return read_by_clip(base, self.text_encoders[0], asked, states=-1)[0], None


def _refused(got: str) -> ConfigError:
    return ConfigError(
        "model.source",
        expected="a UNet of latents, timesteps and one text: as many channels in and out as the autoencoder has, whose "
        "pictures are RGB, and a text encoder of the width that it reads",
        got=got,
        fix="choose a Stable Diffusion 1 or 2 text-to-image model; none for inpainting, depth or upscaling",
    )
