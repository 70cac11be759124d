"""A study's runs on the cores or GPUs of this machine, several at once; the table grows run by run."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hrf.errors import HrfError
from hrf.report.tracking import SERVER
from hrf.steps.context import RUNNER_PID
from hrf.storage.s3 import adopt
from hrf.study.execute import PROGRESS, execute, work_folder
from hrf.study.folder import StudyFolder
from hrf.study.plan import StudyRun
from hrf.study.table import KEY, frame_of, read_table, short_digest, write_table

POLL_SECONDS = 0.5


class WorkerLostError(HrfError):
    """A worker process ended without a word."""

    def __init__(self, run: str) -> None:
        super().__init__(
            f"a worker was killed during {run}, perhaps for want of memory. Fix: give fewer --workers; the same command"
            " goes on from the last finished step"
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a study is."""

    finished: int
    """Runs in the table."""
    total: int
    failed: Mapping[str, str]
    """Messages of the runs that failed, by name."""
    running: Mapping[str, float]
    """Share of its epochs that each run at work has trained, by name."""
    missing: int
    """Runs that were not in the table when this call began."""

    @property
    def done_fraction(self) -> float:
        """Of all work that this call has to do, counting the runs at work."""
        done = self.finished - (self.total - self.missing) + len(self.failed) + sum(self.running.values())
        return done / self.missing if self.missing else 1.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs are shared out over."""

    workers: int
    threads: int
    """Of torch, per worker."""
    gpus: tuple[str, ...] = ()
    """Their ids, one per worker; none where runs are on the CPU."""


def machine_for(device: str, workers: int = 0) -> Machine:
    """One worker per GPU, or per core where the model runs on the CPU; or so many."""
    cores = len(os.sched_getaffinity(0))
    if device == "cpu":
        count = workers or cores
        return Machine(workers=count, threads=max(1, cores // count))
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ids = visible if visible != [""] else [str(index) for index in range(torch.cuda.device_count())]
    gpus = tuple(ids[: workers or len(ids)])
    return Machine(workers=len(gpus), threads=max(1, cores // max(1, len(gpus))), gpus=gpus)


def missing_runs(runs: Sequence[StudyRun], table: pd.DataFrame) -> list[StudyRun]:
    """The runs that are not in the table, or only under another configuration."""
    known = set(table[[*KEY, "config_digest"]].itertuples(index=False, name=None))

    def is_known(run: StudyRun) -> bool:
        return all((arm, run.reward, run.seed, short_digest(config)) in known for arm, config in run.configs.items())

    return [run for run in runs if not is_known(run)]


def run_all(
    runs: Sequence[StudyRun],
    study: StudyFolder,
    storage: str,
    machine: Machine,
    *,
    environment: Mapping[str, str],
    show: Callable[[Progress], None],
) -> Progress:
    """Do the runs that are missing in the folder's table, and add each to it when it is finished.

    A run that fails leaves the others alone; what it has done so far is kept, for the next call.

    `environment` has variables for the workers. They may hold keys: they are handed over in memory.

    Returns:
        How far the study is at the end.
    """
    missing = missing_runs(runs, read_table(study.path))
    failed: dict[str, str] = {}
    with _pool(machine, environment) as pool:
        at_work: dict[Future[list[dict[str, Any]]], StudyRun] = {}
        waiting = list(missing)
        finished = 0

        def progress() -> Progress:
            running = {run.name: _trained_fraction(work_folder(run, study), run) for run in at_work.values()}
            there = len(runs) - len(missing) + finished
            return Progress(finished=there, total=len(runs), failed=failed, running=running, missing=len(missing))

        while waiting or at_work:
            while waiting and len(at_work) < machine.workers:
                run = waiting.pop(0)
                at_work[pool.submit(execute, run, study, storage)] = run
            ready, _ = wait(at_work, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in ready:
                run = at_work.pop(future)
                try:
                    add_rows(study.path, future.result(), run)
                    finished += 1
                except BrokenProcessPool as error:
                    raise WorkerLostError(run.name) from error
                except HrfError as error:
                    failed[run.name] = f"{type(error).__name__}: {error}"
            show(progress())
        return progress()


def add_rows(folder: Path, rows: list[dict[str, Any]], run: StudyRun) -> None:
    """Put a run's rows into the table, in place of what it holds of the same run."""
    table = read_table(folder)
    same = (table["reward_name"] == run.reward) & (table["seed"] == run.seed) & table["arm"].isin(list(run.configs))
    write_table(frame_of([*table[~same].to_dict("records"), *rows]), folder)


@contextlib.contextmanager
def _pool(machine: Machine, environment: Mapping[str, str]) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which end at once when the block is left early, or this process dies."""
    # Not forked: torch's threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    gpus = context.Queue()
    for gpu in machine.gpus:
        gpus.put(gpu)
    settings = {**environment, RUNNER_PID: str(os.getpid())}
    pool = ProcessPoolExecutor(
        machine.workers, mp_context=context, initializer=_begin_worker, initargs=(machine, settings, gpus)
    )
    try:
        yield pool
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(machine: Machine, environment: Mapping[str, str], gpus: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The study's own process hears of it and ends its workers.
    adopt(environment)
    # A study has a table of its own; hundreds of its runs would bury all others there.
    os.environ.pop(SERVER, None)
    if machine.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    import torch

    torch.set_num_threads(machine.threads)


def _trained_fraction(folder: Path, run: StudyRun) -> float:
    """Share of its epochs that a run at work has trained, as its steps tell."""
    file = folder / PROGRESS
    if not file.is_file():
        return 0.0
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if "epoch-trained" in line]
    return max((event["epoch"] + 1 for event in events), default=0) / run.measured_after[-1]
