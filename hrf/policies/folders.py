"""Diffusion models in diffusers' folder layout: load them, and save a tuned one so that plain diffusers can run it.

A policy folder is a diffusers pipeline folder (`DDPMPipeline.from_pretrained` loads it) with two more things in it:
`policy.json`, which says how it samples and what it came from, and `average/`, the moving average of the weights where
there is one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors import SafetensorError
from torch import Tensor

from hrf.config import Config
from hrf.core.schedule import NoiseSchedule, build_schedule
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.diffusion import DiffusionPolicy

POLICY_FILE = "policy.json"
AVERAGE_FOLDER = "average"
_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def component_folder(model_folder: Path, component: str) -> Path:
    """Where a component of a pipeline lies: in its own folder, or in the model's (the layout of early hub models)."""
    own = model_folder / component
    return own if own.is_dir() else model_folder


def load_denoiser(folder: Path) -> UNet2DModel:
    """Load an unconditional UNet in float32, in evaluation mode.

    Raises:
        ArtifactError: If the weights are missing, not safetensors, or don't fit their configuration.
    """
    weights = folder / _WEIGHTS_FILE
    if not weights.is_file():
        raise ArtifactError(
            weights,
            problem="no weights in safetensors format (pickled weights are not loaded: they can run code)",
            fix="save the model with diffusers' save_pretrained(safe_serialization=True)",
        )
    try:
        model = UNet2DModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            weights, problem=f"not a loadable UNet2DModel: {error}", fix="give an unconditional diffusers UNet2DModel"
        ) from error
    # diffusers notes the path it loaded from; saved again, the same model would differ from machine to machine.
    model.register_to_config(_name_or_path="")
    return model.float().eval()


def scheduler_config(model_folder: Path) -> dict[str, Any]:
    """The model's own scheduler configuration.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    path = component_folder(model_folder, "scheduler") / "scheduler_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            path, problem=f"cannot be read: {error}", fix="give a folder in diffusers' pipeline layout"
        ) from error
    return config


def noise_schedule(scheduler: Mapping[str, Any], config: Config, *, eta: float | None = None) -> NoiseSchedule:
    """The sampler's tables from the model's own betas, offset and final signal fraction.

    Args:
        scheduler: A scheduler configuration as diffusers writes it.
        config: Its `sampler` part decides on steps, spacing, eta and min_std.
        eta: In place of the configured one.

    Raises:
        ConfigError: If the sampler's settings don't fit the model.
    """
    # DDIMScheduler knows diffusers' beta schedules, rescaling and defaults; the equations are ours.
    reference = DDIMScheduler.from_config(dict(scheduler))
    sampler = config.sampler
    try:
        schedule = build_schedule(
            reference.alphas_cumprod,
            num_steps=sampler.steps,
            spacing=sampler.spacing,
            steps_offset=int(reference.config.steps_offset) if sampler.spacing == "leading" else 0,
            final_alpha_bar=float(reference.final_alpha_cumprod),
            eta=sampler.eta if eta is None else eta,
            min_std=sampler.min_std,
        )
    except ValueError as error:
        raise ConfigError(
            "sampler",
            expected=f"settings that fit the model's {len(reference.alphas_cumprod)} training timesteps",
            got=str(error),
            fix="change sampler.steps, sampler.spacing or sampler.min_std",
        ) from error
    if eta is None and schedule.num_trained_steps == 0:
        raise ConfigError(
            "sampler.min_std",
            expected=f"at most the largest step std, {float(schedule.stds.max()):.3g}",
            got=sampler.min_std,
            fix="lower it: no step would be trained",
        )
    return schedule


def load_policy(config: Config, base: Path, weights: Path, *, average: bool = False) -> DiffusionPolicy:
    """Put a policy together from the base model's folder and a policy folder.

    Args:
        config: How to sample and train.
        base: The reference, in diffusers' pipeline layout.
        weights: The policy folder with the weights being tuned; `base` itself for an untrained policy.
        average: Take the moving average of the weights, where the folder has one.

    Returns:
        The policy on the configured device; the reference's weights frozen.

    Raises:
        ArtifactError: If a folder is damaged.
        ConfigError: If the model is no unconditional diffusion model in pixels, or the device is absent.
    """
    device = _device(config)
    scheduler = scheduler_config(base)
    averaged = weights / AVERAGE_FOLDER
    folder = averaged if average and averaged.is_dir() else component_folder(weights, "unet")
    reference = load_denoiser(component_folder(base, "unet")).to(device).requires_grad_(False)
    return DiffusionPolicy(
        denoiser=load_denoiser(folder).to(device),
        schedule=noise_schedule(scheduler, config),
        prediction=_prediction(scheduler),
        clip_range=float(scheduler.get("clip_sample_range", 1.0)) if scheduler.get("clip_sample", True) else None,
        reference=reference,
        switch_step=config.switch_step,
        forward_dtype=_DTYPES[config.model.forward_dtype],
    )


def save_policy(
    folder: Path, denoiser: UNet2DModel, base: Path, about: Mapping[str, Any], average: Mapping[str, Tensor] | None
) -> None:
    """Write a policy folder into an existing empty folder.

    Args:
        folder: Where.
        denoiser: The tuned weights, saved in float32.
        base: Whose scheduler and pipeline description go with them.
        about: What `policy.json` says: switch step, sampler, origin.
        average: Moving average of the weights, by parameter name; None for none.
    """
    denoiser.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        shutil.copyfile(base / name, folder / name)
    (folder / POLICY_FILE).write_text(json.dumps(dict(about), indent=2) + "\n", encoding="utf-8")
    if average is not None:
        averaged = UNet2DModel.from_config(denoiser.config)
        averaged.load_state_dict({**denoiser.state_dict(), **average})
        averaged.save_pretrained(folder / AVERAGE_FOLDER)


def load_average(folder: Path) -> dict[str, Tensor]:
    """The moving average of a policy folder's weights, by parameter name; the weights themselves where it has none."""
    averaged = folder / AVERAGE_FOLDER
    model = load_denoiser(averaged if averaged.is_dir() else component_folder(folder, "unet"))
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def normalise_base(source: Path, target: Path) -> None:
    """Rewrite any accepted layout of an unconditional diffusion model as a pipeline folder with float32 safetensors.

    Raises:
        ArtifactError: If the model can't be loaded.
        ConfigError: If it isn't an unconditional pixel-space model.
    """
    denoiser = load_denoiser(component_folder(source, "unet"))
    if denoiser.config.in_channels != 3 or denoiser.config.out_channels != 3 or denoiser.config.num_class_embeds:
        raise ConfigError(
            "model.source",
            expected="an unconditional model of RGB images (3 channels in and out, no class embedding)",
            got=f"{denoiser.config.in_channels} -> {denoiser.config.out_channels} channels",
            fix="choose a DDPM such as shipped:avatars-32 or hf:google/ddpm-celebahq-256",
        )
    denoiser.save_pretrained(target / "unet")
    scheduler = scheduler_config(source)
    _prediction(scheduler)
    (target / "scheduler").mkdir()
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2), encoding="utf-8")
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", scheduler.get("_class_name", "DDPMScheduler")],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _prediction(scheduler: Mapping[str, Any]) -> Any:
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ConfigError(
            "model.source",
            expected="a model that predicts epsilon, v_prediction or sample",
            got=prediction,
            fix="choose another model",
        )
    return prediction


def _device(config: Config) -> torch.device:
    device = torch.device(config.model.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device", expected="a device that this machine has", got="cuda", fix="write `cpu`, or run on a GPU"
        )
    return device
