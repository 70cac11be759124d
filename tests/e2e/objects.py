"""What is in object storage after a run, in a form that two runs can be compared by."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hrf.storage.objects import Storage
from hrf_pipelines.local.embedded_s3 import EmbeddedS3

VARYING = frozenset({"time", "seconds"})


@contextlib.contextmanager
def storage_of(work_dir: Path) -> Iterator[Storage]:
    """The storage of a work directory's own server, which runs within the block."""
    with EmbeddedS3.start(work_dir / "s3", "hrf") as server:
        yield Storage.open("s3://hrf", environment=server.environment())


def read(storage: Storage, key: str) -> Any:
    """A JSON object that is there."""
    found = storage.read_json(key)
    assert found is not None, f"{key} is absent"
    return found[0]


def records(storage: Storage, experiment: str, run_id: str) -> dict[str, Any]:
    """Everything that a run has decided, without its name and the times: equal runs have equal records.

    Of the candidates it holds the digest of every file.
    """
    found: dict[str, Any] = {"pointer": read(storage, f"{experiment}/promoted.json")}
    for kind in ("history", "decisions", "attempts"):
        for key in storage.list(f"{experiment}/{kind}/"):
            if kind == "history" or run_id in key:
                found[key] = read(storage, key)
                found[key].pop("pointer_etag", None)
    for key in storage.list(f"{experiment}/candidates/{run_id}/"):
        if key.endswith("/manifest.json"):
            found[key] = read(storage, key)["files"]
    return without_run(found, run_id)


def without_run(value: Any, run_id: str) -> Any:
    """A record without times, and with RUN for the run's name."""
    return json.loads(json.dumps(_without_times(value)).replace(run_id, "RUN"))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(entry) for key, entry in value.items() if key not in VARYING}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value


def copy_experiment(source: Storage, target: Storage, experiment: str, folder: Path) -> None:
    """Copy everything of an experiment into another storage, by way of a folder of this machine."""
    for key in source.list(f"{experiment}/"):
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        found = source.read_bytes(key)
        assert found is not None
        file.write_bytes(found[0])
        target.upload_file(file, key)
