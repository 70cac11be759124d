"""Where a model comes from: the chain of promotions back to the base, with the run and configuration of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrf.promotion.records import RunSummary
from hrf_pipelines.local.object_storage import has_embedded_data, is_configured, object_storage


def trace(summary: RunSummary, work_dir: Path, bucket: str) -> list[dict[str, Any]]:
    """The candidates that a run's model descends from, newest first, ending with the base.

    Returns:
        One record per candidate: its run, epoch, configuration and what that run started from; the last is the base.
    """
    run, config = summary.run, summary.config
    base = {"candidate": "base", "model": config["model"]["source"], "revision": config["model"]["revision"]}
    own = _own_promotions(summary)
    records = {record["candidate"]: record for record in own}
    if run["started_from"] and (is_configured(bucket) or has_embedded_data(work_dir)):
        records = {**_promotions(run["experiment"], work_dir, bucket), **records}
    chain = own[-1:] or [{"candidate": None, "run": run["run_id"], "epoch": None, "started_from": run["started_from"]}]
    while (parent := chain[-1]["started_from"]) is not None:
        chain.append(records.get(parent) or {"candidate": parent, "started_from": None, "missing": True})
    return [*chain, base]


def lineage_lines(lineage: list[dict[str, Any]]) -> list[str]:
    """The chain in words, one line per link."""
    lines = []
    for number, record in enumerate(lineage):
        arrow = "lineage     " if number == 0 else "  came from "
        if record["candidate"] == "base":
            revision = f"@{record['revision']}" if record["revision"] else ""
            lines.append(f"{arrow}base model {record['model']}{revision}")
        elif record.get("missing"):
            lines.append(f"{arrow}{record['candidate']} (its record is gone from the storage)")
        elif record["candidate"] is None:
            lines.append(f"{arrow}run {record['run']}, which promoted nothing")
        else:
            lines.append(
                f"{arrow}{record['candidate']}: run {record['run']}, epoch {record['epoch']}, "
                f"configuration {record['configuration']}"
                + (f", the mean of {record['replicas']} replicas" if record["replicas"] > 1 else "")
            )
    return lines


def _own_promotions(summary: RunSummary) -> list[dict[str, Any]]:
    run = summary.run
    replicas = summary.config.get("run", {}).get("replicas", 1)
    return [
        _record(decision.candidate_id, run["run_id"], entry.epoch, {**run, "replicas": replicas})
        for entry, decision in summary.decided
        if decision.outcome == "promoted"
    ]


def _promotions(experiment: str, work_dir: Path, bucket: str) -> dict[str, dict[str, Any]]:
    """All promotions of an experiment, by candidate. What each run started from stands in its run.json."""
    from hrf.promotion.protocol import history
    from hrf.promotion.runs import RunRecords

    with object_storage(work_dir, bucket) as location:
        storage = location.open()
        records = {}
        for promotion in history(storage, experiment):
            # A promotion of a run whose start is not on record: nobody knows what it came from.
            run = RunRecords(storage=storage, experiment=experiment, run_id=promotion.run_id).started()
            if run:
                candidate = promotion.candidate_id
                records[candidate] = _record(candidate, promotion.run_id, promotion.epoch, run.as_json())
        return records


def _record(candidate: str, run_id: str, epoch: int, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "candidate": candidate,
        "run": run_id,
        "epoch": epoch,
        "configuration": f"{run['experiment']}/runs/{run_id}/config.yaml",
        "started_from": run["started_from"],
        "replicas": run["replicas"],
    }
