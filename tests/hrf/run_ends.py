"""Records of how runs ended, for tests that are about something else."""

from __future__ import annotations

from typing import Any

from hrf.promotion.records import DecisionRecord, Failure, Reason, RunError, RunStatus


def status_of(run_id: str, state: str = "FAILED", **changes: Any) -> RunStatus:
    """How a run ended; `problem` is that of its one reason."""
    about = {"step": "update", "epoch": 0, "kind": "code", "fix": "", "pod": "", "message": "", "started": 0.0}
    problem = changes.pop("problem", "")
    fields = {
        "run_id": run_id,
        "state": state,
        "outcome": "succeeded" if state == "COMPLETE" else "failed",
        "time": 1.8e9,
        "error": RunError(code=None, message=""),
        "kubeflow_run": "k",
        "reasons": [Reason(problem=problem, **about)] if problem else [],
        "reasons_unread": "",
        "failures": [],
    }
    return RunStatus(**{**fields, **changes})


def failure_of(step: str, epoch: int | None, error_type: str, message: str, **changes: Any) -> Failure:
    """What a failing step wrote down."""
    fields = {"step": step, "epoch": epoch, "error_type": error_type, "message": message}
    return Failure(**{**fields, "exit_code": 5, "traceback": "long", "time": 1.8e9, **changes})


def decision_of(run_id: str, epoch: int, outcome: str) -> DecisionRecord:
    """What became of a candidate."""
    candidate = f"{run_id}/epoch-{epoch:04d}"
    about = {"candidate_id": candidate, "run_id": run_id, "epoch": epoch, "candidate_key": candidate}
    texts = dict.fromkeys(("candidate_digest", "evaluation_digest", "time"), "")
    numbers = dict.fromkeys(("reward_vs_incumbent", "diversity_ratio", "diversity_floor", "confidence"))
    lists = {name: [] for name in ("monitors_tripped", "checks", "reasons")}
    return DecisionRecord(
        **about, **texts, **numbers, **lists, outcome=outcome, incumbent_id=None, attempts=1, sequence=None
    )
