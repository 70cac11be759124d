"""Unconditional models of RGB images: DDPMPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts, check_sample_size
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, scheduler_config
from hrf.policies.conditioning import UNCONDITIONAL, Conditioning, PromptEmbeddings
from hrf.policies.decoding import PIXELS, Decoder
from hrf.policies.kinds.kind import own_sample_shape, write_index, write_scheduler
from hrf.policies.policy_folder import denoiser_folder
from hrf.policies.schedulers import Timing, clip_range_of, training_scheduler


class PixelDiffusion:
    """Unconditional models of RGB images: DDPMPipeline."""

    pipeline = "DDPMPipeline"
    component = "unet"
    denoiser = "UNet2DModel"
    denoiser_settings: Mapping[str, Any] = {}
    policy_files: tuple[str, ...] = ("model_index.json", "scheduler/scheduler_config.json")

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite a UNet2DModel and its scheduler.

        Raises:
            ConfigError: If it isn't an unconditional pixel-space model.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(source, (self.component, "scheduler"))
        scheduler = scheduler_config(source)
        num_timesteps = len(training_scheduler(scheduler).alphas_cumprod)
        denoiser = load_component(denoiser_folder(source), self.denoiser)
        _check_unconditional(denoiser.config)
        shape = own_sample_shape(Architecture(denoiser=denoiser.config, scheduler=scheduler), None)
        check_answers(denoiser, self.question(denoiser.config, shape), torch.tensor([0, num_timesteps - 1]))
        denoiser.save_pretrained(target / self.component)
        write_scheduler(scheduler, target)
        write_index(
            target,
            {
                "_class_name": self.pipeline,
                "scheduler": ["diffusers", scheduler["_class_name"]],
                "unet": ["diffusers", self.denoiser],
            },
        )

    def check(self, config: Config, model: Architecture) -> None:
        """Refuse prompts.

        Raises:
            ConfigError: If there are any.
        """
        del model
        if config.prompts is not None:
            raise ConfigError(
                "prompts",
                expected="null, as the model is an unconditional one",
                got=f"prompts for {config.model.source}",
                fix="remove the prompts, or set model.source to a Stable Diffusion model",
            )

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """As the denoiser's configuration says."""
        return own_sample_shape(model, picture_size)

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing | None:
        """None: its process is a variance-preserving one."""
        del config, shape
        return None

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """A picture and a timestep."""
        del config
        return {"sample": torch.zeros(1, *shape), "timestep": torch.zeros(1, dtype=torch.int64)}

    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """There is nothing to read them.

        Raises:
            ValueError: Always.
        """
        del base, texts, negative
        raise ValueError("an unconditional model was given prompts")

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
