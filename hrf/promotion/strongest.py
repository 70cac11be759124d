"""The strongest candidate that keeps the diversity floor: which strengths to measure, and which to choose. Pure rules.

A candidate is base + a (tuned - base), see `hrf.policies.strength`. Its diversity falls with a from the base's own, so
the floor is crossed somewhere between a strength that keeps it and one that doesn't, which the next one lies between:

    a = a₀ + (a₁ - a₀) (b₀ - f) / (b₀ - b₁)    b the bounds, lower ends of the diversity ratio's interval, f the floor

a₀ is the strongest that keeps the floor, or the base itself (a = 0, b = 1), a₁ the weakest that doesn't: the secant
through both. Secants alone creep up from one side, so every other one is the middle instead; and so are all where a₁
has kept the floor and tripped a monitor, whose change is no function of a that we know. That the bound falls is assumed
within its noise only: what is chosen was measured. Source: ours; the method of false position, and bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hrf.evaluation.record import FrontPoint

GRID = 32
"""Strengths are multiples of 1/32: neighbours among them are not told apart by some hundred samples."""


def next_strength(measured: Sequence[FrontPoint], *, floor: float, smallest: float = 1 / GRID) -> float | None:
    """The strength to measure next, a multiple of 1/32; None where there is nothing left to find out.

    Args:
        measured: What was measured so far; nothing: strength 1 comes first.
        floor: f in (0, 1).
        smallest: No strength below this one is asked for.
    """
    if not measured:
        return 1.0
    too_strong = [point for point in measured if not point.keeps(floor)]
    if not too_strong:
        return None
    high = min(too_strong, key=lambda point: point.strength)
    kept = [point for point in measured if point.keeps(floor) and point.strength < high.strength]
    low = max(kept, key=lambda point: point.strength, default=None)
    start, start_bound = (low.strength, low.diversity_ratio.low) if low else (0.0, 1.0)
    by_secant = high.diversity_ratio.low <= floor and len(measured) % 2 == 1
    share = (start_bound - floor) / (start_bound - high.diversity_ratio.low) if by_secant else 0.5
    # Rounded towards the base, which is the safe side.
    guess = math.floor((start + share * (high.strength - start)) * GRID) / GRID
    least, most = max(start + 1 / GRID, smallest), high.strength - 1 / GRID
    return min(max(guess, least), most) if least <= most else None


def choose(measured: Sequence[FrontPoint], *, floor: float) -> FrontPoint:
    """The strongest that keeps the floor and trips no monitor; the weakest, which the gate refuses, if none does."""
    kept = [point for point in measured if point.keeps(floor)]
    if not kept:
        return min(measured, key=lambda point: point.strength)
    return max(kept, key=lambda point: point.strength)


def search(
    measure: Callable[[float], FrontPoint], *, floor: float, most: int, smallest: float = 1 / GRID
) -> list[FrontPoint]:
    """Measure strength 1 and, where it doesn't keep the floor, at most `most` others."""
    measured: list[FrontPoint] = []
    while len(measured) <= most and (strength := next_strength(measured, floor=floor, smallest=smallest)) is not None:
        measured.append(measure(strength))
    return measured
