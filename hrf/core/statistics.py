"""Confidence intervals: means, paired differences and jackknifed statistics, on the standard library alone.

Promotion decides on these numbers and runs where torch is not needed, so nothing here imports it. Too few observations,
one that is not finite, samples of different lengths, and a confidence outside (0, 1) are a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_FRACTION_TOLERANCE = 1e-15
_MAX_FRACTION_TERMS = 10_000
_TINY = 1e-300


@dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided confidence interval.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        standard_error: Standard error of `value`, in its own unit.
    """

    value: float
    low: float
    high: float
    standard_error: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high, self.standard_error))):
            raise ValueError(f"an interval needs finite numbers, got {self!r}")


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate a mean, with Student's interval.

        mean +- t_{(1+confidence)/2, n-1} * s / sqrt(n),   s² = sum (x_i - mean)² / (n - 1)

    Args:
        values: At least two finite, independent observations.
        confidence: Probability in (0, 1) that the interval is to cover the mean.
    """
    numbers = _checked(values, at_least=2)
    count = len(numbers)
    mean = math.fsum(numbers) / count
    variance = math.fsum((number - mean) ** 2 for number in numbers) / (count - 1)
    error = math.sqrt(variance / count)
    margin = two_sided_t(confidence, count - 1) * error
    return Interval(value=mean, low=mean - margin, high=mean + margin, standard_error=error)


def means_by(values: Sequence[float], groups: Sequence[int]) -> list[float]:
    """Mean of the values of each group, in the order of the groups' first appearance.

    Where observations come in groups that share something, such as a prompt, the groups are the independent ones.
    """
    if len(values) != len(groups):
        raise ValueError(f"expected a group for each value, got {len(values)} values and {len(groups)} groups")
    members: dict[int, list[float]] = {group: [] for group in groups}
    for value, group in zip(_checked(values, at_least=0), groups, strict=True):
        members[group].append(value)
    return [math.fsum(own) / len(own) for own in members.values()]


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate mean(a) - mean(b) where a_i and b_i share a seed: the mean of the differences, with Student's interval.

    Shared noise correlates a_i and b_i; the differences use that, and two separate intervals would throw it away.

    Args:
        a: Observations, one per seed.
        b: Observations of the other policy on the same seeds, in the same order.
        confidence: Probability in (0, 1) that the interval is to cover the difference.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values need the same seeds: got {len(a)} and {len(b)} values")
    first, second = _checked(a, at_least=2), _checked(b, at_least=2)
    return mean_interval([x - y for x, y in zip(first, second, strict=True)], confidence)


def jackknife_interval(value: float, leave_one_out: Sequence[float], confidence: float = 0.95) -> Interval:
    """Give a statistic of n observations a jackknife interval.

        se² = (n - 1)/n * sum_i (θ_(i) - mean θ_(.))²,   θ +- t_{(1+confidence)/2, n-1} * se

    Source: Tukey 1958; Efron and Stein 1981 show that se² is, on average, no smaller than the variance.

    Args:
        value: θ, the statistic of all n observations.
        leave_one_out: θ_(i), the statistic without observation i, for each i; n >= 2.
        confidence: Probability in (0, 1) that the interval is to cover the statistic's population value.
    """
    replicates = _checked(leave_one_out, at_least=2)
    count = len(replicates)
    mean = math.fsum(replicates) / count
    error = math.sqrt((count - 1) / count * math.fsum((replicate - mean) ** 2 for replicate in replicates))
    margin = two_sided_t(confidence, count - 1) * error
    return Interval(value=value, low=value - margin, high=value + margin, standard_error=error)


@cache
def two_sided_t(confidence: float, degrees_of_freedom: int) -> float:
    """Return the t with P(-t < T < t) = confidence for Student's T."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if degrees_of_freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees_of_freedom}")
    tail = 1.0 - confidence
    low, high = 0.0, 1.0
    while _t_tail_probability(high, degrees_of_freedom) > tail:
        low, high = high, 2.0 * high
    # Bisection down to neighbouring floats: at most some sixty steps, and nothing to tune.
    while low < (middle := (low + high) / 2.0) < high:
        if _t_tail_probability(middle, degrees_of_freedom) > tail:
            low = middle
        else:
            high = middle
    return high


def one_sided_p_value(t: float, degrees_of_freedom: int) -> float:
    """P(T > t) for Student's T."""
    tail = _t_tail_probability(abs(t), degrees_of_freedom) / 2.0
    return tail if t >= 0.0 else 1.0 - tail


def _t_tail_probability(t: float, degrees_of_freedom: int) -> float:
    """P(|T| > t) = I_{df/(df + t²)}(df/2, 1/2), with I the regularised incomplete beta function."""
    return _incomplete_beta(degrees_of_freedom / 2.0, 0.5, degrees_of_freedom / (degrees_of_freedom + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        # The fraction converges quickly only below this point; I_x(a, b) = 1 - I_{1-x}(b, a).
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    """1/(1 + d_1/(1 + d_2/(1 + ...))) of DLMF 8.17.22, by the modified Lentz method."""
    result, c, d = 1.0, 1.0, 0.0
    for term in range(_MAX_FRACTION_TERMS):
        m, odd = divmod(term, 2)
        if term == 0:
            numerator = 1.0
        elif odd:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + numerator * d or _TINY)
        c = 1.0 + numerator / c or _TINY
        result *= c * d
        if term and abs(c * d - 1.0) < _FRACTION_TOLERANCE:
            return result - 1.0
    raise ArithmeticError(f"the incomplete beta function did not converge at a={a}, b={b}, x={x}")


def _checked(values: Sequence[float], *, at_least: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) < at_least:
        raise ValueError(f"expected at least {at_least} values, got {len(numbers)}")
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"expected finite values, got {number} at index {index}")
    return numbers
