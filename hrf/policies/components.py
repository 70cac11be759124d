"""The parts of a diffusers pipeline folder, one by one: networks, and the scheduler's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError

from hrf.errors import ArtifactError

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def component_folder(model_folder: Path, component: str) -> Path:
    """Where a component of a pipeline lies: in its own folder, or in the model's (the layout of early hub models)."""
    own = model_folder / component
    return own if own.is_dir() else model_folder


def load_component(folder: Path, class_name: str) -> Any:
    """Load a network of diffusers in float32, in evaluation mode.

    Args:
        folder: With `config.json` and the weights.
        class_name: Of the network, as diffusers names it.

    Raises:
        ArtifactError: If the weights are missing, not safetensors, or don't fit their configuration.
    """
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ArtifactError(
            weights,
            problem="no weights in safetensors format (pickled weights are not loaded: they can run code)",
            fix="save the model with diffusers' save_pretrained(safe_serialization=True)",
        )
    try:
        model = getattr(diffusers, class_name).from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            weights, problem=f"not a loadable {class_name}: {error}", fix=f"give a diffusers {class_name}"
        ) from error
    # diffusers notes the path it loaded from; saved again, the same model would differ from machine to machine.
    model.register_to_config(_name_or_path="")
    return model.float().eval()


def denoiser_class(folder: Path) -> str:
    """Name of the class of the denoiser in a folder: `UNet2DConditionModel`, or `UNet2DModel` for all others."""
    file = folder / "config.json"
    named = read_json(file).get("_class_name") if file.is_file() else None
    return "UNet2DConditionModel" if named == "UNet2DConditionModel" else "UNet2DModel"


def load_denoiser(folder: Path) -> Any:
    """Load a UNet, unconditional or text-to-image, in float32, in evaluation mode.

    Raises:
        ArtifactError: As `load_component`.
    """
    return load_component(folder, denoiser_class(folder))


def scheduler_config(model_folder: Path) -> dict[str, Any]:
    """The model's own scheduler configuration.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    return read_json(component_folder(model_folder, "scheduler") / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a pipeline folder's JSON files.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            path, problem=f"cannot be read: {error}", fix="give a folder in diffusers' pipeline layout"
        ) from error
    return content
