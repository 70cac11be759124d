"""Run a compiled pipeline on this machine: start or resume it, follow it, stop it, and keep what it made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hrf.distributed.progress import PROGRESS_FILE
from hrf.errors import ConfigError, HrfError, StorageError
from hrf.promotion.runs import TENSORBOARD, RunRecords
from hrf.report.tracking.event_files import EVENT_FILE
from hrf.steps.context import RUNNER_PID
from hrf.storage.folders import MANIFEST, read_folder, read_manifest, writing_file, writing_folder
from hrf.storage.s3 import process_variables
from hrf.storage.secrets import blotter
from hrf_pipelines.local.archive import archive_run
from hrf_pipelines.local.failures import explain
from hrf_pipelines.local.file_locks import exclusive
from hrf_pipelines.local.finished_steps import forget_damaged
from hrf_pipelines.local.run_state import PACKAGE_FILE, RunFolder, RunState, find_unfinished, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hrf.config import Config
    from hrf_pipelines.local.object_storage import Location

POLL_SECONDS = 0.2
PROGRESS = "progress.jsonl"
#: How long a stopped process group has until it is killed.
GRACE_SECONDS = 5.0


class StepFailedError(HrfError):
    """A step of a run ended with an error that it reported, or without a word.

    Args:
        event: The step's report: step, epoch, error_type, message, exit_code, traceback.
        log: Where everything that the run said is.
    """

    def __init__(self, event: Mapping[str, Any], *, log: Path) -> None:
        self.event, self.log = dict(event), log
        self.exit_code = int(event.get("exit_code", 1))
        super().__init__(str(event["message"]))


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command asks to be run."""

    title: str
    """The preset or file."""
    experiment: str
    arguments: Mapping[str, str]
    """The pipeline's parameters, without the storage and the run's id."""
    config: Config
    """The resolved configuration."""
    build: Callable[[], str]
    """Compiles the package; called only for a new run."""

    def fingerprint(self, location: Location) -> str:
        """Digest of what is asked for; the unfinished run with the same one is resumed."""
        from hrf import __version__
        from hrf.config.inputs import input_digests

        return fingerprint(
            {
                "experiment": self.experiment,
                "config": self.config.digest(),
                "inputs": input_digests(self.config),
                "start_from": self.arguments.get("start_from", ""),
                "storage": location.uri,
                "hrf_version": __version__,
            }
        )


def check_devices(configs: Iterable[Config]) -> None:
    """Refuse runs that ask for a GPU where there is none. On a cluster the steps themselves do, on their own nodes.

    Raises:
        ConfigError: This machine has no GPU that torch can use.
    """
    if any(config.model.device == "cuda" for config in configs):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                "model.device",
                expected="a device that this machine has",
                got="cuda",
                fix="--set model.device=cpu, or run on a machine with a GPU and a torch built for it",
            )


def open_run(
    request: Request, runs: Path, location: Location, *, fresh: bool, tell: Callable[[str], None]
) -> tuple[RunFolder, bool]:
    """Find the unfinished run that the same command started before, or make a new one; and lock it.

    What was damaged since the last attempt is put right: the package is compiled again, and of the steps whose outputs
    are no longer what they wrote, the notes that they are finished are taken away.

    Args:
        request: What is asked for.
        runs: The folder of all runs.
        location: The object storage.
        fresh: Whether to start anew whatever there is.
        tell: Is told of what was damaged.

    Returns:
        The locked run, and whether it goes on from an earlier attempt.

    Raises:
        RunBusyError: Another process works on it.
    """
    asked = request.fingerprint(location)
    # One command at a time looks and makes: of two equal ones at once, the second finds the run of the first.
    with exclusive(runs.with_suffix(".lock")):
        found = None if fresh else find_unfinished(runs, asked, lambda error: tell(f"Passed over: {error}"))
        if not found:
            return _create_run(request, runs, location, asked), False
    found.lock()
    if not found.holds_its_package():
        found.write_package(request.build())
        tell(f"{found.path / PACKAGE_FILE} was changed or damaged, and is compiled again.")
    for damage in forget_damaged(found.path / "cache"):
        tell(f"A finished step is done again, as its output was damaged:\n  {os.path.relpath(damage, found.path)}")
    return found, True


def _create_run(request: Request, runs: Path, location: Location, asked: str) -> RunFolder:
    """Make a new run, and lock it."""
    created = RunFolder.create(
        runs,
        package=request.build(),
        title=request.title,
        experiment=request.experiment,
        fingerprint=asked,
        arguments={**request.arguments, "experiment": request.experiment, "storage": location.uri},
        epochs=request.config.run.epochs,
        config=request.config.to_mapping(),
    )
    created.lock()
    return created


def execute(folder: RunFolder, location: Location, on_event: Callable[[dict[str, Any]], None]) -> RunState:
    """Run a locked run to its end, and store what it made.

    Args:
        folder: The run, locked by this process.
        location: The object storage.
        on_event: Gets every progress event of the steps.

    Returns:
        The state of the finished run.

    Raises:
        StepFailedError: A step failed.
        StorageError: The run is finished, but its artifacts could not be stored.
        KeyboardInterrupt: The user stopped it. All its processes have ended.
    """
    state = folder.read()
    state = folder.change(status="running", attempts=state.attempts + 1, error=None)
    folder.clear_leftovers()
    try:
        failure = _run_worker(folder, location, on_event)
    except KeyboardInterrupt:
        folder.change(status="interrupted", finished=time.time())
        raise
    finally:
        folder.clear_leftovers()
    if failure:
        kept = {name: failure.get(name) for name in ("step", "epoch", "replica", "error_type", "message", "exit_code")}
        folder.change(status="failed", finished=time.time(), error=kept)
        with contextlib.suppress(StorageError):
            # The failure is what the user must hear of, even if it is the storage that has failed.
            archive_run(folder, location.open(), state.experiment)
        raise StepFailedError(failure, log=folder.path / "kfp.log")
    _keep_outputs(folder)
    storage = location.open()
    archive_run(folder, storage, state.experiment)
    _keep_event_file(folder, RunRecords(storage=storage, experiment=state.experiment, run_id=state.run_id))
    return folder.change(status="finished", finished=time.time())


def _run_worker(
    folder: RunFolder, location: Location, on_event: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Run the worker process to its end; returns the report of the step that failed, if one did."""
    events = EventReader(folder.path / PROGRESS)
    log = folder.path / "kfp.log"
    logged = log.stat().st_size if log.exists() else 0
    failure: dict[str, Any] | None = None
    at_work: list[dict[str, Any]] = []
    with _worker(folder, location) as process:
        ended = False
        while not ended:
            ended = process.poll() is not None
            for event in events.read():
                failure = event if event["event"] == "step-failed" else failure
                _note_work(at_work, event)
                on_event(event)
            if not ended:
                time.sleep(POLL_SECONDS)
    if process.returncode == 0:
        return None
    if failure:
        return failure
    said = log.read_bytes()[logged:].decode(errors="replace")
    return explain(folder.path, log=said, status=process.returncode, at_work=at_work[0] if at_work else None)


def _note_work(at_work: list[dict[str, Any]], event: dict[str, Any]) -> None:
    """Keep the starts of steps that have not ended, such as one that was killed: the run's status comes after it."""
    if event["event"] == "step-started":
        at_work.append(event)
    elif event["event"] in ("step-finished", "step-failed"):
        same = [begun for begun in at_work if all(begun[name] == event[name] for name in ("step", "epoch"))]
        for begun in same[:1]:
            at_work.remove(begun)


@contextlib.contextmanager
def _worker(folder: RunFolder, location: Location) -> Iterator[subprocess.Popen[bytes]]:
    """The worker, in a process group of its own, none of which outlives the block."""
    environment = {
        **process_variables(location.environment),
        PROGRESS_FILE: str(folder.path / PROGRESS),
        RUNNER_PID: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder.make_scratch()),
    }
    # Without it, one busy neighbour makes a step several times slower: waiting threads spin.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    lock = folder.lock_descriptor()
    process = subprocess.Popen(
        [sys.executable, "-m", "hrf_pipelines.local.worker", str(folder.path)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # The worker shares the lock: until the last of a killed run is gone, nobody else works on it.
        pass_fds=(lock,),
    )
    assert process.stdout is not None, "it is a pipe"
    logging = threading.Thread(
        target=_log, args=(process.stdout, folder.path / "kfp.log", blotter(environment)), daemon=True
    )
    logging.start()
    try:
        yield process
    finally:
        _end_group(process)
        # It has read all by then, unless somebody else's process still has the pipe.
        logging.join(GRACE_SECONDS)


def _log(said: IO[bytes], log: Path, blot: Callable[[str], str]) -> None:
    """Write down what a process says, line by line, without secrets."""
    with said, open(log, "ab", buffering=0) as stream:
        for line in said:
            # A full disk is told by the step that meets it; the process must not wait for its reader.
            with contextlib.suppress(OSError):
                stream.write(blot(line.decode(errors="replace")).encode())


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, at first kindly."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    process.wait()


def _keep_outputs(folder: RunFolder) -> None:
    """Copy report and summary to where they are easily found: those of the last step that made some, in any attempt."""
    events = EventReader(folder.path / PROGRESS, from_start=True).read()
    reported = [event for event in events if event["event"] == "reported"][-1]
    with writing_file(folder.report) as report:
        shutil.copyfile(reported["report"], report)
    summary = read_folder(reported["summary"])
    with writing_folder(folder.summary, producer=read_manifest(summary).producer) as copy:
        shutil.copytree(summary, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))


def _keep_event_file(folder: RunFolder, records: RunRecords) -> None:
    """Fetch what `summarize` has drawn for TensorBoard, if it has."""
    found = records.storage.read_bytes(f"{records.prefix}/{TENSORBOARD}/{EVENT_FILE}")
    if found:
        (folder.path / TENSORBOARD).mkdir(exist_ok=True)
        (folder.path / TENSORBOARD / EVENT_FILE).write_bytes(found[0])


class EventReader:
    """Follows a file of JSON lines, from its present end on.

    Args:
        path: The file; it may not exist yet.
        from_start: Whether what is there already is read too.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() and not from_start else 0

    def read(self) -> list[dict[str, Any]]:
        """The events of all lines that were finished since the last call, but for lines that a full disk cut short."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as stream:
            stream.seek(self._offset)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        events = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return events
