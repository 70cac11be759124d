"""Following a run on a cluster until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hrf.errors import ClusterError
from pipelines.cluster.connection import is_passing
from pipelines.cluster.runs import FINAL, count_tasks, get_run, task_names, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from pipelines.cluster.connection import Cluster
    from pipelines.cluster.runs import Task

#: A cluster may be without its API server for so long, as while that is updated. The run itself goes on meanwhile.
PATIENCE_SECONDS = 600.0


def follow(cluster: Cluster, run_id: str, view: RunView, *, poll_seconds: float) -> Any:
    """Watch a run until it ends.

    Args:
        cluster: Where it runs.
        run_id: Which run.
        view: Is shown the run each time.
        poll_seconds: How long to wait between two looks.

    Returns:
        The run at its end, whatever that is.

    Raises:
        ClusterError: The cluster refuses, or has not answered for ten minutes.
    """
    heard = time.monotonic()
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
                return run
        time.sleep(poll_seconds)


class RunView:
    """Shows how far a run is: a line per finished task and a bar for the whole. A context manager.

    Args:
        console: Where to. On anything but a terminal there is no bar, only lines.
        spec: The run's pipeline, which knows the names and the number of its tasks.
    """

    def __init__(self, console: Console, spec: Mapping[str, Any] | None) -> None:
        self._console = console
        self._names = task_names(spec)
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
        self._told: dict[tuple[str, Any], str] = {}
        self._state = ""
        self._is_silent = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, run: Any) -> None:
        """Show a run as it is now."""
        self._is_silent = False
        state = (run.state or "PENDING").lower()
        tasks = tasks_of(run, self._names)
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

    def _show_end(self, task: Task) -> None:
        # Tasks of different epochs have the same name, and no task starts twice at the same time.
        key = (task.name, task.started)
        if task.state not in FINAL or self._told.get(key) == task.state:
            return
        self._told[key] = task.state
        took = "" if task.seconds is None else f" {task.seconds:8.0f} s"
        if task.state == "SUCCEEDED":
            self._say(f"[green]done[/]      {escape(task.name):<32}{took}")
        else:
            colour = "red" if task.state == "FAILED" else "yellow"
            self._say(f"[{colour}]{task.state.lower():<9}[/] {escape(task.name):<32}{took}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
