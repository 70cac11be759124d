"""Summarize: the whole run as one JSON file and one page. Needs no torch."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hrf.distributed.progress import emit
from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.protocol import read_pointer
from hrf.promotion.records import HistoryEntry, RunSummary
from hrf.promotion.runs import TENSORBOARD, RunRecords
from hrf.report import render_run
from hrf.steps.context import RunContext, step
from hrf.steps.history import read_epochs
from hrf.steps.numbers import evaluation_metrics
from hrf.steps.tracking import track, write_tensorboard
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import BASE_GRID_FILE, BASELINE_FILE, CONFIG_FILE, SUMMARY_FILE
from hrf.storage.objects import Storage

CLOSING = (
    "reward",
    "reward_vs_base",
    "reward_vs_base_low",
    "vendi_order2_ratio",
    "vendi_order2_ratio_low",
    "coverage",
    "num_evaluations",
)
"""What of the last evaluation a run ends in."""


@step("summarize")
def summarize(*, run: str, baseline: str, history: str, report: str, summary: str) -> dict[str, Any]:
    """Gather a run's records, render its report, and store both beside the run.

    Returns:
        The run's closing numbers: stable names, one column in Kubeflow's comparison.
    """
    context = RunContext.read(run)
    baseline_folder, history_folder = read_folder(baseline), read_folder(history)
    store = Storage.open(context.about["storage"])
    experiment, run_id = context.about["experiment"], context.about["run_id"]
    epochs = read_epochs(history_folder)
    closing = RunSummary(
        run=context.about,
        config=context.config.to_mapping(),
        base=EvaluationRecord.read(baseline_folder / BASELINE_FILE),
        epochs=epochs,
        promoted=read_pointer(store, experiment),
        versions=context.about["versions"],
        totals=_totals(epochs),
    )
    with writing_folder(summary, producer=context.producer("summarize")) as folder:
        closing.write(folder / SUMMARY_FILE, indent=1)
        shutil.copyfile(baseline_folder / BASE_GRID_FILE, folder / BASE_GRID_FILE)
        for source in sorted((history_folder / "epochs").glob("*/grid.png")):
            target = folder / source.relative_to(history_folder)
            target.parent.mkdir(parents=True)
            shutil.copyfile(source, target)
    page = render_run(Path(summary))
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    Path(report).write_text(page, encoding="utf-8")
    records = RunRecords(storage=store, experiment=experiment, run_id=run_id)
    store.upload_file(Path(report), f"{records.prefix}/report.html")
    store.upload_file(context.folder / CONFIG_FILE, f"{records.prefix}/{CONFIG_FILE}")
    with tempfile.TemporaryDirectory() as scratch:
        if events := write_tensorboard(Path(summary), Path(scratch)):
            store.upload_file(events, f"{records.prefix}/{TENSORBOARD}/{events.name}")
    last_grid = max((history_folder / "epochs").glob("*/grid.png"))
    records.add_pictures(base=baseline_folder / BASE_GRID_FILE, last=last_grid)
    # The summary comes last: where it is, the run is complete.
    records.write_summary(closing)
    emit("reported", report=report, summary=summary)
    track(context, history=history, baseline=baseline, report=report)
    return closing_metrics(closing)


def closing_metrics(summary: RunSummary) -> dict[str, float]:
    """A run in a handful of flat numbers."""
    last = evaluation_metrics(summary.evaluated[-1][1])
    return {
        **{name: last[name] for name in CLOSING},
        "num_epochs": len(summary.epochs),
        "num_promotions": len(summary.promoted_epochs),
    }


def _totals(epochs: list[HistoryEntry]) -> dict[str, Any]:
    updates = [entry.update for entry in epochs]
    return {
        "num_evaluations": updates[-1].num_evaluations,
        "num_updates": sum(len(part.updates) for update in updates for part in update.parts),
        "seconds": sum(sum(update.seconds.values()) for update in updates),
    }
