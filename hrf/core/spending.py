"""How a total error is spent over a sequence of tests that has no end. Plain numbers."""

from __future__ import annotations

import math

EXPONENT = 0.5
"""s of `level`. `python -m benchmarks.verdicts` compares the power of several."""


def level(total: float, num_spent: int) -> float:
    """Level of the next test of a sequence, such that any false rejection in all of it has probability <= `total`.

        α_n = total (r^-s - (r + 1)^-s),   r = 1 + how many earlier tests did not reject

    The sum over r telescopes to `total`, however long the sequence is. A test that rejects gives its level back: the
    next one has the same r. This is why that is allowed. As long as no true hypothesis was rejected, all earlier true
    ones are among those that were not, so the k-th true one has r >= k, and a level of at most term k of the sum. Where
    each test keeps its level whatever came before, as on seeds that nobody has seen, the chance of a first false
    rejection is at most the sum of these terms. Tests that run at the same time count as not rejected: r only grows.

    Source: alpha spending, Foster and Stine 2008 (JRSS-B 70); handing on the level of what was rejected, Tian and
    Ramdas 2021 (online fallback, Stat. Methods Med. Res. 30), Fischer, Bofill Roig and Brannath 2024 (closed online
    procedures, Ann. Statist. 52). The sequence is ours.

    Args:
        total: In (0, 1).
        num_spent: Earlier tests that did not reject, 0 or more.

    Raises:
        ValueError: A total outside (0, 1), or a negative count.
    """
    if not 0.0 < total < 1.0 or num_spent < 0:
        raise ValueError(f"expected a total in (0, 1) and a count of at least 0, got {total} and {num_spent}")
    place = 1 + num_spent
    return total * (math.pow(place, -EXPONENT) - math.pow(place + 1, -EXPONENT))
