"""Text-to-image flows of the class of FLUX.1, dev and schnell: FluxPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.conditioning import Ask, Text
from hrf.policies.kinds.kind import TextToImage, latent_side
from hrf.policies.schedulers import Timing, flow_scheduler
from hrf.policies.text import TextEncoder, read_by_clip, read_by_t5

_CLIP, _T5 = TextEncoder(), TextEncoder("_2", "T5EncoderModel", "T5Tokenizer")
_T5_TOKENS = 512
_PATCH = 2
"""Side of the patches of latents that are packed into a token, as its pipeline has it."""
_LATENTS = 128
"""Side of the latents that its pipeline draws unless told otherwise; the model's files say nothing of it."""
_TIMESTEPS = 1000
"""Its transformer is asked at sigma, which is its scheduler's timestep divided by this."""


class Flux(TextToImage):
    """Text-to-image flows of the class of FLUX.1, dev and schnell: FluxPipeline."""

    pipeline = "FluxPipeline"
    component = "transformer"
    denoiser = "FluxTransformer2DModel"
    text_encoders = (_CLIP, _T5)

    def ends(self, scheduler: Mapping[str, Any]) -> Tensor:
        """Of a flow, in sigma."""
        timesteps: Tensor = flow_scheduler(scheduler).timesteps
        return timesteps[[0, -1]] / _TIMESTEPS

    def trial(self, config: Any) -> dict[str, Any]:
        """Of four patches and one word: an answer of twelve billion parameters to more takes minutes."""
        return self.question(config, (config.in_channels // _PATCH**2, 2 * _PATCH, 2 * _PATCH), num_words=1)

    def check_fits(self, denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
        """Of a packed latent four times its channels and no more, T5's width, and CLIP's as a whole."""
        clip, t5 = (encoders[encoder.name] for encoder in self.text_encoders)
        channels = (denoiser.in_channels, denoiser.out_channels or denoiser.in_channels)
        packed = autoencoder.latent_channels * _PATCH**2
        pooled, joint = (clip.hidden_size, denoiser.pooled_projection_dim), (t5.d_model, denoiser.joint_attention_dim)
        if {*channels} != {packed} or len({*pooled}) > 1 or len({*joint}) > 1 or autoencoder.out_channels != 3:
            raise ConfigError(
                "model.source",
                expected=f"a transformer of {packed} channels in and out, four for each of the autoencoder's, whose "
                "pictures are RGB, and text encoders of the widths that it reads",
                got=f"channels {channels} and {autoencoder.out_channels}, pooled widths {pooled}, joint widths {joint}",
                fix="choose a FLUX.1 text-to-image model, whole as it was published; none for filling in, depth or "
                "edges",
            )

    def check(self, config: Config, model: Architecture) -> None:
        """Demand prompts and the guidance that dev reads; refuse to re-noise what schnell draws.

        Raises:
            ConfigError: As said.
        """
        super().check(config, model)
        scheduler = flow_scheduler(model.scheduler).config
        shifts = scheduler.use_dynamic_shifting or scheduler.shift != 1
        if config.starts.kind != "noise" and not model.settings["guidance_embeds"] and not shifts:
            raise ConfigError(
                "starts.kind",
                expected="'noise', as the model is distilled to few steps by its files (it reads no guidance, and its "
                "scheduler doesn't shift): a re-noised start takes the velocity there for the mean over all samples "
                "that noise may have led from, which such a model has not learnt",
                got=config.starts.kind,
                fix="set it to noise, or choose FLUX.1-dev; if this model was trained for many steps, write how its "
                "scheduler is to shift (`shift`, or `use_dynamic_shifting`) into scheduler_config.json",
            )

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """Latents before they are packed, of the configured picture size, or of the pipeline's.

        Raises:
            ConfigError: If a picture size is no number of patches.
        """
        side = _LATENTS if picture_size is None else latent_side(model, picture_size, _PATCH)
        return model.settings["in_channels"] // _PATCH**2, side, side

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing:
        """The number of patches; and its pipeline says where the steps lie before the shift."""
        del config
        return Timing(num_tokens=shape[1] * shape[2] // _PATCH**2, even=True)

    def asking(self, config: Config) -> Ask:
        """With the embedded guidance."""
        return partial(self.ask, guidance=config.model.embedded_guidance)

    @staticmethod
    def ask(
        denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text, guidance: float | None = None
    ) -> Tensor:
        """Of latents packed into tokens, sigma, T5's tokens, CLIP's pooled text, and a guidance where it reads one."""
        rows, columns = (side // _PATCH for side in states.shape[2:])
        output: Tensor = denoiser(
            hidden_states=pixel_unshuffle(states, _PATCH).flatten(2).transpose(1, 2),
            timestep=timesteps / _TIMESTEPS,
            guidance=None if guidance is None else states.new_full((len(states),), guidance),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            **_positions(rows, columns, text.tokens.shape[1], states.device),
        ).sample
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), _PATCH)

    def question(
        self, config: Mapping[str, Any], shape: tuple[int, int, int], num_words: int = _T5_TOKENS
    ) -> dict[str, Any]:
        """As `ask` calls it."""
        rows, columns = (side // _PATCH for side in shape[1:])
        return {
            "hidden_states": torch.zeros(1, rows * columns, config["in_channels"]),
            "timestep": torch.zeros(1),
            "guidance": torch.zeros(1) if config["guidance_embeds"] else None,
            "encoder_hidden_states": torch.zeros(1, num_words, config["joint_attention_dim"]),
            "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
            **_positions(rows, columns, num_words, None),
        }

    def read(self, base: Path, asked: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor | None]:
        """T5's last states; as a whole, CLIP's state at the text's end."""
        _, pooled = read_by_clip(base, _CLIP, asked, states=-1)
        return read_by_t5(base, _T5, asked, length=_T5_TOKENS), pooled


def _positions(rows: int, columns: int, num_words: int, device: torch.device | None) -> dict[str, Tensor]:
    """Where tokens are, for the rotary embedding: (0, row, column) of a patch, zeros of a word."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    grid = torch.cartesian_prod(torch.zeros(1, device=device), row.float(), column.float())
    return {"img_ids": grid, "txt_ids": torch.zeros(num_words, 3, device=device)}
