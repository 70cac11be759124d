"""Windows against exact rational arithmetic, and schedules against their definitions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrf.core.window import Window, WindowError, WindowSchedule, build_schedule, first_step_from


@dataclass(frozen=True)
class Entry:
    fractions: tuple[float, float] | None = None
    steps: tuple[int, int] | None = None
    epochs: int = 0


@dataclass(frozen=True)
class Spec:
    schedule: str
    windows: tuple[Entry, ...] = ()
    width: float = 0.0


def build(spec: Spec, *, epochs: int = 4, steps: int = 20, trained: int = 18, switch: int = 0) -> WindowSchedule:
    return build_schedule(spec, num_epochs=epochs, num_steps=steps, num_trained_steps=trained, switch_step=switch)


def all_windows(schedule: WindowSchedule) -> list[Window]:
    return [schedule.window(epoch) for epoch in range(schedule.num_epochs)]


def test_window_holds_its_start_and_not_its_stop():
    window = Window(3, 6)
    assert list(window.steps) == [3, 4, 5]
    assert len(window) == 3
    assert 3 in window
    assert 5 in window
    assert 2 not in window
    assert 6 not in window


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 3), (-1, 2)])
def test_an_empty_or_negative_window_is_refused(start, stop):
    with pytest.raises(WindowError, match="start"):
        Window(start, stop)


@settings(deadline=None)
@given(
    steps=st.integers(2, 1000),
    untrained=st.integers(1, 5),
    bounds=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
)
def test_fractions_are_the_trained_steps_between_them_in_exact_arithmetic(steps, untrained, bounds):
    trained = max(1, steps - untrained)
    low, high = (Fraction(bound, 1000) for bound in bounds)
    expected = [step for step in range(trained) if low <= Fraction(step, steps) < high]
    spec = Spec("fixed", (Entry(fractions=(bounds[0] / 1000, bounds[1] / 1000)),))
    if expected:
        assert list(build(spec, steps=steps, trained=trained).window(0).steps) == expected
    else:
        with pytest.raises(WindowError, match="trained step"):
            build(spec, steps=steps, trained=trained)


@settings(deadline=None)
@given(steps=st.integers(1, 1000), step=st.integers(0, 999))
def test_first_step_from_a_steps_own_fraction_is_that_step(steps, step):
    """Kills ceil(fraction * K), which rounds 0.07 * 100 up to 8."""
    assert first_step_from(step % steps / steps, steps) == step % steps


def test_steps_are_taken_as_they_are_and_must_all_be_trained():
    assert build(Spec("fixed", (Entry(steps=(4, 18)),))).window(0) == Window(4, 18)
    with pytest.raises(WindowError, match="not trained"):
        build(Spec("fixed", (Entry(steps=(4, 19)),)))


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("baseline", Window(0, 10), Window(10, 18)),
        ("early", Window(0, 5), Window(5, 10)),
        ("later", Window(10, 15), Window(15, 18)),
    ],
)
@pytest.mark.parametrize(("epochs", "first_lasts"), [(2, 1), (3, 2), (8, 4)])
def test_two_window_schedules_share_the_epochs_and_the_first_gets_the_odd_one(name, first, second, epochs, first_lasts):
    expected = [first] * first_lasts + [second] * (epochs - first_lasts)
    assert all_windows(build(Spec(name), epochs=epochs)) == expected


@pytest.mark.parametrize("name", ["baseline", "early", "later", "sliding"])
def test_a_schedule_that_changes_needs_two_epochs(name):
    with pytest.raises(WindowError, match="at least 2 epochs"):
        build(Spec(name, width=0.2 if name == "sliding" else 0.0), epochs=1)


@settings(deadline=None)
@given(
    epochs=st.integers(2, 40), steps=st.integers(10, 60), switch=st.integers(0, 4), width_percent=st.integers(10, 30)
)
def test_a_sliding_window_keeps_its_width_and_moves_evenly_from_end_to_end(epochs, steps, switch, width_percent):
    trained = steps - 2
    windows = all_windows(
        build(Spec("sliding", width=width_percent / 100), epochs=epochs, steps=steps, trained=trained, switch=switch)
    )
    assert windows[0].start == switch
    assert windows[-1].stop == trained
    assert {len(window) for window in windows} == {round(width_percent / 100 * steps)}
    moves = [after.start - before.start for before, after in pairwise(windows)]
    assert max(moves) - min(moves) <= 1


@pytest.mark.parametrize("width", [0.0, 0.9, 0.02])
def test_a_sliding_window_needs_a_width_that_leaves_room(width):
    with pytest.raises(WindowError, match="width"):
        build(Spec("sliding", width=width))


def test_uniform_is_every_trained_step_from_the_switch_on():
    assert all_windows(build(Spec("uniform"), epochs=2, switch=7)) == [Window(7, 18)] * 2


@given(st.integers(0, 17), st.integers(1, 10), st.integers(0, 17), st.integers(1, 3))
def test_from_a_step_on_a_window_keeps_what_is_left_of_it_or_the_fewest_steps_from_there(start, width, step, fewest):
    """Kills: a window before the step; one that is longer than what was left of it; an empty one; one past the end."""
    window = Window(start, start + width)
    left = [each for each in window.steps if each >= step]
    expected = left if len(left) >= fewest else list(range(max(start, step), max(start, step) + fewest))
    if expected[-1] >= 18:
        with pytest.raises(WindowError, match="below 18"):
            window.from_step(step, end=18, at_least=fewest)
    else:
        assert list(window.from_step(step, end=18, at_least=fewest).steps) == expected
        moved = WindowSchedule(((window, 3), (Window(0, 18), 2))).from_step(step, end=18, at_least=fewest)
        assert [list(moved.window(epoch).steps) for epoch in (0, 2)] == [expected, expected]
        assert moved.num_epochs == 5


def test_no_window_may_start_before_the_switch_step():
    entry = Entry(fractions=(0.25, 1.0))
    assert build(Spec("fixed", (entry,)), switch=5).window(0) == Window(5, 18)
    with pytest.raises(WindowError, match="switch step 6") as caught:
        build(Spec("fixed", (entry,)), switch=6)
    assert caught.value.entry == 0
    with pytest.raises(WindowError, match="switch step 6"):
        build(Spec("baseline"), switch=6)


def test_custom_windows_last_their_epochs_which_add_up():
    entries = (Entry(steps=(0, 4), epochs=1), Entry(fractions=(0.5, 1.0), epochs=3))
    assert all_windows(build(Spec("custom", entries))) == [Window(0, 4)] + [Window(10, 18)] * 3
    with pytest.raises(WindowError, match="add up to the 5"):
        build(Spec("custom", entries), epochs=5)
    with pytest.raises(WindowError, match="at least 1 epoch") as caught:
        build(Spec("custom", (Entry(steps=(0, 4)), Entry(steps=(4, 8), epochs=4))))
    assert caught.value.entry == 0


@pytest.mark.parametrize("windows", [(), (Entry(steps=(0, 4)), Entry(steps=(4, 8)))])
def test_a_fixed_schedule_has_exactly_one_window(windows):
    with pytest.raises(WindowError, match="exactly one"):
        build(Spec("fixed", windows))


def test_a_fixed_window_has_no_duration():
    with pytest.raises(WindowError, match="without epochs"):
        build(Spec("fixed", (Entry(steps=(0, 4), epochs=4),)))


@pytest.mark.parametrize("entry", [Entry(), Entry(fractions=(0.0, 1.0), steps=(0, 3))])
def test_a_window_is_given_in_one_way(entry):
    with pytest.raises(WindowError, match="one of fractions, steps and sigmas"):
        build(Spec("fixed", (entry,)))


@pytest.mark.parametrize("epoch", [-1, 4, 100])
def test_no_epoch_outside_the_schedule_has_a_window(epoch):
    schedule = build(Spec("baseline"))
    with pytest.raises(ValueError, match=r"epoch in \[0, 4\)"):
        schedule.window(epoch)


@settings(deadline=None)
@given(order=st.permutations(range(6)))
def test_the_window_of_an_epoch_does_not_depend_on_what_was_asked_before(order):
    schedule = build(Spec("sliding", width=0.25), epochs=6)
    expected = all_windows(build(Spec("sliding", width=0.25), epochs=6))
    assert [schedule.window(epoch) for epoch in order] == [expected[epoch] for epoch in order]


@pytest.mark.parametrize(("trained", "switch"), [(0, 0), (20, 0), (18, 18), (18, -1)])
def test_impossible_step_numbers_are_refused(trained, switch):
    with pytest.raises(WindowError, match="switch step"):
        build(Spec("uniform"), trained=trained, switch=switch)
