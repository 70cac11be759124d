"""Following a run on a cluster until it ends."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hrf.errors import ClusterError, HrfError
from hrf_pipelines.cluster.causes import LONG_SECONDS, find_long_waits, pods_command
from hrf_pipelines.cluster.connection import Cluster, is_passing
from hrf_pipelines.cluster.records import Records, end_of, fetch_records
from hrf_pipelines.cluster.runs import FINAL, UTC, Task, count_tasks, get_run, state_of, tasks_of, waiting_pods

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from hrf.promotion.records import DecisionRecord

#: A cluster may be without its API server for so long, as while that is updated. The run itself goes on meanwhile.
PATIENCE_SECONDS = 600.0
#: How often to look at what is beside the API: the bucket, and the pods.
BESIDE_SECONDS = 15.0
#: And not sooner than so many times what the last look took: who does not answer is not to take the time of who does.
REST = 10.0
#: A run is over so long after its exit step at the latest, whatever Kubeflow's record of it says.
GRACE_SECONDS = 60.0
#: Tasks that stand still for so long are told.
STANDSTILL_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run at its end."""

    run: Any
    """As the API describes it, which may not have heard of the end yet."""
    state: str
    """SUCCEEDED, FAILED, TERMINATED, CANCELED or SKIPPED."""


def follow(cluster: Cluster, run_id: str, view: RunView, *, poll_seconds: float) -> Ended:
    """Watch a run until it ends."""
    heard = time.monotonic()
    run, look_at = None, heard + BESIDE_SECONDS
    while True:
        try:
            run = get_run(cluster, run_id)
        except ClusterError as error:
            if not is_passing(error) or time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            view.show_silence()
        else:
            heard = time.monotonic()
            view.show(run)
            if run.state in FINAL:
                return Ended(run=run, state=state_of(run))
        if run is not None and time.monotonic() >= look_at:
            began = time.monotonic()
            ended = _look_beside(cluster, run, view)
            if ended is not None:
                return ended
            took = time.monotonic() - began
            look_at = time.monotonic() + max(BESIDE_SECONDS, REST * took)
        time.sleep(poll_seconds)


def _look_beside(cluster: Cluster, run: Any, view: RunView) -> Ended | None:
    """Look at what the API does not tell: the bucket's records, and pods that wait.

    Returns:
        The end, where the bucket has known of it for a while and the API has not: Kubeflow's own agent can be minutes
        behind after the API server was away.
    """
    records = fetch_records(run, view.spec)
    view.show_decisions(records.decisions)
    status = end_of(run, records)
    if status is not None and time.time() - status.time > GRACE_SECONDS:
        return Ended(run=run, state=status.outcome.upper())
    try:
        view.show_waits([(f"{wait.pod}: {wait.where}", wait.why) for wait in find_long_waits(cluster, run.run_id)])
    except HrfError:
        waits = waiting_pods(run, datetime.datetime.now(UTC))
        # Not more than that can be known: it may also be what Kubeflow told last of a run of more than 1 MiB.
        why = f"As far as Kubeflow tells; {pods_command(cluster, run.run_id)} shows what for."
        view.show_waits([(pod, why) for pod, seconds in waits.items() if seconds > LONG_SECONDS])
    view.show_standstill(records)
    return None


class RunView:
    """Shows how far a run is: a line per finished task and a bar for the whole. A context manager.

    Args:
        console: Where to. On anything but a terminal there is no bar, only lines.
        spec: The run's pipeline, which knows the names and the number of its tasks.
    """

    def __init__(self, console: Console, spec: Mapping[str, Any] | None) -> None:
        self._console = console
        self.spec = spec
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._total = count_tasks(spec)
        self._bar = self._progress.add_task("waiting", total=self._total or None, amount="")
        self._told: set[tuple[str, str]] = set()
        self._state = ""
        self._is_silent = False
        self._tasks: list[Task] = []
        self._news = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, run: Any) -> None:
        """Show a run as it is now."""
        self._is_silent = False
        state = state_of(run).lower()
        tasks = tasks_of(run, self.spec)
        if tasks != self._tasks:
            self._tasks, self._news = tasks, time.monotonic()
        for task in tasks:
            self._show_end(task)
        if state != self._state:
            self._state = state
            self._say(f"[bold]{escape(state)}[/]")
        ended = sum(task.state in FINAL for task in tasks)
        running = [task.name for task in tasks if task.state == "RUNNING"]
        # A loop has more tasks than the pipeline says.
        total = max(self._total, len(tasks))
        self._progress.update(
            self._bar,
            description=escape(", ".join(running[-3:]) or state),
            total=total or None,
            completed=ended,
            amount=f"{ended} of {total} tasks" if total else "",
        )

    def show_silence(self) -> None:
        """Say that the cluster does not answer; once, until it does again."""
        if not self._is_silent:
            self._say("[yellow]no answer from the cluster; trying on, the run is not affected[/]")
        self._is_silent = True

    def show_decisions(self, decisions: Sequence[DecisionRecord]) -> None:
        """Show what became of candidates, each once."""
        for decision in decisions:
            line = f"           candidate of epoch {decision.epoch} {decision.outcome}"
            self._say_once("decision", decision.candidate_id, line)

    def show_waits(self, waits: Sequence[tuple[str, str]]) -> None:
        """Show pods that don't begin and what for, each once."""
        for pod, why in waits:
            name = pod.partition(": ")[2] or "a pod"
            line = (
                f"[yellow]waiting[/]    {escape(name)}: for more than a minute. {escape(why or 'No reason is told.')}"
            )
            self._say_once(pod, why, line)

    def show_standstill(self, records: Records) -> None:
        """Say, once, that tasks stand still, and where there is more to see."""
        if self._state == "running" and time.monotonic() - self._news > STANDSTILL_SECONDS:
            where = f"The bucket can't be read from here: {records.error}" if records.error else "See " + records.where
            self._say_once(
                "standstill",
                "",
                "[yellow]no news of tasks for a while: a long step, or a run past 1 MiB, of whose tasks Kubeflow"
                f" stops to tell.[/] {escape(where)}",
            )

    def _show_end(self, task: Task) -> None:
        if task.state not in FINAL or task.state in ("NOT_RUN", "NOT_TOLD"):
            return
        took = "" if task.seconds is None else f" {task.seconds:8.0f} s"
        colour = {"SUCCEEDED": "green", "FAILED": "red"}.get(task.state, "yellow")
        word = "done" if task.state == "SUCCEEDED" else task.state.lower()
        self._say_once(task.task_id, task.state, f"[{colour}]{word:<11}[/]{escape(task.name):<32}{took}")

    def _say_once(self, about: str, what: str, line: str) -> None:
        if (about, what) not in self._told:
            self._told.add((about, what))
            self._say(line)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
