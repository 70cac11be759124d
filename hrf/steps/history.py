"""The records of a run's epochs, as they lie in folders. Needs no torch.

A policy folder carries the record of every epoch that it was trained in: `updates/0003.json`. The history folder, which
each evaluation extends, has those and all else that an epoch has left: `epochs/0003/{update,evaluation,decision,
steering}.json` and the sample grid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.storage.folders import read_folder

UPDATES = "updates"


def epoch_folder(history: Path, epoch: int) -> Path:
    """Where the records of an epoch lie in a history folder."""
    return history / "epochs" / f"{epoch:04d}"


def write_record(file: Path, record: Any) -> None:
    """Write one JSON record, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def copy_updates(policy: Path, target: Path) -> None:
    """Copy a policy's update records, if it has been trained at all, into another policy folder."""
    if (policy / UPDATES).is_dir():
        shutil.copytree(policy / UPDATES, target / UPDATES)


def update_file(policy: Path, epoch: int) -> Path:
    """Where a policy folder keeps the record of an epoch that it was trained in."""
    return policy / UPDATES / f"{epoch:04d}.json"


def read_update(policy: Path, epoch: int) -> dict[str, Any]:
    """The record of an epoch that a policy was trained in."""
    record: dict[str, Any] = json.loads(update_file(policy, epoch).read_text(encoding="utf-8"))
    return record


def extend_history(history: str | None, folder: Path, epoch: int, records: Mapping[str, Any]) -> Path:
    """Copy a history folder and add JSON records to one of its epochs.

    Args:
        history: The history so far; None before the first evaluation.
        folder: Where the longer one is written.
        epoch: Whose records they are.
        records: File name -> record.

    Returns:
        The epoch's folder.
    """
    if history:
        shutil.copytree(read_folder(history) / "epochs", folder / "epochs", dirs_exist_ok=True)
    target = epoch_folder(folder, epoch)
    for name, record in records.items():
        write_record(target / name, record)
    return target


def add_updates(policy: Path, history: Path) -> None:
    """Add the update records that a policy carries to a history folder that is being written."""
    for source in sorted((policy / UPDATES).glob("*.json")):
        target = epoch_folder(history, int(source.stem))
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / "update.json")


EVALUATED = ("evaluation", "decision", "steering")
"""What an epoch has left besides its update, if it was evaluated, and the run is held above a floor."""


def read_epochs(history: Path) -> list[dict[str, Any]]:
    """The records of all epochs of a history folder: `epoch`, `update`, and `EVALUATED`; None for what there is not."""
    return [
        {"epoch": int(folder.name), **{name: _read(folder / f"{name}.json") for name in ("update", *EVALUATED)}}
        for folder in sorted((history / "epochs").iterdir())
    ]


def read_updates(policy: Path) -> list[dict[str, Any]]:
    """The same of a policy folder, which knows of updates only."""
    files = sorted((policy / UPDATES).glob("*.json"))
    return [{"epoch": int(file.stem), "update": _read(file), **dict.fromkeys(EVALUATED)} for file in files]


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
