"""Text-to-image flows of the class of Stable Diffusion 3 and 3.5: StableDiffusion3Pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_sample_size
from hrf.policies.architecture import Architecture
from hrf.policies.components import read_json
from hrf.policies.conditioning import Text
from hrf.policies.kinds.kind import TextToImage, latent_side, own_sample_shape
from hrf.policies.schedulers import Timing, flow_scheduler
from hrf.policies.text import TextEncoder, read_by_clip, read_by_t5

_CLIPS = tuple(TextEncoder(end, "CLIPTextModelWithProjection") for end in ("", "_2"))
_T5 = TextEncoder("_3", "T5EncoderModel", "T5Tokenizer", optional=True)
_CLIP_TOKENS = 77
_T5_TOKENS = 256
"""As its pipeline has it; so many are read of T5, or are zeros without one."""


class StableDiffusion3(TextToImage):
    """Text-to-image flows of the class of Stable Diffusion 3 and 3.5: StableDiffusion3Pipeline."""

    pipeline = "StableDiffusion3Pipeline"
    component = "transformer"
    denoiser = "SD3Transformer2DModel"
    text_encoders = (*_CLIPS, _T5)

    def ends(self, scheduler: Mapping[str, Any]) -> Tensor:
        """Of a flow."""
        timesteps: Tensor = flow_scheduler(scheduler).timesteps
        return timesteps[[0, -1]]

    def trial(self, config: Any) -> dict[str, Any]:
        """Of four patches: as large as its pictures are, an answer of some billion parameters takes minutes."""
        check_sample_size(config)
        size, patch, most = config.sample_size, config.patch_size, config.pos_embed_max_size
        if not isinstance(size, int) or size % patch or size // patch > most:
            raise ConfigError(
                "model.source",
                expected=f"a `sample_size` that is one number, a multiple of patch_size {patch} and at most "
                f"{patch * most}",
                got=size,
                fix="write the size that it was trained at into `sample_size` of the transformer's config.json",
            )
        return self.question(config, (config.in_channels, 2 * patch, 2 * patch))

    def check_fits(self, denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
        """One number of channels, T5's width, both CLIPs' within it, and those of both as a whole."""
        clips = [encoders[clip.name] for clip in _CLIPS]
        channels = (denoiser.in_channels, denoiser.out_channels or denoiser.in_channels, autoencoder.latent_channels)
        beside = sum(clip.hidden_size for clip in clips)
        pooled = (sum(clip.projection_dim for clip in clips), denoiser.pooled_projection_dim)
        widths = {denoiser.joint_attention_dim, *(encoders[name].d_model for name in encoders if name == _T5.name)}
        fits = len(set(channels)) == len(set(pooled)) == len(widths) == 1 and beside <= denoiser.joint_attention_dim
        if not fits or autoencoder.out_channels != 3:
            raise ConfigError(
                "model.source",
                expected="a transformer of as many channels in and out as the autoencoder has, whose pictures are RGB, "
                "and text encoders of the widths that it reads",
                got=f"channels {channels} and {autoencoder.out_channels}, pooled widths {pooled}, CLIPs {beside} wide "
                f"beside each other, joint widths {sorted(widths)}",
                fix="choose a Stable Diffusion 3 or 3.5 text-to-image model, whole as it was published",
            )

    @staticmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Of a latent, sigma times 1000, the tokens of all text encoders and the pooled text of two."""
        output: Tensor = denoiser(
            hidden_states=states,
            timestep=timesteps,
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
        ).sample
        return output

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """As configured, or as the transformer's configuration says.

        Raises:
            ConfigError: If a picture size is no number of patches, or more than the transformer has positions for.
        """
        config = model.settings
        if picture_size is None:
            return own_sample_shape(model, None)
        side = latent_side(model, picture_size, config["patch_size"])
        most = config["patch_size"] * config["pos_embed_max_size"]
        if side > most:
            raise ConfigError(
                "model.picture_size",
                expected=f"at most {model.scale * most}: the transformer knows no further positions",
                got=picture_size,
                fix="lower it",
            )
        return config["in_channels"], side, side

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing:
        """The number of patches."""
        return Timing(num_tokens=shape[1] * shape[2] // config["patch_size"] ** 2)

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """As `ask` calls it."""
        return {
            "hidden_states": torch.zeros(1, *shape),
            "timestep": torch.zeros(1),
            "encoder_hidden_states": torch.zeros(1, _CLIP_TOKENS + _T5_TOKENS, config["joint_attention_dim"]),
            "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
        }

    def read(self, base: Path, asked: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor | None]:
        """The two CLIPs' last states but one side by side, and T5's behind them; as a whole, both CLIPs' projections.

        CLIPs' are filled up with zeros to the width that the transformer reads, and a model without T5 has zeros there.
        """
        width = int(read_json(base / self.component / "config.json")["joint_attention_dim"])
        clips = [read_by_clip(base, clip, asked, states=-2) for clip in _CLIPS]
        beside = torch.cat([tokens for tokens, _ in clips], dim=-1)
        empty = torch.zeros(len(asked), _T5_TOKENS, width)
        behind = read_by_t5(base, _T5, asked, length=_T5_TOKENS) if (base / _T5.name).is_dir() else empty
        tokens = torch.cat([pad(beside, (0, width - beside.shape[-1])), behind], dim=1)
        return tokens, torch.cat([pooled for _, pooled in clips], dim=-1)
