"""The Hugging Face hub: files of a repository at a pinned commit, kept in the hub's own cache (HF_HOME)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hrf.errors import StorageError


def hub_folder(repository: str, revision: str, patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match any of the patterns; returns their folder in the cache.

    Raises:
        StorageError: If the hub doesn't deliver.
    """
    from huggingface_hub import snapshot_download

    with _told(f"hf:{repository}@{revision}"):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


def hub_file(repository: str, revision: str, name: str) -> Path:
    """Download one file of a repository; returns its place in the cache.

    Raises:
        StorageError: If the hub doesn't deliver.
    """
    from huggingface_hub import hf_hub_download

    with _told(f"hf:{repository}/{name}@{revision}"):
        return Path(hf_hub_download(repository, name, revision=revision))


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn the hub's errors into one that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise StorageError(
            uri,
            problem=f"the Hugging Face hub did not deliver: {error}",
            fix="check the name, the revision and the network, or copy the model to S3 or a folder and name that",
        ) from error
