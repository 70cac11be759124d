"""What every step shares: the run it belongs to, its progress, its failure report, and the end of its runner."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from hrf import __version__
from hrf.config import Config
from hrf.distributed.progress import emit, tell_always
from hrf.errors import ConfigError, HrfError
from hrf.policies.prompts import PromptTable
from hrf.promotion.records import Failure
from hrf.promotion.runs import RunRecords
from hrf.storage.folders import STOPPED, full_disk_error, read_folder, read_manifest, writing_folder
from hrf.storage.names import CONFIG_FILE, RUN_FILE
from hrf.storage.objects import Storage
from hrf.storage.secrets import check_secrets, only_secrets

RUNNER_PID = "HRF_RUNNER_PID"
"""Environment variable: the process that wants this step's output; without it the step ends itself."""

Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run as `prepare` wrote it down."""

    folder: Path
    config: Config
    about: dict[str, Any]
    """run.json: run_id, experiment, storage, run_seed, replica_seeds, started_from, evaluation_digest, versions, ..."""
    replica: int | None = None
    """Which of the run's chains of epochs a step belongs to; None: to all of the run."""

    @classmethod
    def read(cls, folder: str, *, replica: int | None = None) -> RunContext:
        """Read and verify a run folder.

        Raises:
            ArtifactError: If it is damaged.
        """
        verified = read_folder(folder)
        config = Config.from_yaml((verified / CONFIG_FILE).read_text(encoding="utf-8"))
        about = json.loads((verified / RUN_FILE).read_text(encoding="utf-8"))
        return cls(folder=verified, config=config, about=about, replica=replica)

    @property
    def run_seed(self) -> int:
        """Seed of all training noise of the replica; what all have in common has the first one's."""
        return int(self.about["replica_seeds"][self.replica or 0])

    def producer(self, step: str, epoch: int | None = None, **more: Any) -> dict[str, Any]:
        """Who writes an output folder; `more` is what else tells it from others."""
        about = {"step": step, "run": self.about["run_id"], "hrf": __version__, "config": self.config.digest()}
        told = {"epoch": epoch, "replica": self.replica if self.config.run.replicas > 1 else None}
        return {**about, **{name: value for name, value in told.items() if value is not None}, **more}

    def classifier(self, purpose: str) -> Path | None:
        """Folder of the classifier that `prepare` packed for `reward`, `shaping`, `held_out` or `evaluation`."""
        folder = self.folder / "classifiers" / purpose
        return folder if folder.is_dir() else None

    @property
    def prompts_folder(self) -> Path | None:
        """Folder of the prompts' texts and embeddings; None for an unconditional model."""
        folder = self.folder / "prompts"
        return folder if folder.is_dir() else None

    @property
    def prompts(self) -> PromptTable | None:
        """The run's prompts; None for an unconditional model."""
        return PromptTable.load(self.prompts_folder) if self.prompts_folder else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the run's prompts, by index; none for an unconditional model."""
        return self.prompts.texts if self.prompts else ()


TRAINED = {"new_policy": "policy", "new_training_state": "training_state"}
"""Output -> input of a step that trains."""
Facts = dict[str, Any]
"""What a step returns: flat values."""


def step(
    name: str, *, when_stopped: Mapping[str, str] | None = None, secrets: Collection[str] = ()
) -> Callable[[Callable[Arguments, Facts]], Callable[Arguments, Facts]]:
    """Decorate a step: report its start, end and failure, and end it when its runner is gone.

    Epochs are unrolled before a run begins, so those after the one at which it stops run, too, and pass on what they
    are given.

    Args:
        name: What the step is called in progress events.
        when_stopped: For a step of an epoch, what becomes of each of its outputs when the run has stopped, which its
            inputs say: a copy of the input of this name, or an empty folder that says so, too, where it is "".
        secrets: The secret variables that it needs, beside those for its records; it has no others.
    """

    def decorate(function: Callable[Arguments, Facts]) -> Callable[Arguments, Facts]:
        @functools.wraps(function)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Facts:
            _end_with_runner()
            began = time.perf_counter()
            epoch, replica = kwargs.get("epoch"), kwargs.get("replica")
            tell_always(replica=replica)
            emit("step-started", step=name, epoch=epoch)
            try:
                if when_stopped and _has_stopped(kwargs, when_stopped):
                    result: Facts = _pass_on(name, kwargs, when_stopped)
                else:
                    check_secrets()
                    with only_secrets(secrets):
                        result = function(*args, **kwargs)
            except Exception as error:
                failed = full_disk_error(f"step {name}", error) or error
                failure = {
                    "step": name,
                    "epoch": epoch,
                    "replica": replica,
                    "error_type": type(failed).__name__,
                    "message": _as_utf8(str(failed)),
                    "exit_code": failed.exit_code if isinstance(failed, HrfError) else 1,
                    "traceback": _as_utf8(traceback.format_exc()),
                }
                with contextlib.suppress(OSError):  # A full disk has no room for a line about it either.
                    emit("step-failed", **failure)
                with contextlib.suppress(OSError):
                    _store_failure(kwargs, {**failure, "time": time.time()})
                if failed is not error:
                    raise failed from error
                raise
            emit("step-finished", step=name, epoch=epoch, seconds=time.perf_counter() - began)
            return result

        return run

    return decorate


def _has_stopped(arguments: Mapping[str, Any], outputs: Mapping[str, str]) -> bool:
    """Whether one of a step's inputs was written when the run had stopped."""
    inputs = [value for name, value in arguments.items() if name not in outputs]
    paths = [path for value in inputs for path in ([value] if isinstance(value, str) else _paths(value))]
    return any(read_manifest(path).stopped for path in paths if Path(path).is_dir())


def _paths(value: object) -> list[str]:
    return [str(path) for path in value] if isinstance(value, Sequence) else []


def _pass_on(name: str, arguments: Mapping[str, Any], outputs: Mapping[str, str]) -> Facts:
    """Write a step's outputs without its work."""
    for output, source in outputs.items():
        producer = {"step": name, STOPPED: True}
        if source:
            producer = read_manifest(arguments[source]).producer
        with writing_folder(arguments[output], producer=producer) as folder:
            if source:
                ignored = shutil.ignore_patterns("manifest.json")
                shutil.copytree(read_folder(arguments[source]), folder, dirs_exist_ok=True, ignore=ignored)
    return {STOPPED: 1}


def _store_failure(arguments: Mapping[str, Any], failure: Mapping[str, Any]) -> None:
    """Keep a failure with the run's records: on a cluster, a step's log goes with its pod.

    A step that knows no run (`fetch`) has none, and of a storage that fails itself only the log tells.
    """
    try:
        about = arguments
        # The first steps have no folder of the run yet, and are told the same by their parameters.
        file = Path(str(arguments.get("run", ""))) / RUN_FILE
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else about
        storage = Storage.open(about["storage"])
        records = RunRecords(storage=storage, experiment=about["experiment"], run_id=about["run_id"])
        records.add_failure(Failure.model_validate(failure))
    except (HrfError, OSError, ValueError, KeyError, TypeError) as problem:
        # The failure itself is what the user must hear of.
        sys.stderr.write(f"the failure could not be stored with the run: {problem}\n")


def _as_utf8(text: str) -> str:
    """A text without lone surrogates, which the names of files can bring into a message."""
    return text.encode(errors="backslashreplace").decode()


def _end_with_runner() -> None:
    """Leave, at once, when the process that started the run is gone: nobody would take the output."""
    runner = os.environ.get(RUNNER_PID)
    if not runner:
        return
    if not runner.isdigit():
        raise ConfigError(RUNNER_PID, expected="a process id", got=runner, fix="unset the environment variable")

    _watch(int(runner))


@functools.cache
def _watch(runner: int) -> None:
    """Start the thread that ends this process after its runner: one, however many steps it does."""

    def watch() -> None:
        while True:
            try:
                os.kill(runner, 0)
            except ProcessLookupError:
                os._exit(75)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()
