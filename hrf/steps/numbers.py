"""A run's records in flat numbers: for Kubeflow's metrics, and as points of curves over epochs. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from hrf.report.tracking import Point

BASE = -1
"""Where the base stands on the axis of epochs: before the first."""


def update_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """An epoch's update record in flat numbers: the last update's metrics, and the largest share of one step.

    That share is absent where an epoch's steps were not measured.
    """
    norms = list(record["grad_norm_by_step"].values())
    middle = float(np.median(norms)) if norms else 0.0
    return {
        **{name: value for name, value in record["updates"][-1].items() if name != "update"},
        "num_updates": len(record["updates"]),
        "num_evaluations": record["num_evaluations"],
        **({"largest_step_over_median": max(norms) / middle if middle > 0 else 0.0} if norms else {}),
        "seconds": record["seconds"]["update"],
    }


def evaluation_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation record in flat numbers, for Kubeflow's metrics and for tables."""
    metrics = {
        "reward": record["reward"]["value"],
        "reward_vs_base": record["reward_vs_base"]["value"],
        "reward_vs_base_low": record["reward_vs_base"]["low"],
        "vendi_order2": record["diversity"]["vendi_order2"]["value"],
        "vendi_order2_ratio": record["diversity"]["vendi_order2_ratio"]["value"],
        "vendi_order2_ratio_low": record["diversity"]["vendi_order2_ratio"]["low"],
        "coverage": record["fidelity"]["coverage"],
        "density": record["fidelity"]["density"],
        "mode_entropy": record["mode_entropy"],
        "num_evaluations": record["num_evaluations"],
        **{name: monitor["value"] for name, monitor in record["monitors"].items()},
        # Degrees go round: of a mean hue, only its turn makes a curve.
        "hue_shift": record["monitors"].get("mean_hue", {}).get("change"),
    }
    # What needs a classifier, more samples, or pictures with a hue, is absent rather than zero.
    return {name: value for name, value in metrics.items() if value is not None}


def curves(base: Mapping[str, Any] | None, epochs: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The points of a run's curves.

    Args:
        base: The base's evaluation record, where the curves of evaluations begin; None leaves it out.
        epochs: Each with its `epoch`, `update`, `evaluation`, `decision` and `steering`; None for what there is not.
    """
    return [
        *([Point(group="evaluation", epoch=BASE, numbers=_evaluation(base))] if base else []),
        *(
            Point(group=group, epoch=entry["epoch"], numbers=numbers)
            for entry in epochs
            for group, numbers in _of_epoch(entry)
        ),
    ]


def _of_epoch(entry: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    if update := entry["update"]:
        yield "train", _update(update)
    if evaluation := entry["evaluation"]:
        yield "evaluation", _evaluation(evaluation)
    if decision := entry["decision"]:
        yield "promotion", _decision(decision)
    if steering := entry["steering"]:
        yield "steering", {name: steering["steering"][name] for name in ("switch_step", "rate_scale")}


def _update(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        **{name: record[name] for name in ("reward_mean", "reward_std", "mean_start_step")},
        **update_metrics(dict(record)),
        **{f"{stage}_seconds": seconds for stage, seconds in record["seconds"].items()},
    }
    del numbers["seconds"]
    if record["window"]:
        numbers["window_begin"], numbers["window_end"] = record["window"]
    return _known(numbers)


def _evaluation(record: Mapping[str, Any]) -> dict[str, float]:
    held_out = record["held_out_reward"] or {}
    return _known({**evaluation_metrics(dict(record)), "held_out_reward": held_out.get("value")})


def _decision(record: Mapping[str, Any]) -> dict[str, float]:
    against = record["reward_vs_incumbent"] or {}
    return _known(
        {
            "promoted": int(record["outcome"] == "promoted"),
            "reward_vs_incumbent": against.get("value"),
            "reward_vs_incumbent_low": against.get("low"),
        }
    )


def _known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}
