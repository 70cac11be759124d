"""What is kept in object storage of an experiment: one schema for each kind of record.

Below the experiment's name:

    promoted.json                         `Promotion`: the last one, see `hrf.promotion.protocol`
    history/000001.json                   `Promotion`
    decisions/RUN/epoch-0000.json         `DecisionRecord`
    attempts/RUN/epoch-0000/001.json      `Attempt`
    verdicts/000001.json                  `VerdictNumber`
    numbers/RUN/epoch-0000/000000.json    `VerdictNumber`
    runs/RUN/run.json                     `RunStart`, see `hrf.promotion.runs`
    runs/RUN/failures/STEP-epoch-0000.json  `Failure`
    runs/RUN/status.json                  `RunStatus`
    runs/RUN/summary.json                 `RunSummary`

They are read with `hrf.storage.records.read_record`.
"""

from __future__ import annotations

from typing import Any, Literal

from hrf.evaluation.record import Estimate, EvaluationRecord, Interval
from hrf.promotion.floor import SteeringDecision
from hrf.storage.records import Record
from hrf.trainer.record import EpochRecord, MergeRecord

Outcome = Literal["promoted", "rejected", "lost"]
ReasonKind = Literal[
    "memory", "deadline", "image", "deleted", "evicted", "terminated", "account", "driver", "code", "silent", "other"
]


class Check(Record):
    """One condition of the gate."""

    name: str
    """`reward`, `diversity` or `monitors`."""
    passed: bool
    detail: str
    """The rule with its numbers."""


class Verdict(Record):
    """What the gate says of a candidate, and the numbers that it says it on; they are None if it was "lost"."""

    outcome: Outcome
    reward_vs_incumbent: Estimate | None
    """Paired difference over the seeds, or prompts; None, too, where a selection could not compare with it."""
    diversity_ratio: Interval | None
    """Order-2 Vendi score over the base's."""
    diversity_floor: float | None
    """What its lower end must exceed."""
    monitors_tripped: list[str]
    confidence: float | None
    checks: list[Check]
    reasons: list[str]
    """The details of the checks that failed; of all of them where none did."""
    number: int | None = None
    """Of the verdict, on whose fresh seeds all of this was measured; None: on the fixed seeds, as it came no further
    than selection, or in a study, or before verdicts had seeds of their own."""
    level: float | None = None
    """Of each of the verdict's two tests, of reward and of diversity: `confidence` is 1 - 2 level."""
    reward_vs_base: Estimate | None = None
    """On the verdict's seeds."""
    diversity_p_value: float | None = None
    """Of the verdict's test of diversity, beside the interval."""


class _Candidate(Record):
    """What a decision and a promotion say of the candidate that they are about."""

    candidate_id: str
    """`RUN/epoch-0003`."""
    run_id: str
    epoch: int
    candidate_key: str
    """Where its folder is."""
    candidate_digest: str
    """Of its folder's contents."""
    evaluation_digest: str
    """Equal ones say that two evaluations measured the same thing on the same noise."""
    time: str


class DecisionRecord(Verdict, _Candidate):
    """What became of a candidate."""

    incumbent_id: str | None
    """Whom it was judged against; None: the base."""
    attempts: int
    """How often it was judged: each time but the last, another candidate was promoted meanwhile."""
    sequence: int | None
    """Its number among the promotions; None if it was not promoted."""


class Promotion(_Candidate):
    """A promotion; the promoted pointer is the last of them."""

    sequence: int
    """From 1."""
    previous: str | None
    """The candidate that was promoted before; None: nothing was."""
    decision: DecisionRecord
    num_by_verdict: int = 0
    """How many of the promotions up to this one were decided on fresh seeds."""


class VerdictNumber(Record):
    """A number among an experiment's verdicts, and so its seeds: they belong to whoever creates it, for this alone."""

    number: int
    """From 1."""
    candidate_id: str
    candidate_digest: str
    incumbent_id: str | None
    """None: the base."""
    num_spent: int
    """How many of the verdicts before had not promoted, as far as was known."""
    level: float
    """Of `hrf.core.spending.level`."""


class Attempt(Record):
    """A verdict on a candidate against one incumbent: whoever is first to write it binds all others."""

    pointer_etag: str | None
    """The version of the pointer that it is about; None: nothing was promoted yet."""
    record: Promotion
    """What the verdict leads to. If that is no promotion, only its decision counts."""


class RunStart(Record):
    """What was started, from which candidate, and when."""

    run_id: str
    experiment: str
    config_digest: str
    preset: str
    """Empty for a configuration of one's own."""
    started_from: str | None
    """A candidate; None: the base."""
    started_from_sequence: int | None
    incumbent: Promotion | None
    noise_tag: str
    replicas: int = 1
    """How many chains of epochs its candidates are the mean of."""
    code: str
    """Version and commit of what computes: a run is not resumed by another one."""
    created: str
    """In ISO 8601."""


class Failure(Record):
    """How a step failed."""

    IF_DAMAGED = "delete it: nothing but the report of how the step failed hangs on it"

    step: str
    epoch: int | None
    replica: int | None = None
    """None for a step that belongs to none."""
    error_type: str
    message: str
    exit_code: int
    traceback: str
    time: float
    """In seconds since 1970."""


class RunError(Record):
    """What Kubeflow says of a run's end."""

    code: int | None
    message: str


class Reason(Record):
    """Why one step of a run on a cluster failed, see `hrf.steps.workflow`."""

    step: str
    """The task's name, such as `sample`; "" where the run ended before any."""
    epoch: int | None
    """Counted from 0; None for a step that belongs to no epoch, or where nothing says which."""
    replica: int | None = None
    """Likewise."""
    kind: ReasonKind
    problem: str
    """What happened, such as `out of memory at 300Mi`."""
    fix: str
    """What to do about it; "" where that isn't known."""
    pod: str
    """The pod's name; "" where there never was one."""
    message: str
    """In Argo's own words."""
    started: float
    """When the pod began, in seconds since 1970; 0 if it never did."""

    @property
    def where(self) -> str:
        """Such as `sample, epoch 0`."""
        return place_words(self.step or "the run", self.epoch, self.replica)

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.where}: {self.problem}. Fix: {self.fix}" if self.fix else f"{self.where}: {self.problem}"


def place_words(step: str, epoch: int | None, replica: int | None = None) -> str:
    """A step with its epoch and replica, if it has them; the first replica, which may be the only one, is not named."""
    numbers = {"epoch": epoch, "replica": replica or None}
    within = [f"{name} {number}" for name, number in numbers.items() if number is not None]
    return ", ".join([step, *within])


class RunStatus(Record):
    """How a run ended."""

    IF_DAMAGED = "delete it: nothing but the report of how the run ended hangs on it"

    run_id: str
    state: str
    """`COMPLETE` (`SUCCEEDED` on this machine), `FAILED` or `RUNNING`, as Kubeflow tells its exit handler."""
    outcome: Literal["succeeded", "failed", "terminated"]
    """What that means; `terminated` is by somebody."""
    time: float
    """When its exit step ran, in seconds since 1970."""
    error: RunError
    kubeflow_run: str
    reasons: list[Reason]
    """What its Workflow told, the first thing first."""
    reasons_unread: str
    """Why its Workflow could not be read; "" if it was, or there was no need to."""
    failures: list[Failure]
    """What its steps said themselves."""


class HistoryEntry(Record):
    """What an epoch has left; None where it was not evaluated, or nothing holds its run above a floor."""

    epoch: int
    update: EpochRecord
    evaluation: EvaluationRecord | None
    decision: DecisionRecord | None
    steering: SteeringDecision | None
    merge: MergeRecord | None = None
    """What was evaluated, where it is the mean of several replicas."""


class RunSummary(Record):
    """A finished run as a whole."""

    run: dict[str, Any]
    """`run.json` of its folder."""
    config: dict[str, Any]
    base: EvaluationRecord
    epochs: list[HistoryEntry]
    promoted: Promotion | None
    """What the promoted pointer was at its end."""
    versions: dict[str, Any]
    totals: dict[str, Any]

    @property
    def evaluated(self) -> list[tuple[HistoryEntry, EvaluationRecord]]:
        """The epochs that were evaluated, with their evaluations, in order."""
        return [(entry, entry.evaluation) for entry in self.epochs if entry.evaluation is not None]

    @property
    def decided(self) -> list[tuple[HistoryEntry, DecisionRecord]]:
        """The epochs that were put to the gate, with the decisions, in order."""
        return [(entry, entry.decision) for entry in self.epochs if entry.decision is not None]

    @property
    def promoted_epochs(self) -> list[HistoryEntry]:
        """The epochs of this run whose policy was promoted, in order."""
        return [entry for entry, decision in self.decided if decision.outcome == "promoted"]
