"""HRF-D's choice of a start step against the formula written out in numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrf.core.selection import best_pair, coarse_candidates, minmax, pair_scores, refined_candidates

finite = st.floats(-10, 10)


def test_scores_are_those_of_a_worked_example():
    """Kills: distances of the earlier step of a pair, and a plus for the distance."""
    # gains 1, 3, 2 -> 0, 1, 0.5; distances of the later steps 0.2, 0.6, 0.4 -> 0, 1, 0.5.
    scores = pair_scores([0.0, 1.0, 4.0, 6.0], [0.9, 0.2, 0.6, 0.4], beta=0.5)

    assert scores == pytest.approx([0.0, 0.5, 0.25])
    assert best_pair([0.0, 1.0, 4.0, 6.0], [0.9, 0.2, 0.6, 0.4], beta=0.5) == 1


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20), st.floats(0, 2))
def test_scores_agree_with_numpy(points, beta):
    rewards, distances = (np.array(values) for values in zip(*points, strict=True))

    def scaled(values: np.ndarray) -> np.ndarray:
        spread = values.max() - values.min()
        return (values - values.min()) / spread if spread else np.zeros_like(values)

    expected = scaled(np.diff(rewards)) - beta * scaled(distances[1:])
    np.testing.assert_allclose(pair_scores(rewards.tolist(), distances.tolist(), beta), expected)


def test_minmax_of_a_constant_is_zero():
    assert minmax([3.0, 3.0]) == [0.0, 0.0]


def test_without_a_distance_weight_the_steepest_rise_wins():
    assert best_pair([0.0, 0.1, 0.9, 1.0], [0.0, 0.0, 5.0, 0.0], beta=0.0) == 1


@pytest.mark.parametrize(("rewards", "distances"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_fewer_than_two_candidates_or_uneven_lengths_are_refused(rewards, distances):
    with pytest.raises(ValueError, match="candidates"):
        pair_scores(rewards, distances, beta=0.5)


@given(st.integers(2, 40), st.integers(1, 8))
def test_the_coarse_grid_spans_the_candidates_and_refinement_stays_inside_the_winning_pair(count, stride):
    candidates = list(range(3, 3 + 2 * count, 2))
    coarse = coarse_candidates(candidates, stride)

    assert coarse[0] == candidates[0]
    assert coarse[-1] == candidates[-1]
    for winner in range(len(coarse) - 1):
        fine = refined_candidates(candidates, coarse, winner)
        assert fine[0] == coarse[winner]
        assert fine[-1] == coarse[winner + 1]
        assert set(fine) <= set(candidates)
