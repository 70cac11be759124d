"""A run's progress in a terminal: a line per finished step, a bar for the one at work, and one for the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


def long_bars(console: Console) -> Progress:
    """Bars of work that takes minutes to hours, each with its field `amount`; none on anything but a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # An epoch takes minutes on a large model; a shorter memory would forget how long.
        speed_estimate_period=24 * 3600,
    )


class BarView:
    """Lines, and bars below them on a terminal only. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console, self._progress = console, long_bars(console)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class ProgressView(BarView):
    """Shows progress events of a run, of so many epochs in each of its replicas, as they come."""

    def __init__(self, console: Console, num_epochs: int, num_replicas: int = 1) -> None:
        super().__init__(console)
        self._num_epochs = num_epochs
        self._trained = [0] * num_replicas
        self._reward = ""
        self._whole = self._progress.add_task("run", total=num_epochs * num_replicas, amount="")
        self._bar: Any = None
        self._described = ""
        self._said_once: set[str] = set()

    def handle(self, event: dict[str, Any]) -> None:
        """Show one event; kinds that need no showing are passed over."""
        show = {
            "step-started": self._show_work,
            "advanced": self._show_work,
            "step-finished": self._show_finished,
            "epoch-trained": self._show_trained,
            "epoch-evaluated": self._show_evaluated,
            "epoch-decided": self._show_decided,
            "epoch-steered": self._show_steered,
            "tracked": self._show_tracked,
            "tracking-problem": self._show_tracked,
        }.get(event["event"])
        if show:
            show(event)

    def _show_work(self, event: dict[str, Any]) -> None:
        described = self._describe(event)
        total, done = event.get("total"), event.get("done", 0)
        if self._bar is None or described != self._described:
            if self._bar is not None:
                self._progress.remove_task(self._bar)
            self._described = described
            self._bar = self._progress.add_task(described, total=total, amount="")
        amount = f"{min(done / total, 1.0):4.0%}" if total else f"{done or ''}"
        self._progress.update(self._bar, total=total, completed=done, amount=amount)

    def _show_finished(self, event: dict[str, Any]) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        self._say(f"[green]done[/]  {self._describe(event):<22} {event.get('seconds', 0.0):7.1f} s")

    def _show_trained(self, event: dict[str, Any]) -> None:
        reward, window = event["reward_mean"], event["window"]
        # A resumed run has trained epochs that this view has not seen; of replicas, the first ones go first.
        for replica in range(event["replica"] + 1):
            self._trained[replica] = max(self._trained[replica], event["epoch"] + 1)
        self._show_whole()
        where = f"window {window_words(window)}" if window else "starts from noise"
        self._say(f"      {self._place(event)} trained: {where}, reward of its rollouts {reward:.4g}")

    def _show_evaluated(self, event: dict[str, Any]) -> None:
        reward, diversity = interval(event["reward"]), interval(event["diversity"])
        self._reward = f", reward {event['reward']['value']:.4g}"
        self._show_whole()
        at = "" if event["strength"] == 1 else f"at strength {event['strength']:.3g}: "
        self._say(f"      {at}reward {reward}, diversity {diversity} of the base's")

    def _show_whole(self) -> None:
        amount = f"epoch {min(self._trained[-1], self._num_epochs)} of {self._num_epochs}{self._reward}"
        self._progress.update(self._whole, completed=sum(self._trained), amount=amount)

    def _place(self, event: dict[str, Any]) -> str:
        """An epoch, with its replica where there are several."""
        replica = f", replica {event['replica']}" if len(self._trained) > 1 and "replica" in event else ""
        return f"epoch {event['epoch']}{replica}"

    def _describe(self, event: dict[str, Any]) -> str:
        """A step's name with its place, if it has one."""
        return event["step"] if event.get("epoch") is None else f"{self._place(event)}: {event['step']}"

    def _show_decided(self, event: dict[str, Any]) -> None:
        self._say(f"      candidate of epoch {event['epoch']} {event['outcome']}")

    def _show_steered(self, event: dict[str, Any]) -> None:
        self._say(f"      diversity floor: {event['action'].replace('_', ' ')}: {event['reason']}")

    def _show_tracked(self, event: dict[str, Any]) -> None:
        """The run's page, or why nothing gets there: every step says the same."""
        line = event.get("problem") or f"MLflow: {event['page']}"
        if line not in self._said_once:
            self._said_once.add(line)
            self._say(f"      {escape(line)}")


def window_words(window: Sequence[int]) -> str:
    """A half-open window of start steps by its first and last one."""
    return str(window[0]) if window[1] == window[0] + 1 else f"{window[0]}-{window[1] - 1}"


def interval(record: dict[str, float], digits: int = 3) -> str:
    """A value with its interval, such as `1.02 [0.98, 1.06]`."""
    return f"{record['value']:.{digits}f} [{record['low']:.{digits}f}, {record['high']:.{digits}f}]"
