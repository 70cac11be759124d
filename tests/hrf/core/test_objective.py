"""The loss against golden values computed by hand, numpy, and its mutants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from hrf.core.objective import (
    approximate_kl,
    clipped_surrogate,
    divergence_surrogate,
    group_advantages,
    outside_trust_region,
    probability_ratio,
    tail_fraction,
)


def surrogate(ratio: float, advantage: float, clip_range: float = 0.2, advantage_clip: float = 10.0) -> float:
    return float(
        clipped_surrogate(
            tensor([math.log(ratio)], dtype=torch.float64),
            tensor([0.0], dtype=torch.float64),
            tensor([advantage], dtype=torch.float64),
            clip_range=tensor([clip_range], dtype=torch.float64),
            advantage_clip=tensor([advantage_clip], dtype=torch.float64),
        )
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),
        (1.5, 2.0, -2.4),  # clipped above: kills a surrogate without clipping
        (0.5, 2.0, -1.0),  # not clipped below for a gain: kills clipping on both sides (min for max)
        (0.5, -2.0, 1.6),  # clipped below
        (1.5, -2.0, 3.0),  # not clipped above for a loss
    ],
)
def test_the_surrogate_is_pessimistic_on_both_signs_of_the_advantage(ratio, advantage, loss):
    """Kills: the sign, min for max, and a clip on the wrong side."""
    assert surrogate(ratio, advantage) == pytest.approx(loss)


def test_advantages_are_clipped_on_both_sides():
    assert surrogate(1.0, 7.0, advantage_clip=2.5) == pytest.approx(-2.5)
    assert surrogate(1.0, -7.0, advantage_clip=2.5) == pytest.approx(2.5)


@given(log_ratio=st.floats(-2, 2), advantage=st.floats(-5, 5), clip_range=st.floats(0.01, 0.5))
def test_the_surrogate_never_claims_more_than_the_plain_ratio(log_ratio, advantage, clip_range):
    plain = -advantage * math.exp(log_ratio)

    assert surrogate(math.exp(log_ratio), advantage, clip_range) >= plain - 1e-9


@given(advantage=st.floats(0.1, 5))
def test_a_clipped_ratio_has_no_gradient(advantage):
    log_prob = tensor([0.5], requires_grad=True)
    clipped_surrogate(
        log_prob, tensor([0.0]), tensor([advantage]), clip_range=tensor([0.1]), advantage_clip=tensor([10.0])
    ).sum().backward()

    assert float(log_prob.grad) == 0.0


def loss_and_gradient(log_ratio: float, advantage: float, dtype: torch.dtype) -> tuple[float, float]:
    log_prob = tensor([log_ratio], dtype=dtype, requires_grad=True)
    one = torch.ones(1, dtype=dtype)
    loss = clipped_surrogate(log_prob, 0 * one, advantage * one, clip_range=0.2 * one, advantage_clip=10 * one)
    loss.sum().backward()
    return float(loss.detach()), float(log_prob.grad)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "gradient"),
    [
        (90.0, 2.0, -2.4, 0.0),  # a good action that has become far more likely: the trust region holds it
        (
            90.0,
            -2.0,
            2 * math.exp(20),
            2 * math.exp(20),
        ),  # a bad one: it is pulled back, by as much as is representable
        (-90.0, 2.0, 0.0, 0.0),  # a good one lost: exp(-90) of a gradient
        (-90.0, -2.0, 1.6, 0.0),
        (19.0, -2.0, 2 * math.exp(19), 2 * math.exp(19)),  # within the bound, nothing is bounded
    ],
)
def test_far_ratios_have_finite_losses_and_the_gradient_of_their_side(log_ratio, advantage, loss, gradient):
    """Kills: an unbounded exponential (0 * inf = NaN where the clip takes the gradient away), a bound that takes the
    gradient of a bad action away, and one that lies within reach."""
    found = loss_and_gradient(log_ratio, advantage, torch.float32)

    assert found == pytest.approx((loss, gradient), rel=1e-5, abs=1e-30)


@given(log_ratio=st.floats(-19.9, 19.9), advantage=st.floats(-5, 5).filter(lambda value: abs(value) > 1e-3))
def test_within_its_bound_a_ratio_is_the_plain_one(log_ratio, advantage):
    """In double precision by hand: the gradient is that of -A exp(x), or nothing where the trust region has clipped."""
    clipped = (advantage > 0 and log_ratio > math.log(1.2)) or (advantage < 0 and log_ratio < math.log(0.8))
    gradient = 0.0 if clipped else -advantage * math.exp(log_ratio)

    assert loss_and_gradient(log_ratio, advantage, torch.float64)[1] == pytest.approx(gradient, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("log_ratio", [0.4, -0.4, 0.0])
@pytest.mark.parametrize("divergence", [0.9e-5, 1.1e-5])
def test_a_pair_is_dropped_if_it_has_gone_far_and_would_be_pushed_further(advantage, log_ratio, divergence):
    """Loss and gradient by hand. Kills: the sign of the agreement, dropping on either condition alone, a loss that is
    dropped and keeps its gradient."""
    log_prob = tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)

    loss, dropped = divergence_surrogate(
        log_prob, 0 * one, advantage * one, divergence * one, limit=1e-5 * one, advantage_clip=1.5 * one
    )
    loss.sum().backward()

    good_and_likelier, bad_and_less_likely = advantage > 0 and log_ratio > 0, advantage < 0 and log_ratio < 0
    far = divergence > 1e-5
    expected = far and (good_and_likelier or bad_and_less_likely)
    value = 0.0 if expected else -max(-1.5, min(1.5, advantage)) * math.exp(log_ratio)
    assert bool(dropped) == expected
    assert float(loss.detach()) == pytest.approx(value)
    assert float(log_prob.grad) == pytest.approx(value)


def test_dropped_pairs_of_far_ratios_have_no_gradient_rather_than_none_that_is_a_number():
    log_prob = tensor([90.0, -90.0, 90.0], requires_grad=True)
    one = torch.ones(3)

    loss, _ = divergence_surrogate(
        log_prob, 0 * one, tensor([1.0, -1.0, -1.0]), one, limit=1e-5 * one, advantage_clip=one
    )
    loss.sum().backward()

    assert log_prob.grad.tolist() == pytest.approx([0.0, 0.0, math.exp(20)])


def test_what_is_told_of_far_ratios_is_finite():
    log_prob, old = tensor([90.0, -90.0, 0.5]), torch.zeros(3)

    assert approximate_kl(log_prob, old).tolist() == pytest.approx([math.exp(20) - 91, 89.0, math.exp(0.5) - 1.5])
    assert probability_ratio(log_prob).isfinite().all()
    assert outside_trust_region(log_prob, old, torch.full((3,), 1.0)).tolist() == [True, False, False]


def test_what_is_not_a_number_stays_none():
    """Kills: a bound that makes a number of infinity, and so hides that the policy has diverged."""
    for value in (float("inf"), float("nan")):
        assert probability_ratio(tensor([value])).isnan().all()


def test_advantages_are_standardised_within_each_group():
    """Kills: standardising over all groups, and n taken for n - 1."""
    rewards = tensor([1.0, 2.0, 6.0, 10.0, 10.0, 40.0], dtype=torch.float64)
    groups = tensor([0, 0, 0, 7, 7, 7])

    for spread, ddof in (("population", 0), ("sample", 1)):
        advantages = group_advantages(rewards, groups, delta=1e-12, spread=spread).numpy()

        for members in (slice(0, 3), slice(3, 6)):
            values = rewards.numpy()[members]
            np.testing.assert_allclose(advantages[members], (values - values.mean()) / values.std(ddof=ddof))


def test_a_constant_group_gives_exact_zeros_and_leaves_the_others_alone():
    """A group of one, too: the deviation of a sample of one is none."""
    rewards, groups = tensor([0.1, 0.1, 0.1, 0.0, 1.0, 7.0]), tensor([0, 0, 0, 1, 1, 2])
    for spread, size in (("population", 1.0), ("sample", 0.5**0.5)):
        advantages = group_advantages(rewards, groups, delta=1e-8, spread=spread)

        assert advantages[:3].tolist() == [0.0, 0.0, 0.0]
        assert advantages[3:].tolist() == pytest.approx([-size, size, 0.0])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-100, 100)), min_size=1, max_size=30))
def test_advantages_sum_to_zero_in_every_group_and_keep_the_order(pairs):
    groups, rewards = (tensor(values) for values in zip(*pairs, strict=True))
    advantages = group_advantages(rewards.double(), groups, delta=1e-6)

    for group in groups.unique():
        own = advantages[groups == group]
        assert float(own.sum()) == pytest.approx(0.0, abs=1e-6)
        order = rewards.double()[groups == group].argsort(stable=True)
        assert (own[order].diff() >= 0).all()


@pytest.mark.parametrize(
    ("rewards", "groups", "delta"),
    [([1.0, float("nan")], [0, 0], 1e-8), ([1.0], [0, 0], 1e-8), ([1.0], [0], 0.0)],
)
def test_bad_rewards_are_refused(rewards, groups, delta):
    with pytest.raises(ValueError, match="rewards"):
        group_advantages(tensor(rewards), tensor(groups), delta=delta)


def test_the_tail_fraction_is_1_from_the_start_and_falls_with_the_start_step():
    """Kills: k / K for (K - k) / K, which would loosen the trust region for late starts."""
    assert tail_fraction(tensor([0, 10, 35]), 40).tolist() == pytest.approx([1.0, 0.75, 0.125])


def test_k3_estimates_the_kl_divergence_of_two_normals():
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.3, 1.0)
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))

    estimate = approximate_kl(new.log_prob(values), old.log_prob(values))

    exact = float(torch.distributions.kl_divergence(old, new))
    assert float(estimate.mean()) == pytest.approx(exact, abs=4 * float(estimate.std()) / 200_000**0.5)
    assert float(estimate.min()) >= -1e-6


def test_the_clip_fraction_counts_ratios_outside_the_trust_region_on_either_side():
    log_prob = tensor([0.0, 0.05, 0.2, -0.2])

    outside = outside_trust_region(log_prob, torch.zeros(4), torch.full((4,), 0.1))

    assert outside.tolist() == [False, False, True, True]
