"""A study's progress in a terminal: a line per finished run, and a bar with the time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from hrf_pipelines.cli.progress_view import BarView

if TYPE_CHECKING:
    from rich.console import Console

    from hrf.study.workers import Progress as StudyProgress


class StudyView(BarView):
    """Shows how far a study is."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._task = self._progress.add_task("study", total=1.0, amount="")
        self._running: set[str] = set()

    def show(self, progress: StudyProgress) -> None:
        """Show one state."""
        for name in sorted(self._running - set(progress.running)):
            message = progress.failed.get(name)
            outcome = f"[red]failed[/]  {name}: {escape(message)}" if message else f"[green]done[/]  {name}"
            self._say(f"{outcome}  ({progress.finished} of {progress.total} runs)")
        self._running = set(progress.running)
        at_work = ", ".join(f"{name} {share:.0%}" for name, share in progress.running.items())
        described = f"{progress.finished} of {progress.total} runs"
        self._progress.update(
            self._task,
            description=f"{described}: {at_work}" if at_work else described,
            completed=progress.done_fraction,
            amount=f"{progress.done_fraction:4.0%}",
        )
