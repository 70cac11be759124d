"""A bench: one place to measure policies of a run on its fixed seeds, at whatever strength."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from hrf.config import Config
from hrf.evaluation.measure import evaluation_record
from hrf.evaluation.measured import Measured
from hrf.evaluation.record import EvaluationRecord
from hrf.evaluation.samples import EvaluationStarts, measure_policy
from hrf.policies.folders import load_policy
from hrf.policies.prompts import PromptTable
from hrf.policies.strength import fold_strength
from hrf.trainer.rollout import OnAdvance


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the measurements of several strengths share: the base's, and the states that a split policy starts from."""

    config: Config
    base: Path
    """Folder of the base model."""
    measured_base: Measured
    starts: EvaluationStarts
    classifier_folder: Callable[[str], Path | None]
    """The run's classifier for a purpose (`reward`, `evaluation`, `held_out`), if it has one."""
    prompts_folder: Path | None
    """Of a text-to-image model."""

    @property
    def num_evaluations(self) -> int:
        """Denoiser evaluations of one measurement."""
        return len(self.starts.states) * (self.config.evaluation_steps - self.starts.step) * self.config.forwards

    def measure(
        self, policy: Path, *, strength: float, epoch: int, num_evaluations: int, on_advance: OnAdvance | None
    ) -> tuple[EvaluationRecord, Image]:
        """Measure a policy at a strength: its record, and a grid of the first pictures.

        Args:
            policy: A policy folder; its averaged weights are measured where it has them.
            strength: In (0, 1]. The weights measured are those that `fold_strength` would store.
            epoch: Epoch that made it.
            num_evaluations: Denoiser evaluations spent on it so far.
            on_advance: Told of each call of the denoiser.
        """
        with tempfile.TemporaryDirectory() as scratch:
            fold_strength(policy, self.base, Path(scratch), strength)
            loaded = load_policy(self.config, self.base, Path(scratch), prompts=self.prompts_folder)
            measured, pictures = measure_policy(
                loaded,
                self.starts,
                self.config,
                classifier_folder=self.classifier_folder,
                prompts=PromptTable.load(self.prompts_folder) if self.prompts_folder else None,
                on_advance=on_advance,
            )
        record = evaluation_record(
            measured,
            self.measured_base,
            settings=self.config.evaluation,
            limits=self.config.gate.monitors,
            epoch=epoch,
            num_evaluations=num_evaluations,
            strength=strength,
        )
        return record, pictures
