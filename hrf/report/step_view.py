"""A small page about one evaluation, for the view of a single step in the Kubeflow UI."""

from __future__ import annotations

from pathlib import Path

from hrf.evaluation.record import EvaluationRecord
from hrf.report import curves
from hrf.report.formatting import count, fraction, interval, number, with_unit, words
from hrf.report.page import Cell, Table, render
from hrf.report.pictures import embed
from hrf.rewards import reward_unit
from hrf.storage.folders import MANIFEST, read_manifest
from hrf.storage.names import EVALUATION_FILE, GRID_FILE

FRAGMENT_BYTES = 180_000


def render_evaluation(evaluation_folder: Path) -> str:
    """A page under 300 kB with the samples and key numbers of one evaluation, for a step's view in the Kubeflow UI.

    Args:
        evaluation_folder: Output of the `evaluate` step: `evaluation.json` and, if it is there, `grid.png`; or nothing,
            if the run had stopped.

    Raises:
        ArtifactError: A file of the folder is absent, unreadable or lacks a field.
    """
    folder = Path(evaluation_folder)
    if (folder / MANIFEST).is_file() and read_manifest(folder).stopped:
        return render("stopped.html", title="Not evaluated")
    record = EvaluationRecord.read(folder / EVALUATION_FILE)
    path = folder / GRID_FILE
    title = "Evaluation of the base" if record.epoch < 0 else f"Evaluation after epoch {record.epoch}"
    picture = embed(
        path if path.is_file() else None,
        alt=f"{title}: samples from the first fixed seeds",
        caption="Samples from the first fixed seeds",
        at_most_bytes=FRAGMENT_BYTES,
    )
    unit = reward_unit(record.reward.name)
    return render(
        "evaluation.html",
        title=title,
        picture=picture,
        numbers=Table(caption="Key numbers", header=("Quantity", "Value"), rows=_key_numbers(record, unit)),
        modes=curves.modes([(title, 0, record)]),
    )


def _key_numbers(record: EvaluationRecord, unit: str) -> list[tuple[str, str | Cell]]:
    tripped = record.tripped_monitors
    return [
        (f"Reward ({words(record.reward.name)})", with_unit(interval(record.reward), unit)),
        ("Gain over the base", with_unit(interval(record.reward_vs_base, sign=True), unit)),
        ("Diversity ratio to the base", interval(record.diversity.vendi_order2_ratio, 2)),
        ("Mode entropy, nats", number(record.mode_entropy, 2)),
        ("Unrecognised", fraction(record.unrecognised_fraction)),
        ("Monitors past their limit", Cell(", ".join(map(words, tripped)), "bad") if tripped else "none"),
        ("Fixed seeds", str(record.num_samples)),
        ("Denoiser evaluations so far", count(record.num_evaluations)),
    ]
