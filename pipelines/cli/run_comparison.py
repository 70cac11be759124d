"""Finished runs side by side, by the numbers that each ended in, and what keeps them from being compared."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from hrf.errors import ConfigError
from hrf.steps.summarize import closing_metrics
from hrf.study.definition import measured_otherwise
from hrf_pipelines.cli.tables import simple_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hrf.promotion.records import RunSummary

FEWEST, MOST = 2, 10
#: What the reward itself decides; all but the counts hang on what is measured, and how.
REWARD_METRICS = frozenset({"reward", "reward_vs_base", "reward_vs_base_low"})
COUNTS = frozenset({"num_evaluations", "num_epochs", "num_promotions"})


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run of a comparison."""

    name: str
    metrics: dict[str, float]
    """Its closing metrics."""
    reasons: tuple[str, ...]
    """Why it can't be compared with the first run; empty if it can."""
    incomparable: frozenset[str]
    """The metrics that this is about."""


def compare(summaries: Mapping[str, RunSummary]) -> list[Compared]:
    """Put runs beside the first one."""
    if not FEWEST <= len(summaries) <= MOST:
        raise ConfigError(
            "runs", expected=f"{FEWEST} to {MOST} different runs", got=len(summaries), fix="name that many"
        )
    first = next(iter(summaries.values()))
    compared = []
    for name, summary in summaries.items():
        metrics = closing_metrics(summary)
        reasons, incomparable = [], set[str]()
        for reason, spoils_all in _differences(first, summary):
            reasons.append(reason)
            incomparable |= set(metrics) - COUNTS if spoils_all else REWARD_METRICS
        compared.append(
            Compared(name=name, metrics=metrics, reasons=tuple(reasons), incomparable=frozenset(incomparable))
        )
    return compared


def as_table(runs: Sequence[Compared]) -> Table:
    """Metrics as lines and runs as columns, each with the difference to the first."""
    table = simple_table("", whole=("",))
    for run in runs:
        table.add_column(escape(run.name), justify="right", overflow="fold")
    first = runs[0]
    for metric in first.metrics:
        cells = [_number(first.metrics[metric])]
        for run in runs[1:]:
            cells.append(f"{_number(run.metrics[metric])} {_change(metric, first, run)}")
        table.add_row(metric, *cells)
    return table


def notes(runs: Sequence[Compared]) -> list[str]:
    """What stands between the runs and a comparison, in words."""
    return [f"{run.name}: {reason}" for run in runs for reason in run.reasons]


def as_plain(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """The same as plain data."""
    return [
        {
            "run": run.name,
            "metrics": run.metrics,
            "difference": {metric: difference(metric, runs[0], run) for metric in run.metrics},
            "not_comparable": sorted(run.incomparable),
            "reasons": list(run.reasons),
        }
        for run in runs
    ]


def as_csv(runs: Sequence[Compared]) -> str:
    """The same for a spreadsheet: one line per metric, one column per run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["metric", *(run.name for run in runs)])
    for metric in runs[0].metrics:
        writer.writerow([metric, *(run.metrics[metric] for run in runs)])
    return stream.getvalue()


def difference(metric: str, first: Compared, run: Compared) -> float | None:
    """A run's metric less the first one's; None where it would mean nothing."""
    return None if metric in run.incomparable else float(run.metrics[metric] - first.metrics[metric])


def _differences(first: RunSummary, other: RunSummary) -> list[tuple[str, bool]]:
    """How two runs were measured differently: in words, and whether that is about more than the reward."""
    found = []
    for section, fields in measured_otherwise(first.config, other.config).items():
        ours, theirs = first.config.get(section) or {}, other.config.get(section) or {}
        shown = ", ".join(f"{section}.{name} {theirs.get(name)} (not {ours.get(name)})" for name in fields)
        found.append((f"measured with another {section}: {shown}", section != "reward"))
    rewards = [summary.base.reward.value for summary in (first, other)]
    # Two kinds of hardware agree this far.
    if not found and not math.isclose(*rewards, rel_tol=1e-4):
        found.append((f"its base has another reward, {rewards[1]:.4f} (not {rewards[0]:.4f}): another model", True))
    return found


def _change(metric: str, first: Compared, run: Compared) -> str:
    change = difference(metric, first, run)
    return "[yellow](not comparable)[/]" if change is None else f"[dim]({_number(change, sign=True)})[/]"


def _number(value: float, *, sign: bool = False) -> str:
    if (float(value).is_integer() and abs(value) >= 1) or value == 0:
        return f"{int(value):+,}" if sign else f"{int(value):,}"
    return f"{value:+.4f}" if sign else f"{value:.4f}"
