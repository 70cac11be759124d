"""Windows of start steps, and the schedules that give every epoch its window.

A window is a half-open range of START steps: an episode that starts at step k trains every trained step from k to the
end. A schedule is a pure function of the epoch, so a run that resumes cannot be at another window than it would have
been. Trained steps are the steps 0 .. num_trained_steps-1, because the sampler's noise falls with the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """A window as it is asked for: in fractions of K or in steps, exactly one of them."""

    fractions: tuple[float, float] | None = None
    """[a, b): the trained steps k with a <= k/K < b."""
    steps: tuple[int, int] | None = None
    """[i, j): these steps, all of which must be trained."""
    epochs: int = 0
    """How long it lasts; 0 where the schedule decides."""


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


def first_step_from(fraction: float, num_steps: int) -> int:
    """The first step k with k/K >= fraction; K itself if there is none.

    A fraction such as 0.3 and the quotient 3/10 round to the same float, so no tolerance is needed.
    """
    return next((step for step in range(num_steps) if step / num_steps >= fraction), num_steps)


def build_schedule(
    name: ScheduleName,
    windows: Sequence[WindowSpec] = (),
    *,
    width: float = 0.0,
    num_epochs: int,
    num_steps: int,
    num_trained_steps: int,
    switch_step: int = 0,
) -> WindowSchedule:
    """Build one of the named schedules for a run of `num_epochs` epochs.

    Args:
        name: `fixed` = one window throughout; `custom` = the given windows, each for its `epochs`; `baseline`, `early`,
            `later` = two windows, half of the epochs each (the first gets the odd one); `sliding` = a window of `width`
            that moves from the first to the last position; `uniform` = every trained step.
        windows: The windows of `fixed` and `custom`; empty for the others.
        width: Of a `sliding` window, as a fraction of K.
        num_epochs: Epochs of the run.
        num_steps: K.
        num_trained_steps: The trained steps are 0 .. num_trained_steps-1.
        switch_step: First step of the tuned weights; no window may start before it. 0 without a split.

    Raises:
        WindowError: If a window is empty, untrained or starts before the switch step, or if durations do not add up.
    """
    if name not in get_args(ScheduleName):
        raise WindowError(f"one of {', '.join(get_args(ScheduleName))}", got=name)
    if not 0 <= switch_step < num_trained_steps < num_steps:
        raise WindowError(
            f"0 <= switch step < number of trained steps < K = {num_steps}", got=f"{switch_step}, {num_trained_steps}"
        )
    if name == "uniform":
        return WindowSchedule(((Window(switch_step, num_trained_steps), num_epochs),))
    if name == "sliding":
        return _sliding(width, num_epochs, num_steps, num_trained_steps, switch_step)
    stages = []
    for entry, spec in enumerate(_specs(name, windows, num_epochs)):
        window = _resolve(spec, entry, num_steps, num_trained_steps)
        if window.start < switch_step:
            raise WindowError(
                f"a window that starts at the switch step {switch_step} or later",
                got=f"steps [{window.start}, {window.stop})",
                entry=entry,
            )
        stages.append((window, spec.epochs))
    return WindowSchedule(tuple(stages))


def _specs(name: str, windows: Sequence[WindowSpec], num_epochs: int) -> list[WindowSpec]:
    """The windows of a schedule with their durations, which add up to `num_epochs`."""
    if name in _HALVES:
        if num_epochs < 2:
            raise WindowError(f"at least 2 epochs for the two windows of {name!r}", got=num_epochs)
        second = num_epochs // 2
        durations = (num_epochs - second, second)
        return [
            WindowSpec(fractions=fractions, epochs=epochs)
            for fractions, epochs in zip(_HALVES[name], durations, strict=True)
        ]
    if name == "fixed":
        if len(windows) != 1 or windows[0].epochs:
            raise WindowError("exactly one window, without epochs", got=[_describe(window) for window in windows])
        return [WindowSpec(fractions=windows[0].fractions, steps=windows[0].steps, epochs=num_epochs)]
    total = sum(window.epochs for window in windows)
    if total != num_epochs:
        raise WindowError(f"windows whose epochs add up to the {num_epochs} epochs of the run", got=total)
    return list(windows)


def _resolve(spec: WindowSpec, entry: int, num_steps: int, num_trained_steps: int) -> Window:
    if (spec.fractions is None) == (spec.steps is None):
        raise WindowError("either fractions or steps", got=_describe(spec), entry=entry)
    if spec.steps is not None:
        start, stop = spec.steps
        if not 0 <= start < stop <= num_trained_steps:
            expected = f"steps [i, j] with 0 <= i < j <= {num_trained_steps}, as later steps are not trained"
            raise WindowError(expected, got=list(spec.steps), entry=entry)
        return Window(start, stop)
    assert spec.fractions is not None
    low, high = spec.fractions
    start = first_step_from(low, num_steps)
    stop = min(first_step_from(high, num_steps), num_trained_steps)
    if not start < stop:
        expected = (
            f"fractions [a, b] with a trained step k, a <= k/{num_steps} < b (trained: 0 to {num_trained_steps - 1})"
        )
        raise WindowError(expected, got=list(spec.fractions), entry=entry)
    return Window(start, stop)


def _sliding(
    width: float, num_epochs: int, num_steps: int, num_trained_steps: int, switch_step: int
) -> WindowSchedule:
    if num_epochs < 2:
        raise WindowError("at least 2 epochs for a window to slide", got=num_epochs)
    width_steps = round(width * num_steps)
    span = num_trained_steps - switch_step - width_steps
    if width_steps < 1 or span < 1:
        raise WindowError(
            f"a width of at least one step and less than the {num_trained_steps - switch_step} steps it slides over",
            got=f"{width} = {width_steps} steps",
        )
    starts = [switch_step + (2 * span * epoch + num_epochs - 1) // (2 * (num_epochs - 1)) for epoch in range(num_epochs)]
    return WindowSchedule(tuple((Window(start, start + width_steps), 1) for start in starts))


def _describe(spec: WindowSpec) -> dict[str, object]:
    return {key: value for key, value in vars(spec).items() if value}
