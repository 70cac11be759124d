"""One run that nobody disturbs, which the tests of this folder compare with, look at, and start from."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hrf_pipelines.local.embedded_s3 import EmbeddedS3
from tests.e2e.commands import Said, events, hrf, only_run, promoting
from tests.e2e.objects import records, storage_of

EXPERIMENT = "roughness"


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run from beginning to end, and what it left in its storage."""

    work_dir: Path
    folder: Path
    said: Said
    timeline: list[float]
    """Seconds from the command's start: 0, the start of every step, the command's end."""
    records: dict[str, Any]

    @property
    def run_id(self) -> str:
        return self.folder.name


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """`hrf run` on the smoke preset with settings that promote."""
    work_dir = tmp_path_factory.mktemp("undisturbed")
    with removed_at_the_end(work_dir):
        yield _run_undisturbed(work_dir)


def _run_undisturbed(work_dir: Path) -> Undisturbed:
    began = time.time()
    said = hrf(*run_command(work_dir))
    assert said.exit_code == 0, said.output
    starts = [event["time"] - began for event in events(work_dir) if event["event"] == "step-started"]
    folder = only_run(work_dir)
    with storage_of(work_dir) as storage:
        found = records(storage, EXPERIMENT, folder.name)
    return Undisturbed(
        work_dir=work_dir,
        folder=folder,
        said=said,
        timeline=[0.0, *starts, said.seconds],
        records=found,
    )


@contextlib.contextmanager
def removed_at_the_end(work_dir: Path) -> Iterator[Path]:
    """A work directory whose server is down and whose hundreds of megabytes are gone after the block."""
    try:
        yield work_dir
    finally:
        if (work_dir / "s3").is_dir():
            EmbeddedS3.start(work_dir / "s3", "hrf").stop()
        shutil.rmtree(work_dir)


def run_command(work_dir: Path) -> tuple[str, ...]:
    """The command line of the undisturbed run, for some work directory."""
    return ("run", "avatars-smoke", *promoting(), "--experiment", EXPERIMENT, "--work-dir", str(work_dir))
