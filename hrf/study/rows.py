"""From a run's records to its rows of the table, wherever the run was: the records are the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.floor import SteeringDecision
from hrf.promotion.records import HistoryEntry
from hrf.storage.folders import writing_file
from hrf.study.plan import StudyRun
from hrf.study.table import row


@dataclass(frozen=True, kw_only=True)
class ArmHistory:
    """What measuring a run's weights in one way has left: the run's own, or a control's."""

    base: EvaluationRecord
    epochs: Sequence[HistoryEntry]
    """Of each trained epoch."""
    fronts: Mapping[str, Sequence[EvaluationRecord]] = field(default_factory=dict)
    """By arm: its end at each of that arm's strengths."""


def rows_of(run: StudyRun, measured: Mapping[str, ArmHistory]) -> list[dict[str, Any]]:
    """A run's rows of the table, and those of its controls.

    A run that its diversity floor has stopped has fewer points than were planned.
    """
    rows = [
        row(
            measured[arm if arm in measured else run.arm].base,
            arm=arm,
            reward=run.reward,
            config=config,
            point=0,
            switch_step=config.switch_step,
        )
        for arm, config in run.configs.items()
    ]
    trained = measured[run.arm].epochs
    for point, length in enumerate(run.measured_after, start=1):
        if length > len(trained):
            break
        for arm in run.ways:
            config, epochs = run.configs[arm], measured[arm].epochs[:length]
            last = epochs[-1]
            assert last.evaluation, "the last epoch of a point is measured"
            assert last.decision, "and put to the gate"
            # Of a run under a floor the policy itself says from where its weights are used; of others, the way that it
            # is sampled in.
            steered = config.diversity_floor is not None
            rows.append(
                row(
                    last.evaluation,
                    arm=arm,
                    reward=run.reward,
                    config=config,
                    point=point,
                    switch_step=_switch_step(run, trained[: length - 1]) if steered else config.switch_step,
                    wall_seconds=sum(sum(entry.update.seconds.values()) for entry in epochs),
                    promoted=last.decision.outcome == "promoted",
                    update=last.update,
                )
            )
    return rows + _front_rows(run, measured[run.arm])


def _front_rows(run: StudyRun, measured: ArmHistory) -> list[dict[str, Any]]:
    """What the end of a run is worth at the strengths of its fronts: each cost all that its training did."""
    last = measured.epochs[-1]
    return [
        row(
            record,
            arm=front.arm,
            reward=run.reward,
            config=front.config,
            point=point,
            switch_step=_switch_step(run, measured.epochs[:-1]),
            wall_seconds=sum(sum(entry.update.seconds.values()) for entry in measured.epochs),
            update=last.update,
        )
        for front in run.fronts
        for point, record in enumerate(measured.fronts[front.arm], start=1)
    ]


def keep_decisions(run: StudyRun, measured: ArmHistory, folder: Path) -> None:
    """Write down what held a run above its diversity floor, where it has one: an entry for each time it was steered."""
    if run.config.diversity_floor is None:
        return
    records = [_decision(entry.epoch, entry.steering) for entry in measured.epochs if entry.steering]
    folder.mkdir(parents=True, exist_ok=True)
    with writing_file(folder / f"{run.name}.json") as file:
        file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _switch_step(run: StudyRun, epochs: Sequence[HistoryEntry]) -> int:
    """From which step a run's weights are used after these epochs, where its floor has moved that step."""
    moved = [entry.steering.steering.switch_step for entry in epochs if entry.steering]
    return moved[-1] if moved else run.config.switch_step


def _decision(epoch: int, decision: SteeringDecision) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "bound": decision.reading.bound,
        "gain": decision.reading.reward,
        "action": decision.action,
        "switch_step": decision.steering.switch_step,
        "rate_scale": decision.steering.rate_scale,
        "reason": decision.reason,
    }
