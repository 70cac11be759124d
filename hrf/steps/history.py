"""The history folder: the records of a run's epochs, handed from step to step and extended by each. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.checkpoint import read_folder


def epoch_folder(history: Path, epoch: int) -> Path:
    """Where the records of an epoch lie in a history folder."""
    return history / "epochs" / f"{epoch:04d}"


def extend_history(history: str, folder: Path, epoch: int, records: Mapping[str, Any]) -> Path:
    """Copy a history folder and add JSON records to one of its epochs; returns the epoch's folder."""
    shutil.copytree(read_folder(history) / "epochs", folder / "epochs", dirs_exist_ok=True)
    target = epoch_folder(folder, epoch)
    target.mkdir(exist_ok=True, parents=True)
    for name, record in records.items():
        (target / name).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return target
