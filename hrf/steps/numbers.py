"""A run's records in flat numbers: for Kubeflow's metrics, and as points of curves over epochs. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.records import DecisionRecord, HistoryEntry
from hrf.report.tracking import Point
from hrf.trainer.record import EpochRecord

BASE = -1
"""Where the base stands on the axis of epochs: before the first."""


def update_metrics(record: EpochRecord) -> dict[str, Any]:
    """An epoch's update record in flat numbers: the last update's metrics, and the largest share of one step.

    That share is absent where an epoch's steps were not measured, and what an objective does not have is, too.
    """
    norms = list(record.grad_norm_by_step.values())
    middle = float(np.median(norms)) if norms else 0.0
    return {
        **_known({name: value for name, value in vars(record.updates[-1]).items() if name != "update"}),
        "num_updates": len(record.updates),
        "num_evaluations": record.num_evaluations,
        **({"largest_step_over_median": max(norms) / middle if middle > 0 else 0.0} if norms else {}),
        "seconds": record.seconds["update"],
    }


def evaluation_metrics(record: EvaluationRecord) -> dict[str, float]:
    """An evaluation record in flat numbers, for Kubeflow's metrics and for tables."""
    gain, ratio = record.reward_vs_base, record.diversity.vendi_order2_ratio
    hue = record.monitors.get("mean_hue")
    metrics = {
        "reward": record.reward.value,
        "reward_vs_base": gain.value,
        "reward_vs_base_low": gain.low,
        "vendi_order2": record.diversity.vendi_order2.value,
        "vendi_order2_ratio": ratio.value,
        "vendi_order2_ratio_low": ratio.low,
        "coverage": record.fidelity.coverage,
        "density": record.fidelity.density,
        "mode_entropy": record.mode_entropy,
        "num_evaluations": record.num_evaluations,
        "strength": record.strength if record.front else None,
        **{name: monitor.value for name, monitor in record.monitors.items()},
        # Degrees go round: of a mean hue, only its turn makes a curve.
        "hue_shift": hue.change if hue else None,
    }
    # What needs a classifier, more samples, a hue, or other strengths to choose from, is absent rather than zero.
    return _known(metrics)


def curves(base: EvaluationRecord | None, epochs: Iterable[HistoryEntry]) -> list[Point]:
    """The points of a run's curves; those of evaluations begin with the base, if it is given."""
    return [
        *([Point(group="evaluation", epoch=BASE, numbers=_evaluation(base))] if base else []),
        *(
            Point(group=group, epoch=entry.epoch, numbers=numbers)
            for entry in epochs
            for group, numbers in _of_epoch(entry)
        ),
    ]


def _of_epoch(entry: HistoryEntry) -> Iterator[tuple[str, dict[str, float]]]:
    yield "train", _update(entry.update)
    if entry.evaluation:
        yield "evaluation", _evaluation(entry.evaluation)
    if entry.decision:
        yield "promotion", _decision(entry.decision)
    if entry.steering:
        steering = entry.steering.steering
        yield "steering", {"switch_step": steering.switch_step, "rate_scale": steering.rate_scale}


def _update(record: EpochRecord) -> dict[str, float]:
    numbers = {
        "reward_mean": record.reward_mean,
        "reward_std": record.reward_std,
        "shaping_mean": record.shaping_mean,
        "mean_start_step": record.mean_start_step,
        **update_metrics(record),
        **{f"{stage}_seconds": seconds for stage, seconds in record.seconds.items()},
    }
    del numbers["seconds"]
    if record.window:
        numbers["window_begin"], numbers["window_end"] = record.window
    return _known(numbers)


def _evaluation(record: EvaluationRecord) -> dict[str, float]:
    held_out = record.held_out_reward
    return evaluation_metrics(record) | ({"held_out_reward": held_out.value} if held_out else {})


def _decision(record: DecisionRecord) -> dict[str, float]:
    against = record.reward_vs_incumbent
    return _known(
        {
            "promoted": int(record.outcome == "promoted"),
            "reward_vs_incumbent": against.value if against else None,
            "reward_vs_incumbent_low": against.low if against else None,
            "verdict": record.number,
            "level": record.level,
        }
    )


def _known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}
