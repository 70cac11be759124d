"""What a summary folder holds: the schema of `summary.json` and the questions a report asks of it.

The report, the table at the end of a run and `hrf runs show` all read a run through this module. A folder has

    summary.json                  the run, its configuration, the base's evaluation and one entry per epoch
    base_grid.png                 samples of the base from the first fixed seeds (absent: not shown)
    epochs/0002/grid.png          samples from the same seeds after epoch 2 (absent where it was not evaluated)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hrf.errors import ArtifactError
from hrf.networks.labels import UNRECOGNISED
from hrf.storage.names import BASE_GRID_FILE, EVALUATION_FILE, GRID_FILE, SUMMARY_FILE


def epoch_folder(epoch: int) -> str:
    """Folder of one epoch, relative to the summary folder, such as `epochs/0002`."""
    return f"epochs/{epoch:04d}"


class Record(BaseModel):
    """Base of the records: read only; fields that a later version adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Record):
    """An estimate with its confidence interval, in the unit of the quantity."""

    value: float
    low: float
    high: float
    standard_error: float | None = None


class RewardEstimate(Interval):
    """Mean reward over the fixed seeds."""

    name: str


class Diversity(Record):
    """Diversity of the evaluated samples; the gate looks at `vendi_order2_ratio` (candidate / base) only.

    Of a text-to-image model, both `vendi_order2` are measured among the samples of the same prompt.
    """

    vendi_order2: Interval
    vendi_order2_ratio: Interval
    across_prompts_vendi_order2: float | None = None
    vendi_order1: float | None = None
    mean_pairwise_distance: float | None = None
    features: str = ""


class MeanAndStd(Record):
    """A mean and its standard deviation over splits."""

    mean: float
    std: float


class Fidelity(Record):
    """How far the samples left the base's; None where a number needs a classifier that the run has not."""

    coverage: float | None = None
    density: float | None = None
    classifier_frechet_distance: float | None = None
    classifier_inception_score: MeanAndStd | None = None


class Monitor(Record):
    """One drift monitor: its value, the base's, the change and the largest change allowed.

    A statistic that has no value, such as the hue of grey pictures, is None, and so is a change from or to it.
    """

    value: float | None
    base: float | None
    change: float | None
    limit: float | None = None
    tripped: bool


class Evaluation(Record):
    """`evaluation.json`: the fixed seeds, measured against the base."""

    epoch: int | None = None
    num_samples: int
    eta: float | None = None
    evaluation_seed: int | None = None
    num_evaluations: int | None = None
    reward: RewardEstimate
    reward_vs_base: Interval
    held_out_reward: RewardEstimate | None = None
    held_out_reward_vs_base: Interval | None = None
    diversity: Diversity
    fidelity: Fidelity = Field(default_factory=Fidelity)
    modes: dict[str, int] | None = None
    mode_entropy: float | None = None
    mean_confidence: float | None = None
    monitors: dict[str, Monitor | None] = Field(default_factory=dict)

    @property
    def unrecognised_fraction(self) -> float | None:
        """Share of samples in which the classifier saw none of its modes; None without a mode histogram."""
        if not self.modes or UNRECOGNISED not in self.modes:
            return None
        return self.modes[UNRECOGNISED] / max(1, sum(self.modes.values()))

    @property
    def tripped_monitors(self) -> list[str]:
        """Names of the drift monitors past their limit."""
        return [name for name, monitor in self.monitors.items() if monitor is not None and monitor.tripped]


class OptimizerUpdate(Record):
    """Training health of one optimizer step."""

    update: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    clip_fraction: float | None = None
    approx_kl: float | None = None
    ratio_mean: float | None = None
    ratio_max: float | None = None
    kl_to_reference: float | None = None


class EpochUpdate(Record):
    """`update.json`: what one epoch of training did."""

    window: tuple[int, int] | None = None
    mean_start_step: float | None = None
    num_evaluations: int | None = None
    reward_mean: float | None = None
    reward_std: float | None = None
    seconds: dict[str, float | None] = Field(default_factory=dict)
    updates: list[OptimizerUpdate] = Field(default_factory=list)
    grad_norm_by_step: dict[int, float | None] = Field(default_factory=dict)

    @property
    def total_seconds(self) -> float | None:
        """Seconds of all stages of the epoch; None if none was recorded."""
        known = [part for part in self.seconds.values() if part is not None]
        return sum(known) if known else None


class Check(Record):
    """One condition of the gate."""

    name: str
    passed: bool
    detail: str = ""


class Decision(Record):
    """`decision.json`: what the gate said of one candidate, and every number it was taken on."""

    outcome: str
    candidate_id: str
    incumbent_id: str | None = None
    reward_vs_incumbent: Interval | None = None
    diversity_ratio: Interval | None = None
    diversity_floor: float | None = None
    monitors_tripped: list[str] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)
    attempts: int | None = None
    sequence: int | None = None
    time: str | float | None = None
    confidence: float | None = None
    candidate_digest: str | None = None
    evaluation_digest: str | None = None


class SteeringState(Record):
    """How a run under a diversity floor goes on."""

    switch_step: int
    rate_scale: float


class Steering(Record):
    """`steering.json`: what the rule of a diversity floor said after one evaluation."""

    action: str
    reason: str
    floor: float
    steering: SteeringState


class Epoch(Record):
    """One epoch of a run; what follows an evaluation is None where there was none, or no floor to steer by."""

    epoch: int
    update: EpochUpdate | None = None
    evaluation: Evaluation | None = None
    decision: Decision | None = None
    steering: Steering | None = None


class Run(Record):
    """`run.json`: the identity of a run."""

    run_id: str
    experiment: str = ""
    storage: str = ""
    preset: str = ""
    run_seed: int | None = None
    started_from: str | None = None
    num_epochs: int | None = None


class Summary(Record):
    """A run, read back from its summary folder."""

    folder: Path
    run: Run
    config: dict[str, Any]
    base: Evaluation
    epochs: list[Epoch]
    promoted: dict[str, Any] | None = None
    versions: dict[str, Any] = Field(default_factory=dict)
    totals: dict[str, Any] = Field(default_factory=dict)

    @property
    def evaluated(self) -> list[tuple[Epoch, Evaluation]]:
        """The epochs that were evaluated, with their evaluations, in order."""
        return [(entry, entry.evaluation) for entry in self.epochs if entry.evaluation is not None]

    @property
    def decided(self) -> list[tuple[Epoch, Decision]]:
        """The epochs that were put to the gate, with the decisions, in order."""
        return [(entry, entry.decision) for entry in self.epochs if entry.decision is not None]

    @property
    def steered(self) -> list[tuple[Epoch, Evaluation, Steering]]:
        """The epochs after which the rule of a diversity floor decided, with what it decided on, in order."""
        return [(entry, record, entry.steering) for entry, record in self.evaluated if entry.steering is not None]

    @property
    def promoted_epochs(self) -> list[Epoch]:
        """The epochs of this run whose policy was promoted, in order."""
        return [entry for entry, decision in self.decided if decision.outcome == "promoted"]

    @property
    def shown(self) -> tuple[Epoch, Evaluation] | None:
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
    def num_evaluations(self) -> int | None:
        """Denoiser work of the whole run so far, in forward passes of one sample; None if it was not recorded."""
        counts = [self.num_evaluations_after(entry) for entry in self.epochs]
        return max((count for count in counts if count is not None), default=None)

    def num_evaluations_after(self, entry: Epoch) -> int | None:
        """Denoiser work until the end of one epoch, as its update or else its evaluation recorded it."""
        if entry.update is not None and entry.update.num_evaluations is not None:
            return entry.update.num_evaluations
        return entry.evaluation.num_evaluations if entry.evaluation is not None else None

    @property
    def seconds(self) -> float | None:
        """Seconds spent in sampling, scoring and updating over all epochs; None if no epoch recorded any."""
        parts = [entry.update.total_seconds for entry in self.epochs if entry.update]
        known = [part for part in parts if part is not None]
        return sum(known) if known else None

    def setting(self, path: str) -> Any:
        """Configured value under a dotted path; None where the configuration does not have it."""
        node: Any = self.config
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                return None
            node = node[key]
        return node

    def grid_file(self, entry: Epoch | None) -> Path | None:
        """Picture of samples from the fixed seeds after one epoch (None: of the base), or None if it is absent."""
        path = self.folder / (BASE_GRID_FILE if entry is None else f"{epoch_folder(entry.epoch)}/{GRID_FILE}")
        return path if path.is_file() else None


RecordType = TypeVar("RecordType", bound=Record)


def _read(path: Path, record: type[RecordType], **extra: object) -> RecordType:
    """Read and check one JSON file; raise ArtifactError naming the file and the field."""
    fix = "run the step that writes it again"
    if not path.is_file():
        raise ArtifactError(path, problem="there is no such file", fix=fix)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(path, problem=f"it is not JSON: {error}", fix=fix) from error
    if not isinstance(content, dict):
        raise ArtifactError(path, problem="it is not a JSON object", fix=fix)
    try:
        return record.model_validate({**content, **extra})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(path, problem=f"field {field}: {first['msg']}", fix=fix) from error


def read_summary(folder: Path) -> Summary:
    """Read a summary folder.

    Args:
        folder: Output of the `summarize` step.

    Raises:
        ArtifactError: `summary.json` is absent, not JSON, or lacks a field.
    """
    return _read(folder / SUMMARY_FILE, Summary, folder=folder)


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation folder's `evaluation.json`.

    Args:
        folder: Output of the `evaluate` step.

    Raises:
        ArtifactError: The file is absent, not JSON, or lacks a field.
    """
    return _read(folder / EVALUATION_FILE, Evaluation)
