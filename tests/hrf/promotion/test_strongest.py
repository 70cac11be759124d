"""The strongest candidate that keeps the floor: which strengths are measured, and which one is chosen."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.made_up import front_point
from hrf.evaluation.record import FrontPoint
from hrf.promotion.strongest import GRID, choose, next_strength, search

FLOOR = 0.9


def point(strength: float, bound: float, *, tripped: bool = False) -> FrontPoint:
    return front_point(strength, bound=bound, gain=strength, tripped=tripped)


def falling(loss: float, power: float):
    """A bound that falls with the strength from the base's 1."""
    return lambda strength: point(strength, 1 - loss * strength**power)


losses, powers = st.floats(0.0, 0.8), st.floats(0.8, 3.0)


@given(losses, powers, st.integers(0, 6))
def test_what_is_chosen_keeps_the_floor_or_nothing_measured_does(loss, power, most):
    """Kills: the strongest measured instead of the strongest that keeps the floor; one measurement too many."""
    front = search(falling(loss, power), floor=FLOOR, most=most)
    chosen = choose(front, floor=FLOOR)

    assert front[0].strength == 1.0
    assert 1 <= len(front) <= 1 + most
    assert len({each.strength for each in front}) == len(front)
    assert all(each.strength * GRID == int(each.strength * GRID) > 0 for each in front)
    keeping = [each.strength for each in front if each.diversity_ratio.low > FLOOR]
    assert chosen.strength == (max(keeping) if keeping else min(each.strength for each in front))


@given(losses, powers)
def test_enough_measurements_find_the_strongest_there_is(loss, power):
    """Against all 32 by hand. Kills: the bracket's wrong end, a step past the end of the bracket, an early stop."""
    measure = falling(loss, power)
    best = max((k / GRID for k in range(1, GRID + 1) if measure(k / GRID).keeps(FLOOR)), default=1 / GRID)

    assert choose(search(measure, floor=FLOOR, most=GRID), floor=FLOOR).strength == best


@given(st.floats(0.11, 0.8), st.floats(1.0, 3.0))
def test_three_measurements_come_close_to_it(loss, power):
    """Where the bound falls ever faster, as it does where noise adds up. Kills: the secant taken to the ratio's value,
    or with its ends exchanged; secants alone, which creep up from below."""
    exact = (0.1 / loss) ** (1 / power)
    chosen = choose(search(falling(loss, power), floor=FLOOR, most=3), floor=FLOOR)

    assert exact - 4 / GRID <= chosen.strength <= exact


def test_the_secant_is_the_one_through_the_ends_of_the_bracket():
    """By hand: from the base, 0.1/0.3 of the way; then the middle; then from what keeps the floor. Kills: rounding
    upwards."""
    first = point(1.0, 0.7)
    assert next_strength([], floor=FLOOR) == 1.0
    assert next_strength([first], floor=FLOOR) == math.floor(GRID / 3) / GRID
    low = point(0.3125, 0.95)
    assert next_strength([first, low], floor=FLOOR) == 0.65625
    high = point(0.65625, 0.85)
    expected = 0.3125 + (0.95 - 0.9) / (0.95 - 0.85) * (0.65625 - 0.3125)
    assert next_strength([first, low, high], floor=FLOOR) == math.floor(GRID * expected) / GRID


def test_a_monitor_that_trips_above_the_floor_is_bisected():
    """Kills: monitors that the search does not see; a secant that divides by nothing or runs backwards."""

    def measure(strength: float) -> FrontPoint:
        return point(strength, 0.99, tripped=strength > 0.3)

    front = search(measure, floor=FLOOR, most=4)

    assert [each.strength for each in front] == [1.0, 0.5, 0.25, 0.375, 0.3125]
    assert choose(front, floor=FLOOR).strength == 0.25


@pytest.mark.parametrize("most", [0, 3])
def test_a_candidate_that_keeps_the_floor_is_measured_once(most):
    front = search(falling(0.05, 2.0), floor=FLOOR, most=most)
    assert [each.strength for each in front] == [1.0]


def test_no_strength_below_the_smallest_is_asked_for():
    """What keeps no floor ends at the smallest. Kills: the limit left out, or applied to the guess alone."""
    front = search(falling(0.8, 0.8), floor=0.99, most=8, smallest=0.25)
    assert min(each.strength for each in front) == front[-1].strength == 0.25
    assert choose(front, floor=0.99).strength == 0.25
