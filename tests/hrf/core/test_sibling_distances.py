"""Distances to siblings against numbers by hand, and their mutants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrf.core.diversity import sibling_distances

GROUPS = torch.tensor([0, 1, 0, 1, 0])


def test_the_distances_of_three_branches_are_those_by_hand():
    """Cosines of the group 0: (1, 0) and (0, 2) 0, (1, 0) and (3, 4) 0.6, (0, 2) and (3, 4) 0.8.

    Kills: the distance to itself counted in the mean, distances to another group's branches, similarities for
    distances, products of vectors that are not of length 1.
    """
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -5.0], [3.0, 4.0]])

    distances = sibling_distances(features, GROUPS)

    expected = [(1 + 0.4) / 2, 1.0, (1 + 0.2) / 2, 1.0, (0.4 + 0.2) / 2]
    assert distances.tolist() == pytest.approx(expected, abs=1e-7)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_distances_know_no_length_and_nothing_of_other_groups(seed, scale):
    source = torch.Generator().manual_seed(seed)
    features, others = torch.randn(2, 5, 3, generator=source).unbind()
    changed = torch.where((GROUPS == 0)[:, None], scale * features, others)

    ours, theirs = sibling_distances(features, GROUPS), sibling_distances(changed, GROUPS)

    torch.testing.assert_close(ours[GROUPS == 0], theirs[GROUPS == 0], rtol=1e-5, atol=1e-6)
    assert (ours >= 0).all()
    assert (ours <= 2).all()


def test_a_sample_without_a_direction_is_refused():
    with pytest.raises(ValueError, match="length zero"):
        sibling_distances(torch.tensor([[1.0], [0.0], [1.0], [1.0], [1.0]]), GROUPS)


def test_a_sample_without_siblings_is_refused():
    with pytest.raises(ValueError, match="sample 1 has no siblings"):
        sibling_distances(torch.ones(3, 2), torch.tensor([0, 1, 0]))
