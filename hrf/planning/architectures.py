"""Where configuration files of base models come from, without their weights: enough to compute what a run takes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from hrf.config import Model
from hrf.policies.architecture import Architecture
from hrf.policies.policy_folder import DENOISER_FOLDERS
from hrf.policies.sources import fetch_model
from hrf.storage.hub import hub_folder
from hrf.storage.objects import Storage

_CONFIGURATIONS = (
    "config.json",
    "scheduler_config.json",
    *(f"{folder}/config.json" for folder in DENOISER_FOLDERS),
    "scheduler/scheduler_config.json",
    "vae/config.json",
)


def fetch_architecture(model: Model, target: Path) -> Architecture:
    """Bring the configuration files of a base model.

    Those of models that presets name are here already; of others the files alone are fetched, a few kB.

    Args:
        model: Where it is; see `hrf.policies.sources.fetch_model`.
        target: A folder to download into.

    Raises:
        ConfigError: If there is nothing at the source.
        ArtifactError: If its configuration files are missing or damaged.
        StorageError: If object storage or the hub doesn't deliver.
    """
    source = model.source
    repository = source.removeprefix("hf:")
    if source.startswith("hf:"):
        known = resources.files("hrf").joinpath("presets", "architectures", f"{repository.replace('/', '--')}.json")
        if known.is_file():
            facts = json.loads(known.read_text(encoding="utf-8"))
            return Architecture(denoiser=facts["denoiser"], scheduler=facts["scheduler"], decoder=facts.get("decoder"))
        folder = hub_folder(repository, model.revision, _CONFIGURATIONS)
    elif source.startswith("s3://"):
        folder = _fetch_configurations(Storage.open(source), target)
    else:
        folder = fetch_model(model, target)
    return Architecture.of(folder)


def _fetch_configurations(storage: Storage, target: Path) -> Path:
    for name in _CONFIGURATIONS:
        found = storage.read_bytes(name)
        if found is not None:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(found[0])
    return target
