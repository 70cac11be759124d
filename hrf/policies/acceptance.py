"""What a folder must hold to be a base model: the parts that a kind of model has, a UNet that needs nothing else.

A part that is not looked at could change what the model is (an autoencoder makes a model of latents, not of pixels), so
that one which is not known is a refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from hrf.errors import ConfigError
from hrf.policies.components import DENOISERS, component_folder, denoiser_class, read_json

_INDEX = "model_index.json"
_LIBRARY = {"_class_name", "architectures", "model_type"}
"""Settings by which a configuration is one of a network of diffusers or transformers."""
_FIX = "choose a DDPM, or a Stable Diffusion 1 or 2 model; those with other parts, such as SDXL, are not tuned here"


def denoiser_of(source: Path) -> str:
    """Class of the denoiser of a model in diffusers' layout, with or without `model_index.json`.

    Raises:
        ArtifactError: If its files are missing or damaged.
        ConfigError: If its denoiser is none that can be tuned here.
    """
    parts = _parts(source)
    if "unet" not in parts:
        raise ConfigError(
            "model.source",
            expected=f"a model whose denoiser is a {' or a '.join(DENOISERS)}, its component `unet`",
            got=_described(source, parts),
            fix=_FIX,
        )
    return denoiser_class(component_folder(source, "unet"))


def check_parts(source: Path, used: Collection[str], *, left_out: Collection[str] = ()) -> None:
    """Refuse a model with parts that would be ignored.

    Args:
        source: A model in diffusers' layout.
        used: Names of the components that its kind has.
        left_out: Names of those that make no difference to what it draws.

    Raises:
        ArtifactError: If its index is damaged.
        ConfigError: If it has others.
    """
    others = {name: kind for name, kind in _parts(source).items() if name not in used and name not in left_out}
    if others:
        raise ConfigError(
            "model.source",
            expected=f"a model of the parts {', '.join(used)} and no other, which would be ignored",
            got=_described(source, others),
            fix=_FIX,
        )


def check_sample_size(config: Mapping[str, Any]) -> None:
    """Refuse a UNet that doesn't say how large its samples are.

    Args:
        config: The UNet's.

    Raises:
        ConfigError: If `sample_size` is neither a number nor two.
    """
    size = config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(
            "model.source",
            expected="a UNet that says how large its samples are: a number, or height and width, as `sample_size`",
            got=size,
            fix="write the size that it was trained at into `sample_size` of the UNet's config.json",
        )


@torch.no_grad()
def check_answers(denoiser: Any, num_timesteps: int, **conditions: torch.Tensor) -> None:
    """Ask a UNet as a run will, at its first and its last timestep, and refuse one that doesn't answer.

    Args:
        denoiser: With `sample_size` and `in_channels` in its configuration.
        num_timesteps: T.
        conditions: What else it is given, such as a text; each with a batch axis of 1.

    Raises:
        ConfigError: If it asks for more, can't be run at its own size, or answers with something else than finite
            numbers of the sample's shape.
    """
    size = denoiser.config.sample_size
    shape = (1, denoiser.config.in_channels, *((size, size) if isinstance(size, int) else size))
    try:
        timesteps = (0, num_timesteps - 1)
        answers = [denoiser(torch.zeros(shape), torch.tensor([at]), **conditions).sample for at in timesteps]
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError) as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if all(answer.shape == shape and bool(answer.isfinite().all()) for answer in answers):
            return
        problem = "numbers that are not finite" if answers[0].shape == shape else f"shape {list(answers[0].shape)}"
    raise ConfigError(
        "model.source",
        expected=f"a UNet that answers to {'a sample' if not conditions else 'a sample, a text'} and a timestep alone, "
        f"with finite numbers of the sample's shape {list(shape[1:])}",
        got=problem,
        fix="choose another model; if this one is right, correct the UNet's config.json and weights",
    )


def _parts(source: Path) -> dict[str, str]:
    """Name -> class of a model's components: those of its index, and the networks in its folders."""
    index = read_json(source / _INDEX) if (source / _INDEX).is_file() else {"unet": [""]}
    named = {name: str(entry[-1]) for name, entry in index.items() if isinstance(entry, list) and entry[-1] is not None}
    configs = {path.parent.name: read_json(path) for path in sorted(source.glob("*/config.json"))}
    # Of diffusers, or of transformers; a classifier of ours may lie beside a model.
    networks = {name: str(config.get("_class_name", "")) for name, config in configs.items() if _LIBRARY & {*config}}
    return {**networks, **named}


def _described(source: Path, parts: Mapping[str, str]) -> str:
    pipeline = read_json(source / _INDEX).get("_class_name") if (source / _INDEX).is_file() else "a folder"
    return f"{pipeline} with {', '.join(f'{name} ({kind})' if kind else name for name, kind in parts.items())}"
