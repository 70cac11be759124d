"""A finished or failed run's artifacts and log, stored in its bucket beside what its steps stored themselves."""

from __future__ import annotations

from hrf.storage.objects import Storage
from hrf_pipelines.local.run_state import RunFolder


def archive_run(folder: RunFolder, storage: Storage, experiment: str) -> None:
    """Upload a run's artifacts and log; what is there already is left alone, and what an earlier attempt left replaced.

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
        storage.upload_file(log, f"{key}/kfp.log")
