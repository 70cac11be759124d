"""What steps hand to MLflow and TensorBoard of their run, once they have written their outputs. Needs no torch."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hrf import __version__
from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.records import HistoryEntry, RunSummary
from hrf.report.tracking import TrackedRun, follow, is_wanted
from hrf.report.tracking.event_files import has_writer, write_event_file
from hrf.steps.context import RunContext
from hrf.steps.history import epoch_folder, read_epochs, read_updates
from hrf.steps.numbers import BASE, curves
from hrf.storage.names import BASE_GRID_FILE, BASELINE_FILE, CONFIG_FILE, GRID_FILE, SUMMARY_FILE

_LINEAGE = ("run_id", "experiment", "storage", "preset", "started_from", "noise_tag", "run_seed", "evaluation_digest")


def track(context: RunContext, *, policy: str = "", history: str = "", baseline: str = "", report: str = "") -> None:
    """Tell the MLflow server, if there is one, what it does not know of a run yet.

    The more folders of it a step has, the more is told; the report ends the run.
    """
    if not is_wanted():
        return
    # The step has just verified these folders, or written them.
    epochs = read_updates(Path(policy)) if policy else []
    files: dict[str, Path] = {}
    if history:
        epochs = read_epochs(Path(history))
        # As the names of candidates end.
        files = {f"samples/epoch-{number:04d}.png": grid for number, grid in _grids(epochs, Path(history)).items()}
    base = None
    if baseline:
        folder = Path(baseline)
        base = EvaluationRecord.read(folder / BASELINE_FILE)
        files["samples/base.png"] = folder / BASE_GRID_FILE
    if report:
        files |= {CONFIG_FILE: context.folder / CONFIG_FILE, "report.html": Path(report)}
    follow(
        _tracked(
            context.about,
            parameters=dict(_flat(context.config.to_mapping())),
            tags=_known({**_lineage(context), "hrf.promoted": ", ".join(_promoted(epochs))}),
            points=curves(base, epochs),
            files={name: str(file) for name, file in files.items()},
            ended="FINISHED" if report else "",
        )
    )


def track_failure(*, storage: str, experiments: str, run_id: str, why: str) -> None:
    """Tell the MLflow server that runs ended too early, and why; of runs that it does not know, it learns nothing."""
    for experiment in experiments.split(","):
        about = {"storage": storage, "experiment": experiment, "run_id": run_id}
        if not follow(_tracked(about, tags={"hrf.failure": why}, ended="FAILED")):
            # A server that is away is waited for once.
            break


def write_tensorboard(summary: Path, folder: Path) -> Path | None:
    """Write the event file of a finished run, from its summary, where the extra `tensorboard` is installed.

    Returns:
        The file; None without the extra.
    """
    if not has_writer():
        return None
    record = RunSummary.read(summary / SUMMARY_FILE)
    work = itertools.accumulate(sum(entry.update.seconds.values()) for entry in record.epochs)
    return write_event_file(
        folder,
        curves(record.base, record.epochs),
        {BASE: summary / BASE_GRID_FILE, **_grids(record.epochs, summary)},
        dict(zip((entry.epoch for entry in record.epochs), work, strict=True)),
    )


def _grids(epochs: list[HistoryEntry], folder: Path) -> dict[int, Path]:
    """Epoch -> sample grid, of those that were evaluated; folder of the history or the summary."""
    files = {entry.epoch: epoch_folder(folder, entry.epoch) / GRID_FILE for entry in epochs}
    return {epoch: file for epoch, file in files.items() if file.is_file()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A configuration as dotted fields with their values in words."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tracked(about: Mapping[str, Any], **fields: Any) -> TrackedRun:
    storage, experiment, run_id = about["storage"], about["experiment"], about["run_id"]
    return TrackedRun(records=f"{storage}/{experiment}/runs/{run_id}", experiment=experiment, run_id=run_id, **fields)


def _lineage(context: RunContext) -> dict[str, Any]:
    about = context.about
    return {
        **{f"hrf.{name}": about[name] for name in _LINEAGE},
        "hrf.base_digest": about["policy"]["base"]["digest"],
        "hrf.config_digest": context.config.digest(),
        "hrf.version": __version__,
        # The name that MLflow itself gives it, and shows.
        "mlflow.source.git.commit": os.environ.get("HRF_GIT_SHA"),
    }


def _known(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in tags.items() if value not in (None, "")}


def _promoted(epochs: list[HistoryEntry]) -> Iterator[str]:
    """The candidates of a run that were promoted."""
    for entry in epochs:
        if entry.decision and entry.decision.outcome == "promoted":
            yield entry.decision.candidate_id
