"""What is kept in object storage of an experiment: one schema for each kind of record.

Below the experiment's name:

    promoted.json                         `Promotion`: the last one, see `hrf.promotion.protocol`
    history/000001.json                   `Promotion`
    decisions/RUN/epoch-0000.json         `DecisionRecord`
    attempts/RUN/epoch-0000/001.json      `Attempt`
    runs/RUN/run.json                     `RunStart`, see `hrf.promotion.runs`
    runs/RUN/failures/STEP-epoch-0000.json  `Failure`
    runs/RUN/status.json                  `RunStatus`
    runs/RUN/summary.json                 `RunSummary`

Each is sealed (`hrf.storage.folders.seal`), so a changed byte is noticed, and held to its schema when it is read, so
one of another version of hrf is refused by name, and not where a field of it turns out to be missing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hrf.errors import ArtifactError
from hrf.storage.objects import RESTORE, Storage

Outcome = Literal["promoted", "rejected", "lost"]
ReasonKind = Literal[
    "memory", "deadline", "image", "deleted", "evicted", "terminated", "account", "driver", "code", "silent", "other"
]


class StoredRecord(BaseModel):
    """Base of all kinds: frozen, strict about types, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    IF_DAMAGED: ClassVar[str] = RESTORE
    """What a user does about one that is not what was written."""

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def parse(cls, value: object, origin: str) -> Self:
        """Hold JSON values to this schema.

        Raises:
            ArtifactError: They are none of this kind. It names the first field that is not as it must be.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "it"
            raise ArtifactError(
                origin,
                problem=f"no {cls.__name__} of this version of hrf: {field}: {first['msg']}",
                fix="read it with the hrf that wrote it, or give the new version an experiment of its own",
            ) from error


Kind = TypeVar("Kind", bound=StoredRecord)


def read_record(
    storage: Storage, key: str, kind: type[Kind], *, if_damaged: str | None = None
) -> tuple[Kind, str] | None:
    """A record and its ETag, or None where there is none.

    Args:
        storage: Where the experiment lives.
        key: The record's place.
        kind: What it must be.
        if_damaged: What to do then; by default what the kind says.

    Raises:
        ArtifactError: It was damaged, or is of another kind or version.
        StorageError: If the storage fails.
    """
    found = storage.read_json(key, if_damaged=if_damaged or kind.IF_DAMAGED)
    return None if found is None else (kind.parse(found[0], storage.url(key)), found[1])


class Interval(StoredRecord):
    """An estimate with its confidence interval, in the unit of the quantity."""

    value: float
    low: float
    high: float


class PairedDifference(Interval):
    """A mean of differences over pairs."""

    standard_error: float


class CheckRecord(StoredRecord):
    """One condition of the gate."""

    name: str
    passed: bool
    detail: str


class _Candidate(StoredRecord):
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


class DecisionRecord(_Candidate):
    """What became of a candidate, and the numbers that it was decided on; they are None if it was "lost"."""

    outcome: Outcome
    reward_vs_incumbent: PairedDifference | None
    diversity_ratio: Interval | None
    diversity_floor: float | None
    monitors_tripped: list[str]
    confidence: float | None
    checks: list[CheckRecord]
    reasons: list[str]
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


class Attempt(StoredRecord):
    """A verdict on a candidate against one incumbent: whoever is first to write it binds all others."""

    pointer_etag: str | None
    """The version of the pointer that it is about; None: nothing was promoted yet."""
    record: Promotion
    """What the verdict leads to. If that is no promotion, only its decision counts."""


class RunStart(StoredRecord):
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
    code: str
    """Version and commit of what computes: a run is not resumed by another one."""
    created: str
    """In ISO 8601."""


class Failure(StoredRecord):
    """How a step failed."""

    IF_DAMAGED = "delete it: nothing but the report of how the step failed hangs on it"

    step: str
    epoch: int | None
    error_type: str
    message: str
    exit_code: int
    traceback: str
    time: float
    """In seconds since 1970."""


class RunError(StoredRecord):
    """What Kubeflow says of a run's end."""

    code: int | None
    message: str


class Reason(StoredRecord):
    """Why one step of a run on a cluster failed, see `hrf.steps.workflow`."""

    step: str
    """The task's name, such as `sample`; "" where the run ended before any."""
    epoch: int | None
    """Counted from 0; None for a step that belongs to no epoch, or where nothing says which."""
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
        return place_words(self.step or "the run", self.epoch)

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.where}: {self.problem}. Fix: {self.fix}" if self.fix else f"{self.where}: {self.problem}"


def place_words(step: str, epoch: int | None) -> str:
    """A step with its epoch, if it has one."""
    return step if epoch is None else f"{step}, epoch {epoch}"


class RunStatus(StoredRecord):
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


class RunSummary(StoredRecord):
    """A finished run as a whole; `hrf.report.summary` says what is in its parts."""

    run: dict[str, Any]
    config: dict[str, Any]
    base: dict[str, Any]
    epochs: list[dict[str, Any]]
    promoted: dict[str, Any] | None
    versions: dict[str, Any]
    totals: dict[str, Any]
