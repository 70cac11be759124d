"""Runs on this machine: one folder each, whose state says how far it came, and a lock that says who works on it.

runs/RUN_ID/state.json      what was asked for, and how it went
runs/RUN_ID/package.yaml    the compiled pipeline
runs/RUN_ID/artifacts/      what the steps wrote
runs/RUN_ID/cache/          which steps are finished, for Kubeflow's local runner
runs/RUN_ID/kfp.log         everything the steps said
runs/RUN_ID/progress.jsonl  their progress, line by line
runs/RUN_ID/scratch/        their temporary files, while an attempt lasts
runs/RUN_ID/report.html     the report, and summary/ what it was made from
runs/RUN_ID/tensorboard/    the same curves for TensorBoard, where its extra is installed
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from hrf.errors import ArtifactError, HrfError
from hrf.storage.folders import MANIFEST, clear_partial_files, file_sha256, writing_file

Status = Literal["running", "finished", "failed", "interrupted"]
STATE_FILE, PACKAGE_FILE, LOCK_FILE, SCRATCH = "state.json", "package.yaml", "lock", "scratch"
#: After a kill, the old worker needs a moment to notice, and holds the lock until then.
LOCK_SECONDS = 5.0


class RunBusyError(HrfError):
    """Another process is working on the run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"run {run_id} is being worked on by another process. Fix: wait for it, or start another run with --fresh"
        )


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What was asked for, and how it went."""

    run_id: str
    title: str
    """The preset or file."""
    experiment: str
    fingerprint: str
    """Digest of what was asked for: the same command finds its unfinished run by it."""
    arguments: dict[str, str]
    """The pipeline's parameters."""
    hrf_version: str
    created: float
    """Seconds since the epoch."""
    package_sha256: str = ""
    """Of the compiled pipeline, which is code: what is run is what was compiled."""
    status: Status = "running"
    attempts: int = 0
    finished: float | None = None
    error: dict[str, Any] | None = None
    """The failure of the last attempt: step, error_type, message, exit_code."""
    epochs: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration."""


_STATE = TypeAdapter(RunState)


def fingerprint(asked: Mapping[str, Any]) -> str:
    """Digest of what a command asks for."""
    return hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode()).hexdigest()


class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder, absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, runs: Path, *, package: str, **asked: Any) -> Self:
        """Make the folder of a new run."""
        from hrf import __version__

        now = time.time()
        token = hashlib.sha256(f"{asked['fingerprint']}{now}{os.getpid()}".encode()).hexdigest()[:6]
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{token}"
        arguments = {**asked.pop("arguments"), "run_tag": run_id}
        partial = cls(runs / f".{run_id}.partial")
        # A log of what steps print, and pictures that are not everybody's.
        partial.path.parent.mkdir(parents=True, exist_ok=True)
        partial.path.mkdir(mode=0o700)
        try:
            partial.write(RunState(run_id=run_id, created=now, hrf_version=__version__, arguments=arguments, **asked))
            partial.write_package(package)
            partial.path.rename(runs / run_id)
        except BaseException:
            shutil.rmtree(partial.path, ignore_errors=True)
            raise
        return cls(runs / run_id)

    def read(self) -> RunState:
        """The state.

        Raises:
            ArtifactError: It can't be read.
        """
        file = self.path / STATE_FILE
        try:
            return _STATE.validate_json(file.read_bytes(), strict=True)
        except (OSError, ValidationError) as error:
            problem = error.strerror if isinstance(error, OSError) else f"{error.errors()[0]['msg']}"
            raise ArtifactError(
                file,
                problem=f"not a run's state ({problem})",
                fix="restore the file, or move the run's folder away; `hrf runs list` shows the others",
            ) from error

    def write(self, state: RunState) -> None:
        """Replace the state, whole or not at all."""
        with writing_file(self.path / STATE_FILE) as file:
            file.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")

    def write_package(self, package: str) -> None:
        """Keep the compiled pipeline, and its digest in the state."""
        with writing_file(self.path / PACKAGE_FILE) as file:
            file.write_text(package, encoding="utf-8")
        self.change(package_sha256=file_sha256(self.path / PACKAGE_FILE))

    def holds_its_package(self) -> bool:
        """Whether the compiled pipeline is the one that was kept."""
        try:
            return file_sha256(self.path / PACKAGE_FILE) == self.read().package_sha256
        except OSError:
            return False

    def change(self, **changes: Any) -> RunState:
        """Change fields of the state; returns the new one."""
        state = replace(self.read(), **changes)
        self.write(state)
        return state

    def make_scratch(self) -> Path:
        """The folder for temporary files of the run's processes, made if absent."""
        scratch = self.path / SCRATCH
        scratch.mkdir(exist_ok=True)
        return scratch

    def clear_leftovers(self) -> None:
        """Remove temporary files, and what killed steps left half-written. Only for who holds the lock."""
        shutil.rmtree(self.path / SCRATCH, ignore_errors=True)
        clear_partial_files(self.path)
        for partial in sorted((self.path / "artifacts").rglob(".*.partial-*")):
            shutil.rmtree(partial, ignore_errors=True)

    def outputs(self) -> Iterator[Path]:
        """What finished steps wrote, folders and single files; not what a killed step left half-written."""
        yield from _whole_outputs(self.path / "artifacts")

    def lock(self, wait_seconds: float = LOCK_SECONDS) -> None:
        """Take the run's lock for this process, until it ends.

        Args:
            wait_seconds: How long to wait for a process that is about to end.

        Raises:
            RunBusyError: Another process keeps it.
        """
        stream = open(self.path / LOCK_FILE, "a", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the lock
        end = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    stream.close()
                    raise RunBusyError(self.path.name) from error
                time.sleep(0.1)
        self._lock = stream

    def lock_descriptor(self) -> int:
        """The file descriptor of the lock that is held; a child that inherits it holds the lock too."""
        assert self._lock is not None, "lock first"
        return self._lock.fileno()

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def is_locked(self) -> bool:
        """Whether any process works on the run now."""
        with open(self.path / LOCK_FILE, "a", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def status(self) -> Status:
        """The state's status, except that a run which nobody works on any more was interrupted."""
        status = self.read().status
        return "interrupted" if status == "running" and not self.is_locked() else status

    @property
    def summary(self) -> Path:
        """The summary folder; it exists once the run has finished."""
        return self.path / "summary"

    @property
    def report(self) -> Path:
        """The report; it exists once the run has finished."""
        return self.path / "report.html"


def all_runs(runs: Path, tell: Callable[[ArtifactError], None]) -> list[tuple[RunFolder, RunState]]:
    """All runs below a folder, oldest first; `tell` is told of every run whose state can't be read."""
    found = []
    for folder in _run_folders(runs):
        try:
            found.append((folder, folder.read()))
        except ArtifactError as error:
            tell(error)
    return found


def find_unfinished(runs: Path, asked: str, tell: Callable[[ArtifactError], None]) -> RunFolder | None:
    """The newest unfinished run that was asked for in the same way; `tell` as of `all_runs`."""
    for folder, state in reversed(all_runs(runs, tell)):
        if state.fingerprint == asked and state.status != "finished":
            return folder
    return None


def find_run(runs: Path, name: str) -> RunFolder:
    """A run by its id or the beginning of it, or the newest one for "".

    Raises:
        ArtifactError: There is none, or several begin like that.
    """
    if name:
        found = [folder for folder in _run_folders(runs) if folder.path.name.startswith(name)]
    else:
        found = [folder for folder, _ in all_runs(runs, tell=lambda _: None)]
    exact = [folder for folder in found if folder.path.name == name]
    if exact or (found and not name):
        return (exact or found)[-1]
    if len(found) != 1:
        problem = f"{len(found)} runs begin with {name!r}" if found else f"no run {name!r} is here"
        fix = "see `hrf runs list`; give --work-dir if it lies elsewhere, and --cluster if it is one of a cluster"
        raise ArtifactError(runs, problem=problem, fix=fix)
    return found[0]


def _run_folders(runs: Path) -> list[RunFolder]:
    return [RunFolder(folder) for folder in sorted(runs.glob("[!.]*/"))]


def _whole_outputs(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_file() or (path / MANIFEST).is_file():
            yield path
        elif path.is_dir():
            yield from _whole_outputs(path)
