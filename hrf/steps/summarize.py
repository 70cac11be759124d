"""Summarize: the whole run as one JSON file and one page. Needs no torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hrf.distributed.progress import emit
from hrf.promotion.protocol import read_pointer
from hrf.promotion.records import RunSummary
from hrf.promotion.runs import TENSORBOARD, RunRecords
from hrf.report import render_run
from hrf.steps.context import RunContext, step
from hrf.steps.history import read_epochs
from hrf.steps.tracking import track, write_tensorboard
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import BASE_GRID_FILE, CONFIG_FILE, SUMMARY_FILE
from hrf.storage.objects import Storage


@step("summarize")
def summarize(*, run: str, baseline: str, history: str, report: str, summary: str) -> dict[str, Any]:
    """Gather a run's records, render its report, and store both beside the run.

    Args:
        run: Folder of the run.
        baseline: Folder of the baseline.
        history: Folder of the records of all epochs.
        report: Output file: the report, one self-contained page.
        summary: Output folder: `summary.json` and the sample grids.

    Returns:
        The run's closing numbers: stable names, one column in Kubeflow's comparison.
    """
    context = RunContext.read(run)
    baseline_folder, history_folder = read_folder(baseline), read_folder(history)
    store = Storage.open(context.about["storage"])
    experiment, run_id = context.about["experiment"], context.about["run_id"]
    epochs = read_epochs(history_folder)
    pointer = read_pointer(store, experiment)
    closing = RunSummary(
        run=context.about,
        config=context.config.to_mapping(),
        base=json.loads((baseline_folder / "baseline.json").read_text(encoding="utf-8")),
        epochs=epochs,
        promoted=pointer.as_json() if pointer else None,
        versions=context.about["versions"],
        totals=_totals(epochs),
    )
    record = closing.as_json()
    with writing_folder(summary, producer=context.producer("summarize")) as folder:
        (folder / SUMMARY_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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
    return closing_metrics(record)


def closing_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """A run in a handful of flat numbers."""
    last = next(epoch["evaluation"] for epoch in reversed(record["epochs"]) if epoch["evaluation"])
    decisions = [epoch["decision"] for epoch in record["epochs"] if epoch["decision"]]
    return {
        "reward": last["reward"]["value"],
        "reward_vs_base": last["reward_vs_base"]["value"],
        "reward_vs_base_low": last["reward_vs_base"]["low"],
        "vendi_order2_ratio": last["diversity"]["vendi_order2_ratio"]["value"],
        "vendi_order2_ratio_low": last["diversity"]["vendi_order2_ratio"]["low"],
        "coverage": last["fidelity"]["coverage"],
        "num_evaluations": last["num_evaluations"],
        "num_epochs": len(record["epochs"]),
        "num_promotions": sum(decision["outcome"] == "promoted" for decision in decisions),
    }


def _totals(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    updates = [epoch["update"] for epoch in epochs]
    return {
        "num_evaluations": updates[-1]["num_evaluations"],
        "num_updates": sum(len(update["updates"]) for update in updates),
        "seconds": sum(sum(update["seconds"].values()) for update in updates),
    }
