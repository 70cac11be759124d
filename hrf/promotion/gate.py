"""The gate: may this candidate replace the incumbent? A pure function of measured numbers, all of which it records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hrf.core.statistics import means_by, paired_difference
from hrf.errors import NumericalError


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the gate."""

    name: str
    """`reward`, `diversity` or `monitors`."""
    passed: bool
    detail: str
    """The rule with its numbers."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says about one candidate against one incumbent."""

    promote: bool
    reward_vs_incumbent: dict[str, float]
    """Paired difference over the evaluation seeds: value, low, high, standard_error, in the reward's unit."""
    diversity_ratio: dict[str, float]
    """Order-2 Vendi score over the base's: value, low, high."""
    diversity_floor: float
    """What `diversity_ratio["low"]` must exceed."""
    monitors_tripped: tuple[str, ...]
    confidence: float
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[str]:
        """The details of the checks that failed; of all of them where none did."""
        return [check.detail for check in self.checks if self.promote or not check.passed]

    def as_record(self) -> dict[str, Any]:
        """All numbers as JSON values."""
        record = asdict(self) | {"reasons": self.reasons}
        del record["promote"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}


def decide(
    evaluation: Mapping[str, Any],
    *,
    incumbent_rewards: Sequence[float],
    diversity_floor: float,
    confidence: float,
) -> Decision:
    """Decide on a candidate: a better reward, diversity not inferior to the base's, and no monitor tripped.

        promote  iff  low(mean_i (r_i - r'_i)) > 0   and   low(V₂ / V₂ of the base) > f   and   no monitor trips

    r are the candidate's rewards and r' the incumbent's on the same seeds; V₂ is the order-2 Vendi score, whose ratio's
    interval the evaluation brings along. With prompts, r_i and r'_i are the means of prompt i instead, and V₂ is the
    score within prompts: both intervals bet on what holds for other prompts of that kind. Source of the rule: ours; it
    is the usual test of superiority in one quantity and non-inferiority in another.

    Args:
        evaluation: The candidate's evaluation record.
        incumbent_rewards: The incumbent's reward per evaluation seed, in the same order; the base's if nobody is one.
        diversity_floor: f in (0, 1).
        confidence: Of the reward's interval, in (0, 1).

    Raises:
        NumericalError: If a number that decides is not finite.
        ValueError: If the rewards are not one pair per seed.
    """
    epoch = evaluation["epoch"]
    _check_finite([*evaluation["rewards"], *incumbent_rewards], "a reward", epoch)
    ratio = {end: float(evaluation["diversity"]["vendi_order2_ratio"][end]) for end in ("value", "low", "high")}
    _check_finite(ratio.values(), "the diversity ratio", epoch)
    ours, theirs = evaluation["rewards"], incumbent_rewards
    if prompts := evaluation.get("prompts"):
        ours, theirs = means_by(ours, prompts), means_by(theirs, prompts)
    difference = paired_difference(ours, theirs, confidence).as_dict()
    tripped = tripped_monitors(evaluation)
    checks = (
        Check(
            name="reward",
            passed=difference["low"] > 0.0,
            detail=f"reward against the incumbent {difference['value']:+.4g}, lower bound {difference['low']:+.4g}:"
            f" must be above 0",
        ),
        Check(
            name="diversity",
            passed=ratio["low"] > diversity_floor,
            detail=f"diversity is {ratio['value']:.3g} of the base's, lower bound {ratio['low']:.3g}:"
            f" must be above {diversity_floor:.3g}",
        ),
        Check(
            name="monitors",
            passed=not tripped,
            detail=f"drift monitors tripped: {', '.join(tripped)}" if tripped else "no drift monitor tripped",
        ),
    )
    return Decision(
        promote=all(check.passed for check in checks),
        reward_vs_incumbent=difference,
        diversity_ratio=ratio,
        diversity_floor=diversity_floor,
        monitors_tripped=tripped,
        confidence=confidence,
        checks=checks,
    )


def tripped_monitors(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """The drift monitors that are over their limit in an evaluation record, by name."""
    return tuple(sorted(name for name, monitor in evaluation["monitors"].items() if monitor["tripped"]))


def _check_finite(numbers: Any, what: str, epoch: int) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise NumericalError(
            f"{what} is not finite", where=f"gate, epoch={epoch}", fix="look at the evaluation record and its samples"
        )
