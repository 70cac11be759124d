"""Reading what was promoted: the pointer, its policy and the history. `hrf.promotion.protocol` explains the objects.

All of it raises a StorageError where the storage fails.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hrf.errors import ArtifactError, ConfigError
from hrf.promotion.records import DecisionRecord, Promotion
from hrf.storage.folders import read_manifest
from hrf.storage.objects import Storage
from hrf.storage.records import read_record, read_records, read_versioned


def check_name(name: str, field: str) -> None:
    """Refuse a name, of an experiment or a run, that can't be one folder in object storage.

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


def read_pointer(storage: Storage, experiment: str) -> Promotion | None:
    """The record of the last promotion, or None where nothing was promoted yet; errors as of `versioned_pointer`."""
    found = versioned_pointer(storage, experiment)
    return None if found is None else found[0]


def versioned_pointer(storage: Storage, experiment: str) -> tuple[Promotion, str] | None:
    """The record of the last promotion and its ETag, or None where nothing was promoted yet.

    Raises:
        ArtifactError: If the record is damaged, or of another version.
    """
    fix = f"copy the last record below {storage.url(f'{experiment}/history/')} to promoted.json"
    return read_versioned(storage, f"{experiment}/promoted.json", Promotion, if_damaged=fix)


def fetch_candidate(storage: Storage, experiment: str, candidate_id: str, target: str | Path) -> Path:
    """Download a candidate's folder, promoted or not; arguments and errors as of `fetch_incumbent`."""
    key = f"{experiment}/decisions/{candidate_id}.json"
    if (found := read_record(storage, key, DecisionRecord)) is None:
        raise ArtifactError(
            storage.url(key),
            problem="the decision on the candidate is gone",
            producer=f"the step promote of {candidate_id}",
            fix="restore the object",
        )
    return fetch_incumbent(storage, found, target)


def fetch_incumbent(storage: Storage, record: Promotion | DecisionRecord, target: str | Path) -> Path:
    """Download the promoted candidate's folder: the policy with its `evaluation.json`.

    Raises:
        ArtifactError: If it is gone or damaged, or is not the policy that was decided on.
    """
    folder = storage.download_folder(record.candidate_key, target)
    manifest = read_manifest(folder)
    if manifest.content_digest() != record.candidate_digest:
        raise ArtifactError(
            storage.url(record.candidate_key),
            problem="not what was decided on: its digest differs from the record's",
            producer=manifest.describe_producer(),
            fix="restore the folder, or promote another candidate",
        )
    return folder


def read_candidate_json(storage: Storage, promotion: Promotion, name: str) -> dict[str, Any]:
    """A JSON file of a promoted candidate's folder, without the rest of it.

    Raises:
        ArtifactError: If it is gone or damaged, or the folder is not the one that was promoted.
    """
    text = storage.read_file(promotion.candidate_key, name, content_digest=promotion.candidate_digest)
    return dict(json.loads(text))


def history(storage: Storage, experiment: str) -> list[Promotion]:
    """All promotions, oldest first.

    Raises:
        ArtifactError: If the records are not one unbroken chain, or one is damaged.
    """
    # The pointer first: a promotion that happens meanwhile then only adds to the end.
    pointer = read_pointer(storage, experiment)
    records = read_records(storage, f"{experiment}/history", Promotion)
    # Its promoter may have died before writing the history record.
    if pointer is not None and all(record.sequence != pointer.sequence for record in records):
        records.append(pointer)
    previous = None
    for sequence, record in enumerate(records, start=1):
        if record.sequence != sequence or record.previous != previous:
            raise ArtifactError(
                storage.url(f"{experiment}/history/{sequence:06d}.json"),
                problem="the history is no unbroken chain here",
                producer=f"run {record.run_id}",
                fix="restore the missing record",
            )
        previous = record.candidate_id
    return records
