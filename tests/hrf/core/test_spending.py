"""The levels of a sequence of tests."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrf.core.spending import level


@given(total=st.floats(1e-6, 0.5), rejects=st.lists(st.booleans(), max_size=300))
def test_whatever_rejects_the_levels_of_what_does_not_never_exceed_the_total(total, rejects):
    """Kills: a sequence that sums to more; a rejection that pays more back than it took."""
    spent, sum_of_levels = 0, 0.0
    for rejected in rejects:
        own = level(total, spent)
        assert 0.0 < own < total
        assert sum_of_levels + own <= total * (1 + 1e-12)
        if not rejected:
            spent, sum_of_levels = spent + 1, sum_of_levels + own


def test_all_of_the_total_is_spent_in_the_end_and_ever_less_of_it_at_once():
    """Kills: an exponent of another sign or size."""
    levels = [level(0.05, spent) for spent in range(10_000)]
    assert all(later < earlier for earlier, later in itertools.pairwise(levels))
    assert math.fsum(levels) == pytest.approx(0.05 * (1 - 1 / math.sqrt(10_001)))
    assert levels[0] == pytest.approx(0.05 * (1 - 1 / math.sqrt(2)))


def test_tests_that_run_at_once_keep_to_the_total():
    """Two at a time, neither of which knows of the other: the second counts the first as one that did not reject."""
    total = 0.05
    for outcomes in itertools.product((False, True), repeat=8):
        rejected, kept = 0, []
        for number in range(0, len(outcomes), 2):
            levels = [level(total, number + offset - rejected) for offset in (0, 1)]
            kept += [own for own, rejects in zip(levels, outcomes[number:], strict=False) if not rejects]
            rejected += sum(outcomes[number : number + 2])
        assert math.fsum(kept) <= total


@pytest.mark.parametrize(("total", "spent"), [(0.0, 0), (1.0, 0), (0.05, -1)])
def test_other_totals_and_counts_are_refused(total, spent):
    with pytest.raises(ValueError, match=r"a total in \(0, 1\)"):
        level(total, spent)
