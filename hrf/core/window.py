"""Windows of start steps, and the schedules that give every epoch its window.

A window is a half-open range of START steps: an episode that starts at step k trains every trained step from k to the
end. A schedule is a pure function of the epoch, so a run that resumes cannot be at another window than it would have
been. Trained steps are the steps 0 .. num_trained_steps-1, because the sampler's noise falls with the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, Protocol

ScheduleName = Literal["fixed", "baseline", "early", "later", "sliding", "uniform", "custom"]

# The paper names these three schedules and does not publish their bounds: the bounds are ours.
_HALVES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "baseline": ((0.0, 0.5), (0.5, 1.0)),
    "early": ((0.0, 0.25), (0.25, 0.5)),
    "later": ((0.5, 0.75), (0.75, 1.0)),
}


class WindowError(ValueError):
    """A window or schedule that cannot be trained.

    Attributes:
        entry: Which of the given windows is wrong, counted from 0, or None if the schedule as a whole is.
        expected: The rule.
        got: What breaks it.
    """

    def __init__(self, expected: str, *, got: object, entry: int | None = None) -> None:
        self.expected, self.got, self.entry = expected, got, entry
        where = "schedule" if entry is None else f"window {entry}"
        super().__init__(f"{where}: expected {expected}, got {got}")


@dataclass(frozen=True)
class Window:
    """The start steps start, start+1, ..., stop-1.

    Raises:
        WindowError: If the range is empty or starts below 0.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise WindowError("a window [start, stop) with 0 <= start < stop", got=[self.start, self.stop])

    def __contains__(self, step: int) -> bool:
        return step in self.steps

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def steps(self) -> range:
        """The start steps, noisiest first."""
        return range(self.start, self.stop)

    def from_step(self, step: int, *, end: int, at_least: int = 1) -> Window:
        """What of the window lies at a step or after it; and where that is less, the `at_least` steps from there on.

        Raises:
            WindowError: If those do not all lie before `end`.
        """
        start = max(self.start, step)
        stop = max(self.stop, start + at_least)
        if stop > end:
            raise WindowError(f"{at_least} start steps from step {start} on, below {end}", got=end - start)
        return Window(start, stop)


@dataclass(frozen=True)
class WindowSchedule:
    """Epoch -> window: stages that follow one another, each a window and the number of epochs it lasts."""

    stages: tuple[tuple[Window, int], ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise WindowError("at least one window", got=0)
        for entry, (_, epochs) in enumerate(self.stages):
            if epochs < 1:
                raise WindowError("a window that lasts at least 1 epoch", got=epochs, entry=entry)

    @property
    def num_epochs(self) -> int:
        """How many epochs the schedule covers."""
        return sum(epochs for _, epochs in self.stages)

    def from_step(self, step: int, *, end: int, at_least: int) -> WindowSchedule:
        """The schedule of a policy that switches at a later step: see `Window.from_step`."""
        return WindowSchedule(
            tuple((window.from_step(step, end=end, at_least=at_least), epochs) for window, epochs in self.stages)
        )

    def window(self, epoch: int) -> Window:
        """The window of an epoch, counted from 0.

        Raises:
            WindowError: For a negative epoch or one past the end of the schedule.
        """
        remaining = epoch
        for window, epochs in self.stages:
            if 0 <= remaining < epochs:
                return window
            remaining -= epochs
        raise WindowError(f"an epoch in [0, {self.num_epochs})", got=epoch)


class WindowSpec(Protocol):
    """A window as it is asked for: in fractions of K or in steps, exactly one of them."""

    @property
    def fractions(self) -> tuple[float, float] | None:
        """[a, b): the trained steps k with a <= k/K < b."""

    @property
    def steps(self) -> tuple[int, int] | None:
        """[i, j): these steps, all of which must be trained."""

    @property
    def epochs(self) -> int:
        """How long it lasts; 0 where the schedule decides."""


class ScheduleSpec(Protocol):
    """A schedule as it is asked for; the configuration's `starts` section is one."""

    @property
    def schedule(self) -> ScheduleName:
        """Which one (see `build_schedule`)."""

    @property
    def windows(self) -> Sequence[WindowSpec]:
        """The windows of `fixed` and `custom`; empty for the others."""

    @property
    def width(self) -> float:
        """Of a `sliding` window, as a fraction of K."""


def first_step_from(fraction: float, num_steps: int) -> int:
    """The first step k with k/K >= fraction; K itself if there is none.

    A fraction such as 0.3 and the quotient 3/10 round to the same float, so no tolerance is needed.
    """
    return next((step for step in range(num_steps) if step / num_steps >= fraction), num_steps)


def first_step_within(sigma: float, sigmas: Sequence[float]) -> int:
    """The first step whose sigma is at most this; as many as there are steps if there is none.

    Args:
        sigma: A noise level.
        sigmas: [K] that of each step, falling.
    """
    return next((step for step, level in enumerate(sigmas) if level <= sigma), len(sigmas))


def build_schedule(
    spec: ScheduleSpec,
    *,
    num_epochs: int,
    num_steps: int,
    num_trained_steps: int,
    switch_step: int = 0,
) -> WindowSchedule:
    """Build one of the named schedules for a run of `num_epochs` epochs.

    `fixed` = one window throughout; `custom` = the given windows, each for its epochs; `baseline`, `early`, `later` =
    two windows, half of the epochs each (the first gets the odd one); `sliding` = a window of a given width that moves
    from the first position to the last; `uniform` = every trained step from the switch step on.

    Args:
        spec: The schedule that is asked for.
        num_epochs: Epochs of the run.
        num_steps: K.
        num_trained_steps: The trained steps are 0 .. num_trained_steps-1.
        switch_step: First step of the tuned weights; no window may start before it. 0 without a split.

    Raises:
        WindowError: If a window is empty, untrained or starts before the switch step, or if durations do not add up.
    """
    if not 0 <= switch_step < num_trained_steps < num_steps:
        raise WindowError(
            f"0 <= switch step < number of trained steps < K = {num_steps}", got=f"{switch_step}, {num_trained_steps}"
        )
    if spec.schedule == "uniform":
        return WindowSchedule(((Window(switch_step, num_trained_steps), num_epochs),))
    if spec.schedule == "sliding":
        return _sliding(spec.width, num_epochs, num_steps, num_trained_steps, switch_step)
    if spec.schedule in _HALVES:
        windows = [_from_fractions(*pair, None, num_steps, num_trained_steps) for pair in _HALVES[spec.schedule]]
        durations = _halves(spec.schedule, num_epochs)
    else:
        windows = [_resolve(window, entry, num_steps, num_trained_steps) for entry, window in enumerate(spec.windows)]
        durations = _durations(spec, num_epochs)
    for entry, window in enumerate(windows):
        if window.start < switch_step:
            raise WindowError(
                f"a window that starts at the switch step {switch_step} or later",
                got=f"steps {window.start} to {window.stop - 1}",
                entry=None if spec.schedule in _HALVES else entry,
            )
    return WindowSchedule(tuple(zip(windows, durations, strict=True)))


def _halves(name: str, num_epochs: int) -> list[int]:
    if num_epochs < 2:
        raise WindowError(f"at least 2 epochs for the two windows of {name!r}", got=num_epochs)
    return [num_epochs - num_epochs // 2, num_epochs // 2]


def _durations(spec: ScheduleSpec, num_epochs: int) -> list[int]:
    if spec.schedule == "fixed":
        if len(spec.windows) != 1:
            raise WindowError("exactly one window", got=len(spec.windows))
        if spec.windows[0].epochs:
            raise WindowError("a fixed window without epochs, as it lasts all", got=spec.windows[0].epochs, entry=0)
        return [num_epochs]
    durations = [window.epochs for window in spec.windows]
    if sum(durations) != num_epochs:
        raise WindowError(f"windows whose epochs add up to the {num_epochs} epochs of the run", got=durations)
    return durations


def _resolve(spec: WindowSpec, entry: int, num_steps: int, num_trained_steps: int) -> Window:
    if spec.fractions is not None and spec.steps is None:
        return _from_fractions(*spec.fractions, entry, num_steps, num_trained_steps)
    if spec.steps is None or spec.fractions is not None:
        raise WindowError("one of fractions, steps and sigmas", got=[spec.fractions, spec.steps], entry=entry)
    start, stop = spec.steps
    if not 0 <= start < stop <= num_trained_steps:
        expected = f"steps [i, j] with 0 <= i < j <= {num_trained_steps}, as later steps are not trained"
        raise WindowError(expected, got=list(spec.steps), entry=entry)
    return Window(start, stop)


def _from_fractions(low: float, high: float, entry: int | None, num_steps: int, num_trained_steps: int) -> Window:
    start = first_step_from(low, num_steps)
    stop = min(first_step_from(high, num_steps), num_trained_steps)
    if not start < stop:
        expected = (
            f"fractions [a, b] with a trained step k, a <= k/{num_steps} < b (trained: 0 to {num_trained_steps - 1})"
        )
        raise WindowError(expected, got=[low, high], entry=entry)
    return Window(start, stop)


def _sliding(width: float, num_epochs: int, num_steps: int, num_trained_steps: int, switch_step: int) -> WindowSchedule:
    if num_epochs < 2:
        raise WindowError("at least 2 epochs for a window to slide", got=num_epochs)
    width_steps = round(width * num_steps)
    span = num_trained_steps - switch_step - width_steps
    if width_steps < 1 or span < 1:
        raise WindowError(
            f"a width of at least one step and less than the {num_trained_steps - switch_step} steps it slides over",
            got=f"{width} = {width_steps} steps",
        )
    starts = (
        switch_step + (2 * span * epoch + num_epochs - 1) // (2 * (num_epochs - 1)) for epoch in range(num_epochs)
    )
    stages = ((Window(start, start + width_steps), sum(1 for _ in epochs)) for start, epochs in groupby(starts))
    return WindowSchedule(tuple(stages))
