"""Where base models come from: the package, a local folder, object storage, or the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hrf.config import Model
from hrf.errors import ConfigError
from hrf.policies.kinds import normalise_base
from hrf.storage.folders import read_manifest, writing_folder
from hrf.storage.hub import hub_folder
from hrf.storage.objects import Storage
from hrf.storage.shipped import shipped_folder

_DENOISERS_AND_DECODER = ("", "unet/", "transformer/", "vae/")
_TEXT_ENCODERS = ("text_encoder/", "text_encoder_2/", "text_encoder_3/")
_WEIGHTS = (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")
HUB_FILES = [
    *("model_index.json", "config.json", "*/config.json", "scheduler_config.json", "scheduler/*.json"),
    *("tokenizer/*", "tokenizer_2/*", "tokenizer_3/*"),
    *(f"{folder}diffusion_pytorch_model{ending}" for folder in _DENOISERS_AND_DECODER for ending in _WEIGHTS),
    *(f"{folder}model{ending}" for folder in _TEXT_ENCODERS for ending in _WEIGHTS),
]
"""Of a repository that also holds the same weights in half precision, as pickles, and in one file."""


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
