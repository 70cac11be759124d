"""A run as a report looks at it: its summary folder, and the questions that a report asks of it.

A folder has

    summary.json                  `hrf.promotion.records.RunSummary`
    base_grid.png                 samples of the base from the first fixed seeds (absent: not shown)
    epochs/0002/grid.png          samples from the same seeds after epoch 2 (absent where it was not evaluated)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.floor import SteeringDecision
from hrf.promotion.records import HistoryEntry, RunSummary
from hrf.storage.names import BASE_GRID_FILE, GRID_FILE, SUMMARY_FILE


class ReportedRun(RunSummary):
    """A finished run, with its pictures."""

    folder: Path

    @classmethod
    def load(cls, folder: Path) -> ReportedRun:
        """Read a summary folder, the output of `summarize`.

        Raises:
            ArtifactError: `summary.json` is absent, or is none.
        """
        return cls(**dict(RunSummary.read(folder / SUMMARY_FILE)), folder=folder)

    @property
    def steered(self) -> list[tuple[HistoryEntry, EvaluationRecord, SteeringDecision]]:
        """The epochs after which the rule of a diversity floor decided, with what it decided on, in order."""
        return [(entry, record, entry.steering) for entry, record in self.evaluated if entry.steering is not None]

    @property
    def shown(self) -> tuple[HistoryEntry, EvaluationRecord] | None:
        """The epoch a report speaks of: the last promoted one, else the last evaluated one; None if there is none."""
        promoted = [pair for pair in self.evaluated if pair[0] in self.promoted_epochs]
        candidates = promoted or self.evaluated
        return candidates[-1] if candidates else None

    @property
    def diversity_floor(self) -> float | None:
        """Smallest diversity ratio the gate lets pass: as the last decision recorded it, else as configured."""
        for _, decision in reversed(self.decided):
            if decision.diversity_floor is not None:
                return decision.diversity_floor
        floor, margin = self.setting("diversity_floor"), self.setting("gate.diversity_margin")
        return floor if floor is not None else None if margin is None else 1.0 - float(margin)

    @property
    def num_evaluations(self) -> int:
        """Denoiser work of the whole run, in forward passes of one sample."""
        return max((entry.update.num_evaluations for entry in self.epochs), default=0)

    @property
    def seconds(self) -> float:
        """Seconds spent in sampling, scoring and updating over all epochs."""
        return sum(sum(entry.update.seconds.values()) for entry in self.epochs)

    def setting(self, path: str) -> Any:
        """Configured value under a dotted path; None where the configuration does not have it."""
        node: Any = self.config
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                return None
            node = node[key]
        return node

    def grid_file(self, entry: HistoryEntry | None) -> Path | None:
        """Picture of samples from the fixed seeds after one epoch (None: of the base), or None if it is absent."""
        path = self.folder / (BASE_GRID_FILE if entry is None else f"epochs/{entry.epoch:04d}/{GRID_FILE}")
        return path if path.is_file() else None
