"""Where base models come from: the package, a local folder, object storage, or the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hrf.checkpoint import read_folder, read_manifest, writing_folder
from hrf.config import Model
from hrf.errors import ArtifactError, ConfigError, StorageError
from hrf.policies.folders import component_folder, normalise_base, scheduler_config
from hrf.storage import Storage

_HUB_FILES = ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"]
_CONFIGURATION_FILE = "config.json"
_CONFIGURATION_FILES = (
    "config.json",
    "scheduler_config.json",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "vae/config.json",
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The configuration files of a base model, as diffusers writes them."""

    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    decoder: Mapping[str, Any] | None = None
    """Of the autoencoder; None for a model in pixels."""


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
        return _fetch_from_hub(source.removeprefix("hf:"), model.revision, target)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            "model.source",
            expected="an existing folder, shipped:NAME, s3://bucket/prefix or hf:owner/name",
            got=source,
            fix="correct the path, or name where the model comes from",
        )
    return folder


def fetch_architecture(model: Model, target: Path) -> Architecture:
    """What a base model is made of, without its weights.

    Models that presets name are known here; of others only the small configuration files are fetched.

    Args:
        model: As for `fetch_model`.
        target: A folder to download into.

    Raises:
        ConfigError: If there is nothing at the source.
        ArtifactError: If its configuration files are missing or damaged.
        StorageError: If object storage or the hub doesn't deliver.
    """
    source = model.source
    known = resources.files("hrf").joinpath("presets", "architectures")
    name = source.removeprefix("hf:").replace("/", "--") + ".json"
    if source.startswith("hf:") and known.joinpath(name).is_file():
        facts = json.loads(known.joinpath(name).read_text(encoding="utf-8"))
        return Architecture(denoiser=facts["denoiser"], scheduler=facts["scheduler"], decoder=facts.get("decoder"))
    if source.startswith("hf:"):
        folder = _fetch_from_hub(source.removeprefix("hf:"), model.revision, target, _CONFIGURATION_FILES)
    elif source.startswith("s3://"):
        folder = _fetch_configurations(Storage.open(source), target)
    else:
        folder = fetch_model(model, target)
    decoder = folder / "vae" / _CONFIGURATION_FILE
    return Architecture(
        denoiser=_read_configuration(component_folder(folder, "unet") / _CONFIGURATION_FILE),
        scheduler=scheduler_config(folder),
        decoder=_read_configuration(decoder) if decoder.is_file() else None,
    )


def _fetch_configurations(storage: Storage, target: Path) -> Path:
    for name in _CONFIGURATION_FILES:
        found = storage.read_bytes(name)
        if found is not None:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(found[0])
    return target


def _read_configuration(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            path, problem=f"cannot be read: {error}", fix="give a folder in diffusers' pipeline layout"
        ) from error


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


def _fetch_from_hub(repository: str, revision: str, target: Path, patterns: Sequence[str] = _HUB_FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        cached = snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise StorageError(
            f"hf:{repository}@{revision}",
            problem=f"the Hugging Face hub did not deliver: {error}",
            fix="check the name, the revision and the network, or copy the model to S3 or a folder and name that",
        ) from error
    shutil.copytree(cached, target, dirs_exist_ok=True)
    return target


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
