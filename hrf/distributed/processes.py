"""Run a step's function in several processes of this machine, and watch over them.

The step's own process starts the ranks and waits. A rank that fails ends them all: what it said is raised here. Ranks
talk over this machine's loopback alone, and find each other by a file that only this user can read.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hrf.distributed import progress
from hrf.distributed.ranks import Ranks, joined
from hrf.errors import ConfigError, HrfError, ProcessError

# Not by torch's elastic_launch: of two ranks that end within 0.1 s it may name the one that lost the other, it opens a
# TCP port, and errors, progress and who did not answer take our pipes all the same. The module was longer on it.

TIMEOUT_SECONDS = 1800.0
"""After which a rank gives up waiting for the others: far longer than their shares of the work differ."""
GRACE_SECONDS = 5.0
"""Between the first rank's failure and the end of all: time for others to say that they have lost it."""
_ENDED_WITH_PARENT = 75


def check_processes(num_processes: int, *, num_gpus: int, has_nccl: bool) -> None:
    """Refuse processes that would have to share a GPU, or could not talk to each other.

    Args:
        num_processes: How many.
        num_gpus: How many GPUs this machine has; 0 where none is to be used.
        has_nccl: Whether this PyTorch has NCCL.

    Raises:
        ConfigError: They can't run here.
    """
    if num_gpus and num_processes > num_gpus:
        raise ConfigError(
            "model.num_processes",
            expected=f"at most {num_gpus}, the GPUs of this machine, as each process has one of its own",
            got=num_processes,
            fix="lower it, or run where there are more",
        )
    if num_gpus and not has_nccl:
        raise ConfigError(
            "model.num_processes",
            expected="1, as this PyTorch has no NCCL for GPUs to exchange gradients by",
            got=num_processes,
            fix="install PyTorch's CUDA build for Linux, or set it to 1",
        )


def run_in_processes(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    num_processes: int,
    on_gpu: bool,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Any:
    """Call a module's function in several processes; each knows its place by `hrf.distributed.ranks.this_rank`.

    Progress events count what all of them have done.

    Args:
        function: Found by its name in its module; what decorators have put around it is left out.
        arguments: By name; they are pickled.
        num_processes: At least 2.
        on_gpu: Whether each has a GPU of its own.
        timeout_seconds: After which one stops waiting for the others.

    Returns:
        What the first of them returned.

    Raises:
        HrfError: Which one of them raised, with its number.
        ProcessError: One of them raised something else, or was ended.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="hrf-ranks-") as folder:
        job = _Job(
            module=function.__module__,
            name=function.__qualname__,
            arguments=dict(arguments),
            on_gpu=on_gpu,
            # As many as one process alone would have taken.
            num_threads=max(1, torch.get_num_threads() // num_processes),
            meeting_file=Path(folder) / "ranks",
            timeout_seconds=timeout_seconds,
        )
        started: list[_Started] = []
        try:
            for index in range(num_processes):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_be_rank, args=(Ranks(index=index, count=num_processes), job, sender))
                process.start()
                # The rank's is then the only one left: it closes with the rank, however that ends.
                sender.close()
                started.append(_Started(process=process, receiver=receiver))
            _wait_for(started)
        finally:
            for rank in started:
                rank.process.kill()
                rank.process.join()
                rank.receiver.close()
    return started[0].result


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What all ranks of a step are told."""

    module: str
    name: str
    arguments: dict[str, Any]
    on_gpu: bool
    num_threads: int
    meeting_file: Path
    timeout_seconds: float


@dataclass(frozen=True, kw_only=True)
class _Event:
    """A rank's progress."""

    event: str
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What a rank's function returned."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What a rank raised."""

    error: HrfError
    time: float
    """On the clock that all processes of a machine share: others fail later, and because of it."""


@dataclass(kw_only=True)
class _Started:
    """A rank, as its parent sees it."""

    process: BaseProcess
    receiver: Connection
    result: Any = None
    failure: _Failure | None = None


def _wait_for(ranks: list[_Started]) -> None:
    """Wait for the end of all ranks, or of the first that fails."""
    running = {rank.receiver: index for index, rank in enumerate(ranks)}
    advance = _Advance()
    deadline: float | None = None
    while running:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait(list(running), left)
        if not ready:
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = ranks[running[receiver]]
            try:
                message = receiver.recv()
            except (EOFError, OSError):
                # The end of the process, perhaps in the middle of a message.
                del running[receiver]
                rank.process.join()
                if rank.process.exitcode != 0 and deadline is None:
                    deadline = time.monotonic() + GRACE_SECONDS
                continue
            match message:
                case _Event():
                    advance.tell(ranks.index(rank), message)
                case _Result():
                    rank.result = message.value
                case _Failure():
                    rank.failure = message
    if deadline is not None:
        raise _first_failure(ranks)


def _first_failure(ranks: list[_Started]) -> HrfError:
    """The error that ended the step: of the ranks that were ended from outside, or of the first to raise one.

    The others' are about having lost it.
    """
    codes = {index: rank.process.exitcode or 0 for index, rank in enumerate(ranks)}
    raised = [(rank.failure.time, index, rank.failure.error) for index, rank in enumerate(ranks) if rank.failure]
    ended = [index for index, code in codes.items() if code and not ranks[index].failure]
    if ended or not raised:
        named = ", ".join(map(str, ended))
        how = " and ".join(sorted({_describe_exit(codes[index]) for index in ended}))
        return ProcessError(
            f"process{'es' if len(ended) > 1 else ''} {named} of {len(ranks)}",
            problem=f"{how} before the work was done",
            fix="see the log; where memory is short, lower model.num_processes, model.batch_size or update.microbatch",
        )
    _, index, error = min(raised, key=lambda one: one[:2])
    busy = [str(other) for other, rank in enumerate(ranks) if rank.process.exitcode is None]
    meanwhile = f", while {', '.join(busy)} did not answer" if busy else ""
    error.args = (f"process {index} of {len(ranks)}{meanwhile}: {error}",)
    return error


def _describe_exit(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


@dataclass(kw_only=True)
class _Advance:
    """Progress of all ranks together, as one step's."""

    done: dict[tuple[Any, Any], dict[int, int]] = field(default_factory=dict)
    """(step, epoch) -> rank -> what it has done."""

    def tell(self, rank: int, message: _Event) -> None:
        """Pass on what a rank tells: counts added up, and everything else from one of them."""
        fields = dict(message.fields)
        if message.event == "advanced":
            counts = self.done.setdefault((fields["step"], fields["epoch"]), {})
            counts[rank] = fields["done"]
            fields["done"] = sum(counts.values())
        elif rank != 0:
            return
        progress.emit(message.event, **fields)


def _be_rank(ranks: Ranks, job: _Job, sender: Connection) -> None:
    """A rank's whole life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress.hand_to(lambda event, fields: sender.send(_Event(event=event, fields=fields)))
    os.environ.update(
        RANK=str(ranks.index),
        LOCAL_RANK=str(ranks.index),
        WORLD_SIZE=str(ranks.count),
        LOCAL_WORLD_SIZE=str(ranks.count),
        OMP_NUM_THREADS=str(job.num_threads),
        GLOO_SOCKET_IFNAME="lo",
        NCCL_SOCKET_IFNAME="lo",
    )
    try:
        import torch

        # OpenMP has read its variable already where the main module has brought torch along.
        torch.set_num_threads(job.num_threads)
        function = inspect.unwrap(getattr(importlib.import_module(job.module), job.name))
        with joined(ranks, meeting_file=job.meeting_file, on_gpu=job.on_gpu, timeout_seconds=job.timeout_seconds):
            result = function(**job.arguments)
        sender.send(_Result(value=result))
    except Exception as error:  # noqa: BLE001 - whatever a rank raises, its parent has to hear of it.
        when = time.monotonic()
        # What else there is may be beyond pickling.
        own = error if isinstance(error, HrfError) else None
        told = own or ProcessError(type(error).__name__, problem=str(error), fix="see the traceback in the log")
        told.add_note(traceback.format_exc())
        sender.send(_Failure(error=told, time=when))
        # At once: libraries that clean up would wait for the others.
        os._exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would take what it makes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(_ENDED_WITH_PARENT)
