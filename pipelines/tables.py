"""Finished runs as tables for a terminal, all made from their `summary.json`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from hrf.errors import ArtifactError
from pipelines.progress_view import interval

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.run_state import RunFolder, RunState

OUTCOME_COLOURS = {"promoted": "green", "rejected": "yellow", "lost": "yellow"}
STATUS_COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read a summary folder.

    Raises:
        ArtifactError: It isn't one.
    """
    file = folder / "summary.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            file, problem=f"can't be read ({error})", fix="finish the run first: the command that started it resumes it"
        ) from error
    return dict(content)


def epochs_table(summary: dict[str, Any]) -> Table:
    """One line per epoch: window, reward and diversity with their intervals, and what the gate decided."""
    evaluated = [entry["evaluation"] for entry in summary["epochs"] if entry["evaluation"]]
    name = evaluated[0]["reward"]["name"] if evaluated else "reward"
    table = Table("epoch", "window", name, "against the base", "diversity (of the base's)", "decision")
    if summary.get("base"):
        table.add_row("base", "", interval(summary["base"]["reward"], 4), "", "1", "")
    for entry in summary["epochs"]:
        evaluation, decision, window = entry["evaluation"], entry["decision"], entry["update"]["window"]
        table.add_row(
            str(entry["epoch"]),
            f"{window[0]}-{window[1] - 1}" if window else "noise",
            interval(evaluation["reward"], 4) if evaluation else "-",
            interval(evaluation["reward_vs_base"], 4) if evaluation else "-",
            interval(evaluation["diversity"]["vendi_order2_ratio"]) if evaluation else "-",
            _decision(decision) if decision else "-",
        )
    return table


def runs_table(folders: list[tuple[RunFolder, RunState, str]]) -> Table:
    """One line per run, newest last."""
    table = Table("run", "what", "experiment", "epochs", "started", "status", "attempts")
    for _, state, status in folders:
        table.add_row(
            state.run_id,
            escape(state.title),
            escape(state.experiment),
            str(state.epochs),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(state.created)),
            f"[{STATUS_COLOURS[status]}]{status}[/]",
            str(state.attempts),
        )
    return table


def _decision(decision: dict[str, Any]) -> str:
    outcome = decision["outcome"]
    text = f"[{OUTCOME_COLOURS.get(outcome, 'white')}]{outcome}[/]"
    failed = [check["name"] for check in decision.get("checks", []) if not check["passed"]]
    return f"{text}: {escape(', '.join(failed))}" if failed else text
