"""What a base model is made of, without its weights: the configuration files of its networks and of its scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers

from hrf.policies.components import read_json, scheduler_config
from hrf.policies.policy_folder import denoiser_folder

_CONFIGURATION = "config.json"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The configuration files of a base model, as diffusers writes them."""

    denoiser: Mapping[str, Any]
    """As it is in its file, which may leave settings to its class."""
    scheduler: Mapping[str, Any]
    decoder: Mapping[str, Any] | None = None
    """Of the autoencoder; None for a model in pixels."""

    @classmethod
    def of(cls, folder: Path) -> Architecture:
        """Read those of a model in diffusers' layout.

        Raises:
            ArtifactError: If one is missing or damaged.
        """
        decoder = folder / "vae" / _CONFIGURATION
        return cls(
            denoiser=read_json(denoiser_folder(folder) / _CONFIGURATION),
            scheduler=scheduler_config(folder),
            decoder=read_json(decoder) if decoder.is_file() else None,
        )

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The denoiser's configuration, with what it leaves to its class."""
        name = self.denoiser.get("_class_name")
        known = inspect.signature(getattr(diffusers, name).__init__).parameters if name else {}
        left = {setting: field.default for setting, field in known.items() if field.default is not field.empty}
        return {**left, **self.denoiser}

    @property
    def scale(self) -> int:
        """Pixels per side of a sample's element: two for each of the autoencoder's stages but the first."""
        return 1 if self.decoder is None else 2 ** (len(self.decoder["block_out_channels"]) - 1)
