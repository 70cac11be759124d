"""The gate: may this candidate replace the incumbent? A pure function of measured numbers, all of which it records."""

from __future__ import annotations

from collections.abc import Sequence

from hrf.core.statistics import means_by, paired_difference
from hrf.evaluation.record import Estimate, EvaluationRecord
from hrf.promotion.records import Check, Verdict, VerdictNumber


def decide(
    evaluation: EvaluationRecord,
    *,
    incumbent_rewards: Sequence[float] | None,
    diversity_floor: float,
    confidence: float,
    number: VerdictNumber | None = None,
    diversity_p_value: float | None = None,
) -> Verdict:
    """Decide on a candidate: a better reward, diversity not inferior to the base's, and no monitor tripped.

        promote  iff  low(mean_i (r_i - r'_i)) > 0   and   low(V₂ / V₂ of the base) > f   and   no monitor trips

    r are the candidate's rewards and r' the incumbent's on the same seeds; V₂ is the order-2 Vendi score, whose ratio's
    interval the evaluation brings along. With prompts, r_i and r'_i are the means of prompt i instead, and V₂ is the
    score within prompts: both intervals bet on what holds for other prompts of that kind. Source of the rule: ours; it
    is the usual test of superiority in one quantity and non-inferiority in another. Monitors are guards and no tests:
    they only ever keep a candidate back, which spends no error.

    Args:
        evaluation: The candidate's.
        incumbent_rewards: The incumbent's reward per seed, in the same order; the base's if nobody is one. None where
            they are not known on these seeds: the reward is then left to a verdict.
        diversity_floor: f in (0, 1).
        confidence: Of both intervals, in (0, 1): 1 - 2 level where each end is a test at a level.
        number: Of the verdict whose seeds these are; None for a selection, on the fixed seeds.
        diversity_p_value: Of a verdict: of `hrf.core.diversity.vendi_order2_ratio_p_value`. The number's level must be
            above it, too.

    Returns:
        "promoted" or "rejected", with every number.

    Raises:
        ValueError: If the rewards are not one pair per seed, or not finite.
    """
    checks, difference = [], None
    if incumbent_rewards is not None:
        ours, theirs = evaluation.rewards, incumbent_rewards
        if evaluation.prompts:
            ours, theirs = means_by(ours, evaluation.prompts), means_by(theirs, evaluation.prompts)
        difference = Estimate(**vars(paired_difference(ours, theirs, confidence)))
        checks.append(
            Check(
                name="reward",
                passed=difference.low > 0.0,
                detail=f"reward against the incumbent {difference.value:+.4g}, lower bound {difference.low:+.4g}:"
                f" must be above 0",
            )
        )
    ratio, tripped = evaluation.diversity.vendi_order2_ratio, evaluation.tripped_monitors
    is_sure, sureness = True, ""
    if number is not None and diversity_p_value is not None:
        is_sure = diversity_p_value < number.level
        sureness = f"; p-value {diversity_p_value:.2g}: must be below {number.level:.2g}"
    checks += [
        Check(
            name="diversity",
            passed=ratio.low > diversity_floor and is_sure,
            detail=f"diversity is {ratio.value:.3g} of the base's, lower bound {ratio.low:.3g}:"
            f" must be above {diversity_floor:.3g}{sureness}",
        ),
        Check(
            name="monitors",
            passed=not tripped,
            detail=f"drift monitors tripped: {', '.join(tripped)}" if tripped else "no drift monitor tripped",
        ),
    ]
    failed = [check.detail for check in checks if not check.passed]
    return Verdict(
        outcome="rejected" if failed else "promoted",
        reward_vs_incumbent=difference,
        diversity_ratio=ratio,
        diversity_floor=diversity_floor,
        monitors_tripped=tripped,
        confidence=confidence,
        checks=checks,
        reasons=failed or [check.detail for check in checks],
        number=number.number if number else None,
        level=number.level if number else None,
        reward_vs_base=evaluation.reward_vs_base if number else None,
        diversity_p_value=diversity_p_value,
    )
