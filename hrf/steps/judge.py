"""Judge: evaluate a candidate and put it before the gate, in one step of a pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hrf.report import render_evaluation
from hrf.steps.evaluate import evaluate
from hrf.steps.promote import promote


def judge(
    *,
    run: str,
    base: str,
    policy: str,
    baseline: str,
    history: str | None,
    epoch: int,
    new_history: str,
    page: str,
    fresh_seeds: bool,
) -> dict[str, Any]:
    """Evaluate and promote.

    Both are steps of their own, which report and fail under their own names. They share a pod, since what it takes to
    start one is longer than most promotions.

    Returns:
        The evaluation and the decision in flat values.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given: dict[str, Any] = {"run": run, "base": base, "policy": policy, "baseline": baseline, "epoch": epoch}
        evaluation = str(Path(scratch) / "evaluation")
        measured = evaluate(**given, evaluation=evaluation)
        decided = promote(
            **given, evaluation=evaluation, history=history, new_history=new_history, fresh_seeds=fresh_seeds
        )
        Path(page).parent.mkdir(parents=True, exist_ok=True)
        Path(page).write_text(render_evaluation(Path(evaluation)), encoding="utf-8")
    return {**measured, **decided}
