"""Made-up records for what is about promotion, not about pictures. Imports little."""

from __future__ import annotations

from hrf.evaluation.record import (
    Diversity,
    Estimate,
    EvaluationRecord,
    Fidelity,
    FrontPoint,
    Interval,
    MonitorReading,
    NamedEstimate,
)


def front_point(strength: float, *, bound: float, gain: float, tripped: bool = False) -> FrontPoint:
    """A point of a front, by the lower end of its diversity ratio."""
    return FrontPoint(
        strength=strength,
        reward_vs_base=Estimate(value=gain, low=gain, high=gain, standard_error=0.0),
        diversity_ratio=Interval(value=bound + 0.02, low=bound, high=bound + 0.04),
        coverage=1.0,
        monitors={"edge_density": MonitorReading(value=0.0, base=0.0, change=0.0, limit=1.0, tripped=tripped)},
    )


def evaluation_of(
    rewards: list[float], *, epoch: int = 0, ratio_low: float = 0.95, monitors: dict[str, MonitorReading] | None = None
) -> EvaluationRecord:
    """An evaluation of which a promotion reads the rewards, the lower end of the diversity ratio and the monitors."""
    nothing = Estimate(value=0.0, low=0.0, high=0.0, standard_error=0.0)
    return EvaluationRecord(
        epoch=epoch,
        num_samples=len(rewards),
        eta=1.0,
        evaluation_seed=0,
        num_evaluations=0,
        reward=NamedEstimate(name="made-up", **dict(nothing)),
        reward_vs_base=nothing,
        held_out_reward=None,
        held_out_reward_vs_base=None,
        diversity=Diversity(
            vendi_order2=Interval(value=0.0, low=0.0, high=0.0),
            vendi_order2_ratio=Interval(value=ratio_low + 0.03, low=ratio_low, high=ratio_low + 0.06),
            vendi_order1=1.0,
            mean_pairwise_distance=0.0,
            features="pixels",
        ),
        fidelity=Fidelity(coverage=1.0, density=1.0, classifier_frechet_distance=None, classifier_inception_score=None),
        modes=None,
        mode_entropy=None,
        mean_confidence=None,
        monitors=monitors or {},
        rewards=rewards,
    )
