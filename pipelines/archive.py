"""A finished or failed run's artifacts and log, stored in its bucket beside what its steps stored themselves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hrf.secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hrf.storage import Storage
    from pipelines.run_state import RunFolder


def archive_run(folder: RunFolder, storage: Storage, experiment: str, environment: Mapping[str, str]) -> None:
    """Upload a run's artifacts and log; what is there already is left alone, and what an earlier attempt left replaced.

    Args:
        folder: The run.
        storage: Where to.
        experiment: The experiment that the run belongs to.
        environment: The variables that the steps ran with: their secrets are blotted out of the log.

    Raises:
        StorageError: If the server refuses or does not answer.
    """
    key = f"{experiment}/runs/{folder.path.name}"
    artifacts = folder.path / "artifacts"
    for path in folder.outputs():
        place = f"{key}/artifacts/{path.relative_to(artifacts).as_posix()}"
        if path.is_dir():
            storage.upload_folder(path, place, replace=True)
        else:
            storage.upload_file(path, place)
    log = folder.path / "kfp.log"
    if log.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            clean = Path(scratch) / "kfp.log"
            text = log.read_text(encoding="utf-8", errors="replace")
            clean.write_text(without_secrets(text, {**os.environ, **environment}), encoding="utf-8")
            storage.upload_file(clean, f"{key}/kfp.log")
