"""The two kinds of base model, and all that a run does differently for them.

Their pipeline's class tells them apart, in `kind_of` and nowhere else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.acceptance import check_answers, check_parts, check_sample_size, denoiser_of
from hrf.policies.components import component_folder, load_component, read_json, scheduler_config
from hrf.policies.conditioning import UNCONDITIONAL, Conditioning, PromptEmbeddings, TextConditioning
from hrf.policies.decoding import PIXELS, Decoder, LatentDecoder
from hrf.policies.schedulers import clip_range_of, training_scheduler
from hrf.policies.text import load_text_encoder, load_tokenizer

_TOKENIZER_FILES = ("*.json", "*.txt")


class Kind(Protocol):
    """A kind of base model."""

    pipeline: str
    """Class of its pipeline in diffusers."""
    denoiser: str
    """Class of its denoiser."""
    policy_files: tuple[str, ...]
    """What goes with tuned weights, besides them."""

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite any accepted layout as a pipeline folder with float32 safetensors."""
        ...

    def check(self, config: Config) -> None:
        """Refuse a configuration for another kind of model."""
        ...

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """How its denoiser is asked."""
        ...

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """Its finished samples to pictures."""
        ...

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """Clamp of its estimated sample; None for none."""
        ...

    def picture_size(self, base: Path) -> tuple[int, int]:
        """Height and width of its pictures, in pixels."""
        ...


class PixelDiffusion:
    """Unconditional models of RGB images: DDPMPipeline."""

    pipeline = "DDPMPipeline"
    denoiser = "UNet2DModel"
    policy_files: tuple[str, ...] = ("model_index.json", "scheduler/scheduler_config.json")

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite a UNet2DModel and its scheduler.

        Raises:
            ConfigError: If it isn't an unconditional pixel-space model.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(source, ("unet", "scheduler"))
        scheduler = _scheduler(source)
        denoiser = load_component(component_folder(source, "unet"), self.denoiser)
        _check_unconditional(denoiser.config)
        check_answers(denoiser, _num_timesteps(scheduler))
        denoiser.save_pretrained(target / "unet")
        _write_scheduler(scheduler, target)
        _write_index(
            target,
            {
                "_class_name": self.pipeline,
                "scheduler": ["diffusers", scheduler["_class_name"]],
                "unet": ["diffusers", self.denoiser],
            },
        )

    def check(self, config: Config) -> None:
        """Refuse prompts.

        Raises:
            ConfigError: If there are any.
        """
        if config.prompts is not None:
            raise ConfigError(
                "prompts",
                expected="null, as the model is an unconditional one",
                got=f"prompts for {config.model.source}",
                fix="remove the prompts, or set model.source to a Stable Diffusion model",
            )

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """Of the state alone."""
        del config, embeddings
        return UNCONDITIONAL

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """The samples are pictures."""
        del base, device
        return PIXELS

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """As the scheduler says; that of samplers without this setting is pictures' own range."""
        return clip_range_of(scheduler, by_default=True)

    def picture_size(self, base: Path) -> tuple[int, int]:
        """That of the samples."""
        return _sides(read_json(base / "unet" / "config.json")["sample_size"])


class StableDiffusion:
    """Text-to-image models of the class of Stable Diffusion 1 and 2: StableDiffusionPipeline."""

    pipeline = "StableDiffusionPipeline"
    denoiser = "UNet2DConditionModel"
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite UNet, autoencoder, text encoder, tokenizer and scheduler; a safety checker is left out.

        Raises:
            ConfigError: If it is a model of another class, such as SDXL or one for inpainting.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(
            source,
            ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
            left_out=("safety_checker", "feature_extractor"),
        )
        scheduler = _scheduler(source)
        denoiser = load_component(source / "unet", self.denoiser)
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        encoder = load_text_encoder(source / "text_encoder")
        tokenizer = load_tokenizer(source / "tokenizer")
        _check_fits(denoiser.config, autoencoder.config, encoder.config, num_tokens=len(tokenizer))
        text = torch.zeros(1, encoder.config.max_position_embeddings, encoder.config.hidden_size)
        check_answers(denoiser, _num_timesteps(scheduler), encoder_hidden_states=text)
        denoiser.save_pretrained(target / "unet")
        autoencoder.save_pretrained(target / "vae")
        encoder.save_pretrained(target / "text_encoder")
        (target / "tokenizer").mkdir()
        for pattern in _TOKENIZER_FILES:
            for file in sorted((source / "tokenizer").glob(pattern)):
                shutil.copyfile(file, target / "tokenizer" / file.name)
        # Absent, it would mean True to some of diffusers' schedulers and False to others; latents are not clamped.
        scheduler = {"clip_sample": False, **scheduler}
        _write_scheduler(scheduler, target)
        _write_index(
            target,
            {
                "_class_name": self.pipeline,
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", self.denoiser],
                "vae": ["diffusers", "AutoencoderKL"],
            },
        )

    def check(self, config: Config) -> None:
        """Demand prompts.

        Raises:
            ConfigError: If there are none.
        """
        if config.prompts is None:
            raise ConfigError(
                "prompts",
                expected="prompts, as the model is a text-to-image one",
                got=None,
                fix="write `prompts: {}` for the animals of the DDPO paper, or name a file of your own",
            )

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """Of a state and a prompt, guided as configured.

        Raises:
            ValueError: If there are no embeddings.
        """
        if embeddings is None:
            raise ValueError("a text-to-image policy needs the embeddings of its prompts")
        return TextConditioning(embeddings=embeddings, guidance_scale=config.model.guidance_scale)

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """By the model's autoencoder."""
        return LatentDecoder(folder=base / "vae", device=device)

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None, unless the scheduler asks for it."""
        return clip_range_of(scheduler, by_default=False)

    def picture_size(self, base: Path) -> tuple[int, int]:
        """That of the latents, times what the autoencoder's stages but the first scale them by, two each."""
        height, width = _sides(read_json(base / "unet" / "config.json")["sample_size"])
        scale = 2 ** (len(read_json(base / "vae" / "config.json")["block_out_channels"]) - 1)
        return scale * height, scale * width


_KINDS: tuple[Kind, ...] = (PixelDiffusion(), StableDiffusion())


def kind_of(base: Path) -> Kind:
    """The kind of a base model that `normalise_base` wrote.

    Raises:
        ArtifactError: If it is none of them.
    """
    name = read_json(base / "model_index.json").get("_class_name")
    for kind in _KINDS:
        if kind.pipeline == name:
            return kind
    raise ArtifactError(
        base / "model_index.json",
        problem=f"a {name}, which is none of {', '.join(kind.pipeline for kind in _KINDS)}",
        fix="run `fetch` again",
    )


def normalise_base(source: Path, target: Path) -> None:
    """Rewrite any accepted layout of a diffusion model as a pipeline folder with float32 safetensors.

    Raises:
        ArtifactError: If the model can't be loaded.
        ConfigError: If it is of neither kind.
    """
    denoiser = denoiser_of(source)
    next(kind for kind in _KINDS if kind.denoiser == denoiser).normalise(source, target)


def _scheduler(source: Path) -> dict[str, Any]:
    """A model's scheduler configuration, which is known to be one of those that can be trained with."""
    scheduler = scheduler_config(source)
    training_scheduler(scheduler)
    return scheduler


def _num_timesteps(scheduler: Mapping[str, Any]) -> int:
    return len(training_scheduler(scheduler).alphas_cumprod)


def _sides(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a `sample_size`."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _check_unconditional(denoiser: Any) -> None:
    """Refuse UNets of other pictures than RGB ones, and those that read a class."""
    check_sample_size(denoiser)
    classes = [f"{name}: {denoiser[name]}" for name in ("class_embed_type", "num_class_embeds") if denoiser[name]]
    if denoiser.in_channels != 3 or denoiser.out_channels != 3 or classes:
        raise ConfigError(
            "model.source",
            expected="an unconditional model of RGB images (3 channels in and out, no class embedding)",
            got=", ".join([f"{denoiser.in_channels} -> {denoiser.out_channels} channels", *classes]),
            fix="choose a DDPM such as shipped:avatars-32 or hf:google/ddpm-celebahq-256",
        )


def _check_fits(denoiser: Any, autoencoder: Any, encoder: Any, *, num_tokens: int) -> None:
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
    if num_tokens > encoder.vocab_size:
        raise ConfigError(
            "model.source",
            expected=f"a tokenizer of the text encoder's {encoder.vocab_size} tokens at most",
            got=f"one of {num_tokens}",
            fix="give the tokenizer that belongs to the text encoder, or one whose embeddings were added to it",
        )


def _write_scheduler(scheduler: Mapping[str, Any], target: Path) -> None:
    (target / "scheduler").mkdir()
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(scheduler), indent=2), encoding="utf-8")


def _write_index(target: Path, index: Mapping[str, Any]) -> None:
    (target / "model_index.json").write_text(json.dumps(dict(index), indent=2), encoding="utf-8")
