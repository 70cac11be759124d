"""Text-to-image models of the class of Stable Diffusion 1 and 2: StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts, check_sample_size
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, scheduler_config
from hrf.policies.conditioning import PromptEmbeddings, Text
from hrf.policies.kinds.kind import TextToImage, own_sample_shape, rewrite_text_encoders, write_index, write_scheduler
from hrf.policies.schedulers import clip_range_of, training_scheduler
from hrf.policies.text import embed_prompts

_PROMPT_TOKENS = 77
"""CLIP's context length."""
_ENCODERS = {"text_encoder": "CLIPTextModel"}
_TOKENIZERS = {"tokenizer": "CLIPTokenizer"}


class StableDiffusion(TextToImage):
    """Text-to-image models of the class of Stable Diffusion 1 and 2: StableDiffusionPipeline."""

    pipeline = "StableDiffusionPipeline"
    component = "unet"
    denoiser = "UNet2DConditionModel"
    denoiser_settings: Mapping[str, Any] = {}
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite UNet, autoencoder, text encoder, tokenizer and scheduler; a safety checker is left out.

        Raises:
            ConfigError: If it is a model of another class, such as SDXL or one for inpainting.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(
            source,
            (self.component, "vae", *_ENCODERS, *_TOKENIZERS, "scheduler"),
            left_out=("safety_checker", "feature_extractor"),
        )
        scheduler = scheduler_config(source)
        num_timesteps = len(training_scheduler(scheduler).alphas_cumprod)
        denoiser = load_component(source / self.component, self.denoiser)
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        read = rewrite_text_encoders(source, target, _ENCODERS, _TOKENIZERS)
        _check_fits(denoiser.config, autoencoder.config, read["text_encoder"])
        shape = own_sample_shape(Architecture(denoiser=denoiser.config, scheduler=scheduler), None)
        check_answers(denoiser, self.question(denoiser.config, shape), torch.tensor([0, num_timesteps - 1]))
        denoiser.save_pretrained(target / self.component)
        autoencoder.save_pretrained(target / "vae")
        # Absent, it would mean True to some of diffusers' schedulers and False to others; latents are not clamped.
        scheduler = {"clip_sample": False, **scheduler}
        write_scheduler(scheduler, target)
        write_index(
            target,
            {
                "_class_name": self.pipeline,
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                **{name: ["transformers", kind] for name, kind in {**_ENCODERS, **_TOKENIZERS}.items()},
                "unet": ["diffusers", self.denoiser],
                "vae": ["diffusers", "AutoencoderKL"],
            },
        )

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

    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """The last hidden state of the one text encoder; see `hrf.policies.text`."""
        return embed_prompts(base, texts, negative=negative)

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None, unless the scheduler asks for it."""
        return clip_range_of(scheduler, by_default=False)


def _check_fits(denoiser: Any, autoencoder: Any, encoder: Any) -> None:
    """Refuse UNets that read more than a latent, a timestep and a text, and parts that don't belong together."""
    check_sample_size(denoiser)
    extras = (
        "addition_embed_type",
        "class_embed_type",
        "num_class_embeds",
        "encoder_hid_dim_type",
        "time_cond_proj_dim",
    )
    found = [name for name in extras if denoiser.get(name) is not None]
    channels = (denoiser.in_channels, denoiser.out_channels, autoencoder.latent_channels)
    widths = (denoiser.cross_attention_dim, encoder.hidden_size)
    if found or len(set(channels)) > 1 or len(set(widths)) > 1 or autoencoder.out_channels != 3:
        raise ConfigError(
            "model.source",
            expected="a UNet of latents, timesteps and one text: as many channels in and out as the autoencoder has, "
            "whose pictures are RGB, and a text encoder of the width that it reads",
            got=f"channels {channels} and {autoencoder.out_channels}, widths {widths}"
            + (f", with {', '.join(found)}" if found else ""),
            fix="choose a Stable Diffusion 1 or 2 text-to-image model; none for inpainting, depth or upscaling",
        )
