"""Reading what was promoted: the pointer, its policy and the history. `hrf.promotion` explains the objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.checkpoint import read_manifest
from hrf.errors import ArtifactError, ConfigError
from hrf.storage import Storage


def check_name(name: str, field: str) -> None:
    """Refuse a name that can't be one folder in object storage.

    Args:
        name: Of an experiment or a run.
        field: What it is the value of, for the message.

    Raises:
        ConfigError: If it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            field,
            expected="a name of letters, digits, '.', '_' and '-' that begins with a letter or digit",
            got=name,
            fix="choose another name",
        )


def read_pointer(storage: Storage, experiment: str) -> dict[str, Any] | None:
    """The record of the last promotion, or None where nothing was promoted yet."""
    found = storage.read_json(f"{experiment}/promoted.json")
    return None if found is None else dict(found[0])


def fetch_candidate(storage: Storage, experiment: str, candidate_id: str, target: str | Path) -> Path:
    """Download a candidate's folder, promoted or not; arguments and errors as of `fetch_incumbent`."""
    key = f"{experiment}/decisions/{candidate_id}.json"
    if (found := storage.read_json(key)) is None:
        raise ArtifactError(
            storage.url(key),
            problem="the decision on the candidate is gone",
            producer=f"the step promote of {candidate_id}",
            fix="restore the object",
        )
    return fetch_incumbent(storage, found[0], target)


def fetch_incumbent(storage: Storage, pointer: Mapping[str, Any], target: str | Path) -> Path:
    """Download the promoted candidate's folder: the policy with its `evaluation.json`.

    Args:
        storage: Where the experiment lives.
        pointer: What `read_pointer` returned, or a decision record.
        target: Where the folder will stand.

    Raises:
        ArtifactError: If it is gone or damaged, or is not the policy that was decided on.
        StorageError: If the storage fails.
    """
    key = str(pointer["candidate_key"])
    folder = storage.download_folder(key, target)
    manifest = read_manifest(folder)
    if manifest.content_digest() != pointer["candidate_digest"]:
        raise ArtifactError(
            storage.url(key),
            problem="not what was decided on: its digest differs from the record's",
            producer=manifest.describe_producer(),
            fix="restore the folder, or promote another candidate",
        )
    return folder


def history(storage: Storage, experiment: str) -> list[dict[str, Any]]:
    """All promotions, oldest first.

    Raises:
        ArtifactError: If the records are not one unbroken chain.
        StorageError: If the storage fails.
    """
    # The pointer first: a promotion that happens meanwhile then only adds to the end.
    pointer = read_pointer(storage, experiment)
    keys = storage.list(f"{experiment}/history/")
    records = [found[0] for key in keys if (found := storage.read_json(key)) is not None]
    # Its promoter may have died before writing the history record.
    if pointer is not None and all(record["sequence"] != pointer["sequence"] for record in records):
        records.append(pointer)
    previous = None
    for sequence, record in enumerate(records, start=1):
        if record["sequence"] != sequence or record["previous"] != previous:
            raise ArtifactError(
                storage.url(f"{experiment}/history/{sequence:06d}.json"),
                problem="the history is no unbroken chain here",
                producer=f"run {record['run_id']}",
                fix="restore the missing record",
            )
        previous = record["candidate_id"]
    return records
