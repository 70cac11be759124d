"""Models that ship with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hrf.errors import ConfigError
from hrf.storage.folders import read_folder


def shipped_folder(name: str) -> Path:
    """The folder of a model that ships with the package.

    Raises:
        ConfigError: If there is none of that name; the message lists those there are.
        ArtifactError: If a file of it was changed.
    """
    assets = Path(str(resources.files("hrf"))) / "assets"
    folder = assets / name
    if not (folder / "model_index.json").is_file():
        known = sorted(path.name for path in assets.iterdir() if path.is_dir()) if assets.is_dir() else []
        raise ConfigError(
            "model.source", expected=f"shipped:NAME with NAME one of {known}", got=name, fix="choose one of these"
        )
    return read_folder(folder)
