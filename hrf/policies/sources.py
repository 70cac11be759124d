"""Where base models come from: the package, a local folder, object storage, or the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from hrf.config import Model
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.kinds import normalise_base
from hrf.storage.folders import read_folder, read_manifest, writing_folder
from hrf.storage.hub import hub_folder
from hrf.storage.objects import Storage

_WEIGHTS = (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")
HUB_FILES = [
    *("model_index.json", "config.json", "*/config.json", "scheduler_config.json", "scheduler/*.json", "tokenizer/*"),
    *(f"{folder}diffusion_pytorch_model{ending}" for folder in ("", "unet/", "vae/") for ending in _WEIGHTS),
    *(f"text_encoder/model{ending}" for ending in _WEIGHTS),
]
"""Of a repository that also holds the same weights in half precision, as pickles, and in one file."""


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


def fetch_model(model: Model, target: Path) -> Path:
    """Bring a base model to this machine.

    Args:
        model: Its `source` is `shipped:NAME`, `s3://bucket/prefix`, `hf:owner/name` (with `revision`) or a folder.
        target: A folder to download into; local sources are used where they are.

    Returns:
        The folder that holds the model.

    Raises:
        ConfigError: If there is nothing at the source.
        StorageError: If object storage or the hub doesn't deliver.
    """
    source = model.source
    if source.startswith("shipped:"):
        return shipped_folder(source.removeprefix("shipped:"))
    if source.startswith("s3://"):
        return Storage.open(source).download_all(target)
    if source.startswith("hf:"):
        cached = hub_folder(source.removeprefix("hf:"), model.revision, HUB_FILES)
        return Path(shutil.copytree(cached, target, dirs_exist_ok=True))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            "model.source",
            expected="an existing folder, shipped:NAME, s3://bucket/prefix or hf:owner/name",
            got=source,
            fix="correct the path, or name where the model comes from",
        )
    return folder


def fetch_base(model: Model, target: Path, producer: Mapping[str, object]) -> str:
    """Fetch a base model and write it as a pipeline folder with a manifest.

    Args:
        model: Where it is.
        target: The folder to write.
        producer: For the manifest.

    Returns:
        The digest of its contents, which is the same wherever it came from.
    """
    with tempfile.TemporaryDirectory() as scratch, writing_folder(target, producer=producer) as folder:
        normalise_base(fetch_model(model, Path(scratch) / "model"), folder)
    return read_manifest(target).content_digest()


def classifier_folder(classifier: str, field: str) -> Path:
    """The folder of an image classifier: `shipped` or a path.

    Raises:
        ArtifactError: If it holds no classifier.
    """
    folder = shipped_folder("avatars-32") / "classifier" if classifier == "shipped" else Path(classifier).expanduser()
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            folder, problem="no classifier (config.json, model.safetensors) here", fix=f"correct {field}"
        )
    return folder
