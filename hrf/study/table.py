"""A study's tidy table: one row per run and point, the base's measurement at point 0. CSV and parquet hold the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hrf.config import Config
from hrf.errors import ArtifactError
from hrf.evaluation.record import EvaluationRecord
from hrf.storage.folders import writing_file
from hrf.trainer.record import EpochRecord

TABLE_CSV, TABLE_PARQUET = "table.csv", "table.parquet"
KEY = ("arm", "reward_name", "seed")
"""What names a run."""
DIGITS = 7
"""Of the numbers that are measured: far below their noise, and a table of hundreds of runs stays small."""
MODE = "mode_"
"""Before the label of a class, where the column counts its samples."""
COLUMNS: Mapping[str, str] = {
    "arm": "str",
    "reward_name": "str",
    "seed": "int64",
    "point": "int64",
    "epoch": "int64",
    "evaluations": "int64",
    "wall_seconds": "float64",
    "reward": "float64",
    "reward_vs_base": "float64",
    "reward_vs_base_low": "float64",
    "reward_vs_base_high": "float64",
    "vendi_order2": "float64",
    "vendi_order2_ratio": "float64",
    "vendi_order2_ratio_low": "float64",
    "vendi_order2_ratio_high": "float64",
    "vendi_order1": "float64",
    "mean_pairwise_distance": "float64",
    "coverage": "float64",
    "density": "float64",
    "mode_entropy": "float64",
    "unrecognised_fraction": "float64",
    "dark_pixel_fraction": "float64",
    "edge_density": "float64",
    "colour_entropy": "float64",
    "monitors_tripped": "str",
    "promoted": "int64",
    "switch_step": "int64",
    "strength": "float64",
    "window_start": "int64",
    "window_stop": "int64",
    "learning_rate": "float64",
    "config_digest": "str",
}
"""Columns and their types; the counts of the classifier's classes follow, as int64."""
_CAME_LATER: Mapping[str, Any] = {"strength": 1.0}
"""What tables from before a column say by not having it."""


def row(
    evaluation: EvaluationRecord,
    *,
    arm: str,
    reward: str,
    config: Config,
    point: int,
    switch_step: int,
    wall_seconds: float = 0.0,
    promoted: bool = False,
    update: EpochRecord | None = None,
) -> dict[str, Any]:
    """One row of the table: what was measured at a point of a run, which at point 0 is the base, without an update."""
    diversity, gain, ratio = evaluation.diversity, evaluation.reward_vs_base, evaluation.diversity.vendi_order2_ratio
    window = (update and update.window) or (-1, -1)
    readings = {name: monitor.value for name, monitor in evaluation.monitors.items()}
    values = {
        "arm": arm,
        "reward_name": reward,
        "seed": config.run.seed,
        "point": point,
        "epoch": evaluation.epoch,
        "evaluations": evaluation.num_evaluations,
        "wall_seconds": wall_seconds,
        "reward": evaluation.reward.value,
        "reward_vs_base": gain.value,
        "reward_vs_base_low": gain.low,
        "reward_vs_base_high": gain.high,
        "vendi_order2": diversity.vendi_order2.value,
        "vendi_order2_ratio": ratio.value,
        "vendi_order2_ratio_low": ratio.low,
        "vendi_order2_ratio_high": ratio.high,
        "vendi_order1": diversity.vendi_order1,
        "mean_pairwise_distance": diversity.mean_pairwise_distance,
        "coverage": evaluation.fidelity.coverage,
        "density": evaluation.fidelity.density,
        "mode_entropy": evaluation.mode_entropy,
        "unrecognised_fraction": readings.get("unrecognised_fraction"),
        **{name: readings[name] for name in ("dark_pixel_fraction", "edge_density", "colour_entropy")},
        "monitors_tripped": "+".join(evaluation.tripped_monitors),
        "promoted": int(promoted),
        "switch_step": switch_step,
        "strength": evaluation.strength,
        "window_start": window[0],
        "window_stop": window[1],
        "learning_rate": update.updates[-1].learning_rate if update else 0.0,
        "config_digest": short_digest(config),
        **{f"{MODE}{label}": count for label, count in (evaluation.modes or {}).items()},
    }
    return {name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in values.items()}


def short_digest(config: Config) -> str:
    """Which configuration a row is of, its defaults included: rows of another are not those of this study."""
    return config.with_changes({"description": ""}).digest()[:12]


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the columns and types of `COLUMNS`."""
    frame = pd.DataFrame(list(rows))
    counts = [name for name in frame.columns if name.startswith(MODE) and name not in COLUMNS]
    frame = frame.reindex(columns=[*COLUMNS, *counts])
    return frame.astype({**COLUMNS, **dict.fromkeys(counts, "int64")})


def read_table(folder: Path) -> pd.DataFrame:
    """A study folder's table; empty where there is none yet.

    Raises:
        ArtifactError: It is no such table.
    """
    path = folder / TABLE_CSV
    return read_table_file(path) if path.is_file() else frame_of([])


def read_table_file(path: Path) -> pd.DataFrame:
    """A study's table from a CSV file.

    Raises:
        ArtifactError: It is no such table.
    """
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=["nan"])
        frame = frame.assign(**{name: value for name, value in _CAME_LATER.items() if name not in frame.columns})
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise ValueError(f"column {missing[0]} is missing")
        return frame_of(frame.to_dict("records"))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            path, problem=f"not a study's table: {error}", producer="hrf study", fix="restore it, or move it away"
        ) from error


def write_table(frame: pd.DataFrame, folder: Path) -> None:
    """Write the table as CSV and as parquet; each is whole at any time."""
    with writing_file(folder / TABLE_CSV) as file:
        frame.to_csv(file, index=False, na_rep="nan")
    with writing_file(folder / TABLE_PARQUET) as file:
        frame.to_parquet(file, index=False)
