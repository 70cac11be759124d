"""A small form of the simulation of verdicts, and its numbers against the library's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.verdicts import (
    FLOOR,
    NUM_SEEDS,
    chains,
    ever_wrong,
    improving,
    joint,
    null_p_values,
    play,
    power,
    ratio_statistics,
)
from hrf.core.diversity import vendi_order2_ratio_interval, vendi_order2_ratio_p_value


def test_its_statistics_are_the_librarys():
    """From counts and from features. Kills, in either: weights without their squares, an error at equal weights, a
    factor of 2, the wrong pair's influence."""
    counts = np.random.default_rng(0).multinomial(NUM_SEEDS, joint(0.98).ravel(), 6).reshape(-1, 6, 6)
    ratios, errors = ratio_statistics(counts)
    p_values = null_p_values(counts)
    kinds = torch.eye(6, dtype=torch.float64)
    for row, ratio, error, p_value in zip(counts, ratios, errors, p_values, strict=True):
        base, candidate = (
            kinds[torch.tensor(np.repeat(kind, row.ravel()))] for kind in (np.arange(36) // 6, np.arange(36) % 6)
        )
        interval = vendi_order2_ratio_interval(candidate, base)
        assert (ratio, error) == pytest.approx((interval.value, interval.standard_error))
        assert ratio > FLOOR
        assert vendi_order2_ratio_p_value(candidate, base, FLOOR) == pytest.approx(p_value, rel=1e-4)


def test_chains_of_wrong_candidates_are_kept_out_and_better_ones_are_promoted():
    """Kills: levels that are all alike; a selection in the place of the verdict."""
    for candidates in chains(60):
        assert ever_wrong(candidates, play(candidates, "new", 200)) <= 0.08
    same = chains(60)[0]
    assert ever_wrong(same, play(same, "old", 200)) > 0.5
    better = improving(6.0, 20)
    assert power(better, play(better, "new", 100), 0, 20) > 0.6
