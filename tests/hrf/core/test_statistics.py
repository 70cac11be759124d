"""Intervals against scipy, and against the definition of the jackknife."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hrf.core.statistics import Interval, jackknife_interval, mean_interval, paired_difference, two_sided_t

FINITE = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("confidence", "degrees"),
    list(itertools.product((0.01, 0.5, 0.8, 0.95, 0.999, 0.999999), (1, 2, 3, 7, 63, 191, 1000))),
)
def test_t_quantile_agrees_with_scipy(confidence: float, degrees: int) -> None:
    # 1e-9: scipy's own quantile near 1 rounds the confidence to a double first.
    assert two_sided_t(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_mean_interval_agrees_with_scipy() -> None:
    """Kills: dividing the variance by n; the normal quantile in place of Student's; a one-sided quantile."""
    values = np.random.default_rng(0).normal(3.0, 2.0, 12)
    interval = mean_interval(values.tolist(), 0.9)
    low, high = stats.t.interval(0.9, 11, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.value == pytest.approx(values.mean())
    assert interval.standard_error == pytest.approx(stats.sem(values))


def test_paired_difference_is_first_minus_second_and_agrees_with_the_paired_t_test() -> None:
    """Kills: second minus first; two independent samples in place of pairs."""
    generator = np.random.default_rng(1)
    base = generator.normal(size=40)
    candidate = base + 0.3 + 0.1 * generator.normal(size=40)
    interval = paired_difference(candidate.tolist(), base.tolist(), 0.95)
    expected = stats.ttest_rel(candidate, base).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.low > 0.2


@settings(deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=30))
def test_a_policy_does_not_differ_from_itself(values: list[float]) -> None:
    assert paired_difference(values, values) == Interval(value=0.0, low=0.0, high=0.0, standard_error=0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=30))
def test_swapping_the_sides_of_a_difference_mirrors_it(pairs: list[tuple[float, float]]) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (there.value, there.low, there.high) == (-back.value, -back.high, -back.low)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=3, max_size=30))
def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean(values: list[float]) -> None:
    """Kills: the factor (n - 1)/n left out, inverted or squared."""
    leave_one_out = [float(np.mean(values[:index] + values[index + 1 :])) for index in range(len(values))]
    expected = mean_interval(values)
    interval = jackknife_interval(float(np.mean(values)), leave_one_out)
    # Means near 1e6 are rounded at 1e-10 before the small differences between them are taken.
    assert interval.low == pytest.approx(expected.low, rel=1e-6, abs=1e-6)
    assert interval.high == pytest.approx(expected.high, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 95.0, float("nan")])
def test_a_confidence_outside_the_open_unit_interval_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_values_without_a_spread_or_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        mean_interval(values)


def test_pairs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds: got 2 and 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_an_interval_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        Interval(value=float("nan"), low=0.0, high=1.0, standard_error=0.1)
