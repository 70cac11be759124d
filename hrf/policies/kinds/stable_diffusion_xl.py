"""Text-to-image models of the class of Stable Diffusion XL: StableDiffusionXLPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_sample_size
from hrf.policies.architecture import Architecture
from hrf.policies.components import read_json
from hrf.policies.conditioning import Text
from hrf.policies.kinds.kind import TextToImage
from hrf.policies.text import TextEncoder, read_by_clip

_PROMPT_TOKENS = 77
"""CLIP's context length."""
_SIZES = 6
"""How many numbers say a picture's size, where it was cut from, and the size that is wanted; height first."""
_INDEX = "model_index.json"
_ZEROS = "force_zeros_for_empty_prompt"


class StableDiffusionXL(TextToImage):
    """Text-to-image models of the class of Stable Diffusion XL: StableDiffusionXLPipeline."""

    pipeline = "StableDiffusionXLPipeline"
    component = "unet"
    denoiser = "UNet2DConditionModel"
    denoiser_settings: Mapping[str, Any] = {"addition_embed_type": "text_time"}
    text_encoders = (TextEncoder(), TextEncoder("_2", "CLIPTextModelWithProjection"))
    # An older autoencoder, and the same one for ONNX.
    other_folders = ("vae_1_0", "vae_decoder", "vae_encoder")

    def trial(self, config: Any) -> dict[str, Any]:
        """As of others, of a UNet that reads no more than a latent, a timestep, a text and sizes.

        Raises:
            ConfigError: If it reads more.
        """
        check_sample_size(config)
        extras = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
        found = [name for name in extras if config.get(name) is not None]
        pooled = (config.projection_class_embeddings_input_dim or 0) - _SIZES * (config.addition_time_embed_dim or 0)
        if found or pooled <= 0:
            raise _refused(", ".join(found) or f"a pooled text {pooled} wide")
        return super().trial(config)

    def check_fits(self, denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
        """One number of channels, both texts' width beside each other, and that of the second one as a whole."""
        channels = (denoiser.in_channels, denoiser.out_channels, autoencoder.latent_channels)
        widths = (sum(encoder.hidden_size for encoder in encoders.values()), denoiser.cross_attention_dim)
        sizes = _SIZES * denoiser.addition_time_embed_dim
        pooled = (encoders["text_encoder_2"].projection_dim, denoiser.projection_class_embeddings_input_dim - sizes)
        if len(set(channels)) > 1 or len(set(widths)) > 1 or len(set(pooled)) > 1 or autoencoder.out_channels != 3:
            raise _refused(
                f"channels {channels} and {autoencoder.out_channels}, widths {widths}, pooled widths {pooled}"
            )

    def said_of(self, source: Path) -> dict[str, Any]:
        """Whether an empty negative prompt is zeros."""
        index = read_json(source / _INDEX) if (source / _INDEX).is_file() else {}
        return {_ZEROS: bool(index.get(_ZEROS, True))}

    @staticmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Of a latent, a timestep, the tokens of both text encoders, the pooled text, and the sizes behind it."""
        assert text.pooled is not None
        added = {"text_embeds": text.pooled[:, :-_SIZES], "time_ids": text.pooled[:, -_SIZES:]}
        output: Tensor = denoiser(states, timesteps, encoder_hidden_states=text.tokens, added_cond_kwargs=added).sample
        return output

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """As `ask` calls it."""
        pooled = config["projection_class_embeddings_input_dim"] - _SIZES * config["addition_time_embed_dim"]
        return {
            "sample": torch.zeros(1, *shape),
            "timestep": torch.zeros(1, dtype=torch.int64),
            "encoder_hidden_states": torch.zeros(1, _PROMPT_TOKENS, config["cross_attention_dim"]),
            "added_cond_kwargs": {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, _SIZES)},
        }

    def read(self, base: Path, asked: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor | None]:
        """Both encoders' last states but one side by side; as a whole, the second one's projection, and the sizes.

        Pictures are said to be uncut and of the model's own size. An empty negative prompt is zeros, if the model says
        so.
        """
        clips = [read_by_clip(base, clip, asked, states=-2) for clip in self.text_encoders]
        tokens, projections = torch.cat([states for states, _ in clips], dim=-1), clips[1][1]
        if not asked[-1][0] and read_json(base / _INDEX)[_ZEROS]:
            tokens[-1], projections[-1] = 0, 0
        model = Architecture.of(base)
        height, width = (model.scale * side for side in self.sample_shape(model, None)[1:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(len(asked), -1)
        return tokens, torch.cat([projections, sizes], dim=-1)


def _refused(got: str) -> ConfigError:
    return ConfigError(
        "model.source",
        expected="a UNet of latents, timesteps, one text and six sizes: as many channels in and out as the autoencoder "
        "has, whose pictures are RGB, and text encoders of the widths that it reads",
        got=got,
        fix="choose a Stable Diffusion XL base model; not its refiner, nor one for inpainting or distilled guidance",
    )
