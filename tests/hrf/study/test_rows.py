"""Rows of the table from a run's records, on numbers that can be read off."""

from __future__ import annotations

import json
from typing import Any

from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.floor import Reading, Steering, SteeringDecision
from hrf.promotion.records import HistoryEntry
from hrf.study.plan import Control, StudyRun
from hrf.study.rows import ArmHistory, keep_decisions, rows_of
from tests.hrf.study.studies import study
from tests.hrf.summary_folders import decision, evaluation, update


def steering(switch_step: int) -> dict[str, Any]:
    """What a floor said after a measurement."""
    state = Steering(switch_step=switch_step, rate_scale=0.5)
    reading = Reading(bound=0.96, reward=0.1)
    return SteeringDecision(action="tighten", reason="near", reading=reading, floor=0.9, steering=state).as_json()


def measured(*moved_to: int) -> ArmHistory:
    """Six epochs, each second one measured; the floor moves the switch step there, if it is told to."""
    epochs = []
    for epoch in range(6):
        looked = epoch % 2 == 1
        point = epoch // 2
        epochs.append(
            HistoryEntry.parse(
                {
                    "epoch": epoch,
                    "update": update(epoch, spent=100 * (epoch + 1)),
                    "evaluation": evaluation(epoch, gain=0.1 * epoch, ratio=0.97, spent=100 * (epoch + 1))
                    if looked
                    else None,
                    "decision": decision(
                        epoch, ("rejected", "promoted", "lost")[point], gain=0.1, ratio=0.97, previous=None
                    )
                    if looked
                    else None,
                    "steering": steering(moved_to[point]) if looked and point < len(moved_to) else None,
                },
                "here",
            )
        )
    base = EvaluationRecord.parse(evaluation(-1, gain=0.0, ratio=1.0, spent=0), "here")
    return ArmHistory(base=base, epochs=epochs)


def run(floor: float | None, **control: Any) -> StudyRun:
    """A run of six epochs with one control."""
    about = study()
    changes = {"diversity_floor": floor, "policy": {"split": 0.5}}
    config = about.config("hrf", "small", 7, epochs=6).with_changes(changes)
    return StudyRun(
        arm="hrf",
        reward="small",
        seed=7,
        config=config,
        measured_after=(2, 4, 6),
        controls=(Control(arm="hrf-split", config=config.with_changes(control)),),
    )


def column(rows: list[dict[str, Any]], name: str, arm: str = "hrf") -> list[Any]:
    return [row[name] for row in rows if row["arm"] == arm]


def test_a_point_says_from_where_the_weights_were_used_when_it_was_measured():
    """What the floor moves after a measurement holds from the next one on. Kills: off by one point either way."""
    steered = run(0.9)
    rows = rows_of(steered, {"hrf": measured(4, 4, 5), "hrf-split": measured()})
    assert steered.config.switch_step == 3
    assert column(rows, "switch_step") == [3, 3, 4, 4]
    assert column(rows, "switch_step", "hrf-split") == [3, 3, 4, 4], "under a floor the weights themselves say it"


def test_a_control_without_a_floor_is_sampled_as_it_says_whatever_the_run_does():
    rows = rows_of(run(0.9, diversity_floor=None), {"hrf": measured(4, 4, 5), "hrf-split": measured()})
    assert column(rows, "switch_step", "hrf-split") == [3, 3, 3, 3]


def test_a_run_that_its_floor_has_stopped_has_fewer_points():
    stopped = ArmHistory(base=measured().base, epochs=measured(4, 4).epochs[:4])
    rows = rows_of(run(0.9), {"hrf": stopped, "hrf-split": stopped})
    assert column(rows, "point") == column(rows, "point", "hrf-split") == [0, 1, 2]


def test_each_row_is_of_its_point():
    """Kills: the epoch after it, or only its own seconds; another decision than "promoted" counted as one."""
    rows = rows_of(run(None), {"hrf": measured(), "hrf-split": measured()})
    assert column(rows, "epoch") == [-1, 1, 3, 5]
    assert column(rows, "evaluations") == [0, 200, 400, 600]
    assert column(rows, "promoted") == [0, 0, 1, 0]
    seconds = 14.8 + 0.4 + 19.5
    assert column(rows, "wall_seconds") == [float(f"{seconds * epochs:.7g}") for epochs in (0, 2, 4, 6)]


def test_decisions_are_kept_of_a_run_with_a_floor_and_of_no_other(tmp_path):
    keep_decisions(run(None), measured(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    keep_decisions(run(0.9), measured(4, 5), tmp_path)
    kept = json.loads((tmp_path / "hrf--small--7.json").read_text())
    assert [(entry["epoch"], entry["switch_step"]) for entry in kept] == [(1, 4), (3, 5)]
