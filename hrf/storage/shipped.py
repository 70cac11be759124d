"""Models and classifiers that ship with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hrf.errors import ConfigError
from hrf.storage.folders import read_folder

#: What a `classifier` field may say in place of a local folder -> the shipped folder, and the classifier's place in it.
#: The second one is trained on other drawings, so that what training is on is not what its result is measured by.
SHIPPED_CLASSIFIERS = {"shipped": ("avatars-32", "classifier"), "shipped-second": ("second-classifier", "")}


def shipped_folder(name: str) -> Path:
    """The folder of a model that ships with the package.

    Raises:
        ConfigError: If there is none of that name; the message lists those there are.
        ArtifactError: If a file of it was changed.
    """
    assets = _assets()
    if not (assets / name / "model_index.json").is_file():
        known = sorted(path.parent.name for path in assets.glob("*/model_index.json"))
        raise ConfigError(
            "model.source", expected=f"shipped:NAME with NAME one of {known}", got=name, fix="choose one of these"
        )
    return read_folder(assets / name)


def shipped_classifier(classifier: str) -> Path:
    """The folder of one of `SHIPPED_CLASSIFIERS`.

    Raises:
        ArtifactError: If a file of it was changed.
    """
    folder, place = SHIPPED_CLASSIFIERS[classifier]
    return read_folder(_assets() / folder) / place


def _assets() -> Path:
    return Path(str(resources.files("hrf"))) / "assets"
