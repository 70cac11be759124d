"""Text-to-image flows of the class of Stable Diffusion 3 and 3.5: StableDiffusion3Pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts, check_sample_size, parts_of
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, read_json, scheduler_config
from hrf.policies.conditioning import PromptEmbeddings, Text
from hrf.policies.kinds.kind import (
    TextToImage,
    latent_side,
    own_sample_shape,
    rewrite_text_encoders,
    write_index,
    write_scheduler,
)
from hrf.policies.schedulers import Timing, flow_scheduler
from hrf.policies.text import read_by_clip, read_by_t5

_CLIPS = ("", "_2")
"""What the names of the two CLIP text encoders and of their tokenizers end in."""
_CLIP = "CLIPTextModelWithProjection"
_CLIP_TOKENS = 77
_T5_TOKENS = 256
"""As its pipeline has it; so many are read of T5, or are zeros without one."""


class StableDiffusion3(TextToImage):
    """Text-to-image flows of the class of Stable Diffusion 3 and 3.5: StableDiffusion3Pipeline."""

    pipeline = "StableDiffusion3Pipeline"
    component = "transformer"
    denoiser = "SD3Transformer2DModel"
    denoiser_settings: Mapping[str, Any] = {}
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite transformer, autoencoder, text encoders, tokenizers and scheduler, one network after the other.

        Raises:
            ConfigError: If it is a model of another class.
            ArtifactError: If a part is missing or damaged.
        """
        encoders = {f"text_encoder{end}": _CLIP for end in _CLIPS}
        tokenizers = {f"tokenizer{end}": "CLIPTokenizer" for end in _CLIPS}
        third = {"text_encoder_3": "T5EncoderModel", "tokenizer_3": "T5Tokenizer"}
        check_parts(
            source,
            (self.component, "vae", *encoders, *tokenizers, *third, "scheduler"),
            left_out=("image_encoder", "feature_extractor"),
        )
        scheduler = scheduler_config(source)
        timesteps = flow_scheduler(scheduler).timesteps
        if "text_encoder_3" in parts_of(source):
            encoders["text_encoder_3"], tokenizers["tokenizer_3"] = third.values()
        denoiser = load_component(source / self.component, self.denoiser)
        config = denoiser.config
        _check_patches(config)
        # Of four patches: as large as its pictures are, an answer of some billion parameters takes minutes.
        small = (config.in_channels, 2 * config.patch_size, 2 * config.patch_size)
        check_answers(denoiser, self.question(config, small), timesteps[[0, -1]])
        denoiser.save_pretrained(target / self.component)
        del denoiser
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        autoencoder.save_pretrained(target / "vae")
        read = rewrite_text_encoders(source, target, encoders, tokenizers)
        _check_fits(config, autoencoder.config, read)
        write_scheduler(scheduler, target)
        write_index(
            target,
            {
                "_class_name": self.pipeline,
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                **{name: [None, None] for name in third},
                **{name: ["transformers", kind] for name, kind in {**encoders, **tokenizers}.items()},
                "transformer": ["diffusers", self.denoiser],
                "vae": ["diffusers", "AutoencoderKL"],
            },
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

    @torch.no_grad()
    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts on the CPU as StableDiffusion3Pipeline does, one text encoder after the other.

        The two CLIPs' last states but one side by side, filled up with zeros to the width that the transformer reads,
        and T5's behind them, or zeros of a model without T5; as a whole, both CLIPs' projections.

        Args:
            base: A model that `normalise` wrote.
            texts: P prompts.
            negative: What guidance leads away from; may be empty.

        Raises:
            ConfigError: If a prompt is longer than a text encoder reads.
            ArtifactError: If a tokenizer or a text encoder can't be loaded.
        """
        asked = [*((text, "prompts") for text in texts), (negative, "prompts.negative")]
        width = int(read_json(base / self.component / "config.json")["joint_attention_dim"])
        clips = [read_by_clip(base, end, _CLIP, asked) for end in _CLIPS]
        beside = torch.cat([tokens for tokens, _ in clips], dim=-1)
        third = (base / "text_encoder_3").is_dir()
        empty = torch.zeros(len(asked), _T5_TOKENS, width)
        behind = read_by_t5(base, "_3", asked, length=_T5_TOKENS) if third else empty
        tokens = torch.cat([pad(beside, (0, width - beside.shape[-1])), behind], dim=1)
        pooled = torch.cat([pooled for _, pooled in clips], dim=-1)
        return PromptEmbeddings(
            prompts=tokens[:-1], negative=tokens[-1], pooled=pooled[:-1], negative_pooled=pooled[-1]
        )

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None: latents are not clamped."""
        del scheduler
        return None


def _check_patches(config: Any) -> None:
    """Refuse sizes that are no number of patches, or more than the transformer has positions for."""
    check_sample_size(config)
    size, patch, most = config.sample_size, config.patch_size, config.pos_embed_max_size
    if not isinstance(size, int) or size % patch or size // patch > most:
        raise ConfigError(
            "model.source",
            expected=f"a `sample_size` that is one number, a multiple of patch_size {patch} and at most {patch * most}",
            got=size,
            fix="write the size that it was trained at into `sample_size` of the transformer's config.json",
        )


def _check_fits(denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
    """Refuse parts that don't belong together."""
    clips = [encoders[f"text_encoder{end}"] for end in _CLIPS]
    channels = (denoiser.in_channels, denoiser.out_channels or denoiser.in_channels, autoencoder.latent_channels)
    beside = sum(clip.hidden_size for clip in clips)
    pooled = (sum(clip.projection_dim for clip in clips), denoiser.pooled_projection_dim)
    widths = {denoiser.joint_attention_dim, *(encoders[name].d_model for name in encoders if name == "text_encoder_3")}
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
