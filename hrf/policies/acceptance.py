"""What a folder must hold to be a base model: the parts that a kind of model has, a denoiser that needs nothing else.

A part that is not looked at could change what the model is (an autoencoder makes a model of latents, not of pixels), so
that one which is not known is a refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from hrf.errors import ConfigError
from hrf.policies.components import read_json
from hrf.policies.policy_folder import denoiser_folder

_INDEX = "model_index.json"
_LIBRARY = {"_class_name", "architectures", "model_type"}
"""Settings by which a configuration is one of a network of diffusers or transformers."""
_FIX = "choose a DDPM, a Stable Diffusion 1, 2, XL or 3, or a FLUX.1 model; those with other parts are not tuned here"


def denoiser_of(source: Path, known: Collection[str]) -> dict[str, Any]:
    """Configuration of the denoiser of a model in diffusers' layout, with or without `model_index.json`.

    Args:
        source: The model.
        known: Classes of denoisers that can be tuned; the class itself is not checked where it is a UNet.

    Raises:
        ArtifactError: If its files are missing or damaged.
        ConfigError: If its denoiser is none that can be tuned here.
    """
    parts = parts_of(source)
    if "unet" not in parts and parts.get("transformer") not in known:
        raise ConfigError(
            "model.source",
            expected=f"a model whose denoiser is a {' or a '.join(known)}, its component `unet` or `transformer`",
            got=_described(source, parts),
            fix=_FIX,
        )
    return read_json(denoiser_folder(source) / "config.json")


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
    others = {name: kind for name, kind in parts_of(source).items() if name not in used and name not in left_out}
    if others:
        raise ConfigError(
            "model.source",
            expected=f"a model of the parts {', '.join(used)} and no other, which would be ignored",
            got=_described(source, others),
            fix=_FIX,
        )


def check_sample_size(config: Mapping[str, Any]) -> None:
    """Refuse a denoiser that doesn't say how large its samples are.

    Args:
        config: The denoiser's.

    Raises:
        ConfigError: If `sample_size` is neither a number nor two.
    """
    size = config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(
            "model.source",
            expected="a denoiser that says how large its samples are: a number, or height and width, as `sample_size`",
            got=size,
            fix="write the size that it was trained at into `sample_size` of the denoiser's config.json",
        )


@torch.no_grad()
def check_answers(denoiser: Any, question: Mapping[str, Any], timesteps: torch.Tensor) -> None:
    """Ask a denoiser as a run will, and refuse one that doesn't answer.

    Args:
        denoiser: The network.
        question: As its kind has it: the sample first.
        timesteps: The first and the last that it will be asked at.

    Raises:
        ConfigError: If it asks for more, can't be run at its own size, or answers with something else than finite
            numbers of the sample's shape.
    """
    shape = next(iter(question.values())).shape
    try:
        answers = [denoiser(**{**question, "timestep": at[None]}).sample for at in timesteps]
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError) as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if all(answer.shape == shape and bool(answer.isfinite().all()) for answer in answers):
            return
        problem = "numbers that are not finite" if answers[0].shape == shape else f"shape {list(answers[0].shape)}"
    raise ConfigError(
        "model.source",
        expected=f"a {type(denoiser).__name__} that answers to {' and '.join(question)} alone, with finite numbers of "
        f"the sample's shape {list(shape[1:])}",
        got=problem,
        fix="choose another model; if this one is right, correct the denoiser's config.json and weights",
    )


def parts_of(source: Path) -> dict[str, str]:
    """Name -> class of a model's components: those of its index, and the networks in its folders.

    Raises:
        ArtifactError: If a file is damaged.
    """
    flat = {} if (source / "transformer").is_dir() else {"unet": [""]}
    index = read_json(source / _INDEX) if (source / _INDEX).is_file() else flat
    named = {name: str(entry[-1]) for name, entry in index.items() if isinstance(entry, list) and entry[-1] is not None}
    configs = {path.parent.name: read_json(path) for path in sorted(source.glob("*/config.json"))}
    # Of diffusers, or of transformers; a classifier of ours may lie beside a model.
    networks = {name: str(config.get("_class_name", "")) for name, config in configs.items() if _LIBRARY & {*config}}
    return {**networks, **named}


def _described(source: Path, parts: Mapping[str, str]) -> str:
    pipeline = read_json(source / _INDEX).get("_class_name") if (source / _INDEX).is_file() else "a folder"
    return f"{pipeline} with {', '.join(f'{name} ({kind})' if kind else name for name, kind in parts.items())}"
