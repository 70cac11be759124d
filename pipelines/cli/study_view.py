"""A study's progress in a terminal: a line per finished run, and a bar with the time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.markup import escape

from hrf_pipelines.cli.progress_view import long_bars

if TYPE_CHECKING:
    from rich.console import Console

    from hrf.study.workers import Progress as StudyProgress


class StudyView:
    """Shows how far a study is. A context manager.

    Args:
        console: Where to. On anything but a terminal there is no bar, only lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = long_bars(console)
        self._task = self._bar.add_task("study", total=1.0, amount="")
        self._running: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, progress: StudyProgress) -> None:
        """Show one state."""
        for name in sorted(self._running - set(progress.running)):
            message = progress.failed.get(name)
            outcome = f"[red]failed[/]  {name}: {escape(message)}" if message else f"[green]done[/]  {name}"
            self._console.print(
                f"{outcome}  ({progress.finished} of {progress.total} runs)", highlight=False, soft_wrap=True
            )
        self._running = set(progress.running)
        at_work = ", ".join(f"{name} {share:.0%}" for name, share in progress.running.items())
        described = f"{progress.finished} of {progress.total} runs"
        self._bar.update(
            self._task,
            description=f"{described}: {at_work}" if at_work else described,
            completed=progress.done_fraction,
            amount=f"{progress.done_fraction:4.0%}",
        )
