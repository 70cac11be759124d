"""The kinds of base model, one file each: all that a run does differently for them, and which one a model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.acceptance import denoiser_of
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, read_json
from hrf.policies.kinds.flux import Flux
from hrf.policies.kinds.kind import Kind
from hrf.policies.kinds.pixel import PixelDiffusion
from hrf.policies.kinds.stable_diffusion import StableDiffusion
from hrf.policies.kinds.stable_diffusion_3 import StableDiffusion3
from hrf.policies.kinds.stable_diffusion_xl import StableDiffusionXL

__all__ = ["Kind", "kind_of", "kind_of_denoiser", "load_denoiser", "normalise_base", "picture_size"]

_KINDS: tuple[Kind, ...] = (PixelDiffusion(), StableDiffusionXL(), StableDiffusion(), StableDiffusion3(), Flux())
"""Of those with a class of denoiser in common, the one with more settings first."""


_DENOISERS = list(dict.fromkeys(kind.denoiser for kind in _KINDS))


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


def kind_of_denoiser(config: Mapping[str, Any]) -> Kind:
    """The kind of a model by its denoiser's configuration, as diffusers writes it.

    Raises:
        ConfigError: If it is none of them.
    """
    name = config.get("_class_name")
    for kind in _KINDS:
        settings = kind.denoiser_settings.items()
        if kind.denoiser == name and all(config.get(setting) == value for setting, value in settings):
            return kind
    raise ConfigError(
        "model.source",
        expected=f"a model whose denoiser is a {' or a '.join(_DENOISERS)}",
        got=f"a {name}",
        fix="choose a DDPM, a Stable Diffusion 1, 2, XL or 3, or a FLUX.1 model, in diffusers' layout",
    )


def picture_size(model: Architecture, config: Config) -> tuple[int, int]:
    """Height and width of a configuration's pictures.

    Raises:
        ConfigError: If the model is of no kind, or makes none of the configured size.
    """
    _, height, width = kind_of_denoiser(model.denoiser).sample_shape(model, config.model.picture_size)
    return model.scale * height, model.scale * width


def load_denoiser(folder: Path) -> Any:
    """Load a denoiser of any kind in float32, in evaluation mode.

    Raises:
        ArtifactError: As `hrf.policies.components.load_component`.
        ConfigError: If it is of no kind.
    """
    return load_component(folder, kind_of_denoiser(read_json(folder / "config.json")).denoiser)


def normalise_base(source: Path, target: Path) -> None:
    """Rewrite any accepted layout of a diffusion model as a pipeline folder with float32 safetensors.

    Raises:
        ArtifactError: If the model can't be loaded.
        ConfigError: If it is of no kind.
    """
    kind_of_denoiser(denoiser_of(source, _DENOISERS)).normalise(source, target)
