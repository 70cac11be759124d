"""Finished runs as tables for a terminal, all made from their `summary.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from hrf.errors import ArtifactError
from hrf.promotion.records import DecisionRecord, RunSummary
from hrf.storage.names import SUMMARY_FILE
from hrf_pipelines.cli.progress_view import interval

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from hrf_pipelines.local.run_state import RunFolder, RunState

OUTCOME_COLOURS = {"promoted": "green", "rejected": "yellow", "lost": "yellow"}
STATUS_COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


def simple_table(*headings: str, whole: Collection[str], title: str | None = None) -> Table:
    """A table without frames; of the columns in `whole`, no cell is broken."""
    table = Table(box=box.SIMPLE, collapse_padding=True, pad_edge=False, title=title)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in whole)
    return table


def read_summary(folder: Path) -> RunSummary:
    """Read a summary folder.

    Raises:
        ArtifactError: It isn't one.
    """
    file = folder / SUMMARY_FILE
    if not file.is_file():
        raise ArtifactError(
            file, problem="it is absent", fix="finish the run first: the command that started it resumes it"
        )
    return RunSummary.read(file)


def epochs_table(summary: RunSummary) -> Table:
    """One line per evaluated epoch: reward and diversity with their intervals, and what the gate decided."""
    reward = summary.base.reward
    title = f"{reward.name}, {summary.config['evaluation']['confidence']:.0%} intervals"
    numbers = ("epoch", "reward", "change from base", "diversity / base's")
    weighed = ["strength"] if any(record.front for _, record in summary.evaluated) else []
    table = simple_table(*numbers, *weighed, "decision", whole=(*numbers, *weighed), title=title)
    table.add_row("base", f"{reward.value:.3f}", "", "1", *([""] if weighed else []), "")
    for entry, evaluation in summary.evaluated:
        table.add_row(
            str(entry.epoch),
            f"{evaluation.reward.value:.3f}",
            interval(evaluation.reward_vs_base.as_json()),
            interval(evaluation.diversity.vendi_order2_ratio.as_json(), 2),
            *([f"{evaluation.strength:.3g}"] if weighed else []),
            _decision(entry.decision) if entry.decision else "-",
        )
    return table


def runs_table(folders: list[tuple[RunFolder, RunState, str]]) -> Table:
    """One line per run, newest last."""
    table = simple_table("run", "what", "experiment", "epochs", "status", whole=("run", "status"))
    for _, state, status in folders:
        table.add_row(
            state.run_id,
            escape(state.title),
            escape(state.experiment),
            str(state.epochs),
            f"[{STATUS_COLOURS[status]}]{status}[/]",
        )
    return table


def _decision(decision: DecisionRecord) -> str:
    outcome = decision.outcome
    text = f"[{OUTCOME_COLOURS.get(outcome, 'white')}]{outcome}[/]"
    failed = [check.name for check in decision.checks if not check.passed]
    # What is decided on seeds of its own may differ from what the row shows.
    text += f" by verdict {decision.number}" if failed and decision.number else ""
    return f"{text}: {escape(', '.join(failed))}" if failed else text
