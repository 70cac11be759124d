"""The records of a run's epochs, as they lie in folders. Needs no torch.

A policy folder carries the record of every epoch that it was trained in: `updates/0003.json`. The history folder, which
each evaluation extends, has those and all else that an epoch has left: `epochs/0003/{update,evaluation,decision,
steering,merge}.json` and the sample grid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.evaluation.record import EvaluationRecord
from hrf.policies.policy_folder import MERGE
from hrf.promotion.floor import SteeringDecision
from hrf.promotion.records import DecisionRecord, HistoryEntry
from hrf.storage.folders import read_folder
from hrf.storage.names import POLICY_FILE
from hrf.storage.records import Kind, Record
from hrf.trainer.record import EpochRecord, MergeRecord

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


def _update_file(policy: Path, epoch: int) -> Path:
    return policy / UPDATES / f"{epoch:04d}.json"


def write_update(policy: Path, record: EpochRecord) -> None:
    """Add the record of an epoch to the folder of the policy that was trained in it."""
    write_record(_update_file(policy, record.epoch), record.as_json())


def read_update(policy: Path, epoch: int) -> EpochRecord:
    """The record of an epoch that a policy was trained in."""
    return EpochRecord.read(_update_file(policy, epoch))


def extend_history(history: str | None, folder: Path, epoch: int, records: Mapping[str, Record]) -> Path:
    """Copy a history folder, if there is one yet, and add an epoch's records, by their fields in `HistoryEntry`.

    Returns:
        The epoch's folder.
    """
    if history:
        shutil.copytree(read_folder(history) / "epochs", folder / "epochs", dirs_exist_ok=True)
    target = epoch_folder(folder, epoch)
    for name, record in records.items():
        write_record(target / f"{name}.json", record.as_json())
    return target


def add_updates(policy: Path, history: Path) -> None:
    """Add the records that a policy carries, of training and merging, to a history folder that is being written."""
    for source in sorted((policy / UPDATES).glob("*.json")):
        target = epoch_folder(history, int(source.stem))
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / "update.json")
    about = json.loads((policy / POLICY_FILE).read_text(encoding="utf-8"))
    if MERGE in about:
        write_record(target / "merge.json", about[MERGE])


def read_epochs(history: Path) -> list[HistoryEntry]:
    """The records of all epochs of a history folder."""
    return [
        HistoryEntry(
            epoch=int(folder.name),
            update=EpochRecord.read(folder / "update.json"),
            evaluation=_read_if_there(folder / "evaluation.json", EvaluationRecord),
            decision=_read_if_there(folder / "decision.json", DecisionRecord),
            steering=_read_if_there(folder / "steering.json", SteeringDecision),
            merge=_read_if_there(folder / "merge.json", MergeRecord),
        )
        for folder in sorted((history / "epochs").iterdir())
    ]


def read_updates(policy: Path) -> list[HistoryEntry]:
    """The same of a policy folder, which knows of updates only."""
    return [
        HistoryEntry(epoch=int(file.stem), update=EpochRecord.read(file), evaluation=None, decision=None, steering=None)
        for file in sorted((policy / UPDATES).glob("*.json"))
    ]


def _read_if_there(file: Path, kind: type[Kind]) -> Kind | None:
    return kind.read(file) if file.is_file() else None
