"""Promotion: candidates, decisions and the promoted pointer in object storage.

Below the experiment's name:

    promoted.json                         the pointer: the record of the last promotion. The source of truth
    history/000001.json                   every promotion's record, numbered without gaps
    verdicts/000001.json                  a number, and so seeds that nobody has seen, for one candidate and incumbent
    decisions/RUN/epoch-0000.json         the final decision on a candidate
    attempts/RUN/epoch-0000/001.json      the verdict against one incumbent, with the pointer version it is about
    numbers/RUN/epoch-0000/000000.json    the number that a candidate has against the base (0), or the n-th promotion
    candidates/RUN/epoch-0000/            the policy folder, with its evaluation.json and its manifest

`hrf.promotion.records` has the schemas. Only the pointer is ever replaced, and only by compare-and-swap; everything
else is created once. The protocol, safe for any number of promoters, each of which may die between any two calls and be
run again:

1. Read the pointer. If it is set, complete its history and decision records first: its own promoter may have died.
2. If this candidate has a final decision, that is the outcome. (It is read after the pointer, and nobody replaces a
   pointer before completing its decision, so a candidate that was ever promoted is seen here.)
3. Reject a candidate that does not pass the gate on the fixed seeds, which are for selection: it costs no more.
   Else take a number, and let the gate decide once more, on that number's seeds, at the level that it has. A number is
   taken by creating its record, so nobody shares it; who dies on the way leaves it spent.
4. Fix the verdict of this attempt by creating its record: whoever is first binds all who work on the same candidate.
5. Rejected: create the final decision. Promoted: swap the pointer. If it has moved, the next attempt is against the
   new incumbent.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrf.core.spending import level
from hrf.errors import ArtifactError, StorageError
from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.gate import decide
from hrf.promotion.pointer import fetch_incumbent, history, read_candidate_json, read_pointer, versioned_pointer
from hrf.promotion.records import Attempt, DecisionRecord, Promotion, Verdict, VerdictNumber
from hrf.storage.folders import read_manifest
from hrf.storage.names import EVALUATION_FILE
from hrf.storage.objects import Conflict, Storage
from hrf.storage.records import read_record, settle_record

__all__ = ["Candidate", "decide", "fetch_incumbent", "history", "promote", "read_pointer"]

_MAX_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy that asks to be promoted."""

    run_id: str
    epoch: int
    folder: Path
    """What is stored of it: the policy with its `evaluation.json`, written by `writing_folder`."""
    evaluation: EvaluationRecord
    evaluation_digest: str
    """Equal digests say that two evaluations measured the same thing on the same noise."""

    def __post_init__(self) -> None:
        if not self.run_id or "/" in self.run_id:
            raise ValueError(f"a run id is one name, got {self.run_id!r}")

    @property
    def candidate_id(self) -> str:
        """Its name within the experiment, such as `RUN/epoch-0003`."""
        return f"{self.run_id}/epoch-{self.epoch:04d}"


@dataclass(frozen=True, kw_only=True)
class FreshMeasurement:
    """What a verdict is decided on."""

    evaluation: EvaluationRecord
    """The candidate's, with intervals at the number's level."""
    incumbent_rewards: Sequence[float]
    """On the same seeds."""
    diversity_p_value: float
    """Of `hrf.core.diversity.vendi_order2_ratio_p_value`."""


@dataclass(frozen=True, kw_only=True)
class FreshSeeds:
    """How a candidate that passes its selection gets its verdict."""

    error: float
    """Total of all verdicts of the experiment, for reward and for diversity each."""
    comparable: Callable[[Promotion], bool]
    """Whether an incumbent can be measured beside the candidate."""
    measure: Callable[[VerdictNumber, Promotion | None], FreshMeasurement]
    """Measure the candidate, and its incumbent or (None) the base, on a number's seeds."""


def promote(
    storage: Storage,
    experiment: str,
    candidate: Candidate,
    *,
    base_rewards: Sequence[float],
    known_incumbents: Mapping[str, Sequence[float]],
    diversity_floor: float,
    confidence: float,
    fresh_seeds: FreshSeeds | None,
) -> DecisionRecord:
    """Store a candidate, decide on it and, if it passes the gate, move the promoted pointer to it.

    Run again after any interruption it gives the same record.

    Args:
        storage: Where the experiment lives.
        experiment: Its name.
        candidate: The policy with its evaluation.
        base_rewards: The base's reward per fixed seed: the bar of selection while nothing is promoted.
        known_incumbents: Rewards, measured as the candidate's were, of incumbents by candidate id. Of other incumbents
            the stored rewards are taken if their evaluation digest is the candidate's.
        diversity_floor: What the lower end of its diversity ratio must exceed, in (0, 1).
        confidence: Of the intervals of selection, in (0, 1).
        fresh_seeds: For the verdict; None decides on the fixed seeds alone, each candidate by itself, as a study does.

    Returns:
        The decision. `outcome` is "promoted", "rejected" (the gate says no) or "lost" (another candidate stands
        promoted that cannot be compared with this one).

    Raises:
        ArtifactError: If the policy folder is damaged, the run id was used before for another policy, or records are
            missing or damaged.
        StorageError: If the storage fails; run it again then.
    """
    case = _Case(storage, experiment, candidate)
    # Also where the decision is known: another policy under this name is not the one that was decided on.
    candidate_digest = case.store_candidate()

    def judge(pointer: Promotion | None) -> Verdict:
        rewards = case.incumbent_rewards(pointer, base_rewards, known_incumbents)
        if rewards is None and (fresh_seeds is None or (pointer and not fresh_seeds.comparable(pointer))):
            return _INCOMPARABLE
        selected = decide(
            candidate.evaluation, incumbent_rewards=rewards, diversity_floor=diversity_floor, confidence=confidence
        )
        if selected.outcome == "rejected" or fresh_seeds is None:
            return selected
        number = case.take_number(pointer, candidate_digest, fresh_seeds.error)
        fresh = fresh_seeds.measure(number, pointer)
        return decide(
            fresh.evaluation,
            incumbent_rewards=fresh.incumbent_rewards,
            diversity_p_value=fresh.diversity_p_value,
            diversity_floor=diversity_floor,
            confidence=1.0 - 2.0 * number.level,
            number=number,
        )

    for number in range(1, _MAX_ATTEMPTS + 1):
        if (outcome := case.attempt(number, judge, candidate_digest)) is not None:
            return outcome
    raise StorageError(
        storage.url(f"{experiment}/promoted.json"),
        problem=f"the pointer moved away {_MAX_ATTEMPTS} times before it could be swapped",
        fix="check that nothing but hrf writes it, and run the step again",
    )


_INCOMPARABLE = Verdict(
    outcome="lost",
    reward_vs_incumbent=None,
    diversity_ratio=None,
    diversity_floor=None,
    monitors_tripped=[],
    confidence=None,
    checks=[],
    reasons=[
        "the incumbent samples otherwise, or comes from another base, so that it can't be measured beside the"
        " candidate; start a run from it to compare"
    ],
)


class _Case:
    """The objects of one candidate, and the protocol's moves on them."""

    def __init__(self, storage: Storage, experiment: str, candidate: Candidate) -> None:
        self._storage, self._experiment, self._candidate = storage, experiment, candidate
        self._pointer_key = f"{experiment}/promoted.json"
        self._candidate_key = f"{experiment}/candidates/{candidate.candidate_id}"

    def store_candidate(self) -> str:
        """Upload the candidate's folder; returns the digest of its contents."""
        manifest = read_manifest(self._candidate.folder)
        if EVALUATION_FILE not in manifest.files:
            raise ArtifactError(
                self._candidate.folder / EVALUATION_FILE,
                problem="a candidate's folder needs it: later candidates are compared with it",
                producer=manifest.describe_producer(),
                fix="write the evaluation record into the folder",
            )
        return self._storage.upload_folder(self._candidate.folder, self._candidate_key).content_digest()

    def attempt(
        self, number: int, judge: Callable[[Promotion | None], Verdict], candidate_digest: str
    ) -> DecisionRecord | None:
        """Steps 1 to 5 once; returns the final decision, or None if the pointer has moved on."""
        pointer, etag = versioned_pointer(self._storage, self._experiment) or (None, None)
        if pointer is not None:
            self._complete(pointer)
        final_key = _decision_key(self._experiment, self._candidate.candidate_id)
        if (final := read_record(self._storage, final_key, DecisionRecord)) is not None:
            return final
        if pointer is None:
            self._check_never_promoted()
        bound = self._bind(number, lambda: self._verdict(number, judge(pointer), pointer, etag, candidate_digest))
        if bound.record.decision.outcome != "promoted":
            return self._create_final(bound.record.decision)
        if not self._swap_pointer(bound.record, bound.pointer_etag):
            return None
        return self._complete(bound.record)

    def take_number(self, pointer: Promotion | None, candidate_digest: str, error: float) -> VerdictNumber:
        """The number of the verdict on this candidate against this incumbent: one that was taken before, or a new one.

        Args:
            pointer: The incumbent; None: the base.
            candidate_digest: Of what is judged.
            error: Total of all verdicts.
        """
        sequence = pointer.sequence if pointer else 0
        own = f"{self._experiment}/numbers/{self._candidate.candidate_id}/{sequence:06d}.json"
        if (found := read_record(self._storage, own, VerdictNumber)) is not None:
            return found
        folder = f"{self._experiment}/verdicts/"
        taken = self._storage.list(folder)
        last = int(taken[-1].removeprefix(folder).removesuffix(".json")) if taken else 0
        promoted = pointer.num_by_verdict if pointer else 0
        for number in itertools.count(last + 1):
            spent = number - 1 - promoted
            record = VerdictNumber(
                number=number,
                candidate_id=self._candidate.candidate_id,
                candidate_digest=candidate_digest,
                incumbent_id=pointer.candidate_id if pointer else None,
                num_spent=spent,
                level=level(error, spent),
            )
            try:
                self._storage.create_json(f"{folder}{number:06d}.json", record.as_json())
                break
            except Conflict:
                continue
        return settle_record(self._storage, own, record)

    def _bind(self, number: int, judge: Callable[[], Attempt]) -> Attempt:
        """The attempt that is on record, or else a new one: the first to create it binds everyone."""
        key = f"{self._experiment}/attempts/{self._candidate.candidate_id}/{number:03d}.json"
        return read_record(self._storage, key, Attempt) or settle_record(self._storage, key, judge())

    def _swap_pointer(self, record: Promotion, etag: str | None) -> bool:
        """Move the pointer from version `etag` (None: no pointer) to a record; False if it is another by now."""
        try:
            if etag is None:
                self._storage.create_json(self._pointer_key, record.as_json())
            else:
                self._storage.replace_json(self._pointer_key, record.as_json(), etag)
        except Conflict:
            return False
        return True

    def incumbent_rewards(
        self,
        pointer: Promotion | None,
        base_rewards: Sequence[float],
        known_incumbents: Mapping[str, Sequence[float]],
    ) -> Sequence[float] | None:
        """The rewards to beat, seed by seed; None if the incumbent's cannot be compared."""
        if pointer is None:
            return base_rewards
        if pointer.candidate_id in known_incumbents:
            return known_incumbents[pointer.candidate_id]
        if pointer.evaluation_digest != self._candidate.evaluation_digest:
            return None
        values = read_candidate_json(self._storage, pointer, EVALUATION_FILE)
        origin = self._storage.url(f"{pointer.candidate_key}/{EVALUATION_FILE}")
        return EvaluationRecord.parse(values, origin).rewards

    def _verdict(
        self, number: int, verdict: Verdict, pointer: Promotion | None, etag: str | None, candidate_digest: str
    ) -> Attempt:
        """What a verdict stands for: a promotion, whose `decision` may become the candidate's decision record."""
        candidate = self._candidate
        incumbent_id = pointer.candidate_id if pointer else None
        sequence = (pointer.sequence if pointer else 0) + 1
        about: dict[str, Any] = {
            "candidate_id": candidate.candidate_id,
            "run_id": candidate.run_id,
            "epoch": candidate.epoch,
            "candidate_key": self._candidate_key,
            "candidate_digest": candidate_digest,
            "evaluation_digest": candidate.evaluation_digest,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        }
        decision: dict[str, Any] = {
            **about,
            **dict(verdict),
            "incumbent_id": incumbent_id,
            "attempts": number,
            "sequence": sequence if verdict.outcome == "promoted" else None,
        }
        record = Promotion(
            **about,
            sequence=sequence,
            previous=incumbent_id,
            decision=DecisionRecord(**decision),
            num_by_verdict=(pointer.num_by_verdict if pointer else 0) + (verdict.number is not None),
        )
        return Attempt(pointer_etag=etag, record=record)

    def _complete(self, pointer: Promotion) -> DecisionRecord:
        """Write the history and decision records of a promotion, unless they are there; returns the decision."""
        self._create(
            f"{self._experiment}/history/{pointer.sequence:06d}.json",
            pointer,
            problem="it tells of another promotion than promoted.json does",
            fix="restore promoted.json to the record of the last promotion in history/",
        )
        return self._create_final(pointer.decision)

    def _create_final(self, decision: DecisionRecord) -> DecisionRecord:
        self._create(
            _decision_key(self._experiment, decision.candidate_id),
            decision,
            problem="another final decision on this candidate is there already",
            fix="run ids must not be used twice: start again under a new one (hrf run --fresh)",
        )
        return decision

    def _create(self, key: str, record: Promotion | DecisionRecord, *, problem: str, fix: str) -> None:
        try:
            self._storage.create_json(key, record.as_json())
        except Conflict as conflict:
            raise ArtifactError(conflict.where, problem=problem, producer=f"run {record.run_id}", fix=fix) from conflict

    def _check_never_promoted(self) -> None:
        """An absent pointer beside a history was deleted: going on would number promotions twice."""
        records = self._storage.list(f"{self._experiment}/history/")
        if records and read_pointer(self._storage, self._experiment) is None:
            raise ArtifactError(
                self._storage.url(self._pointer_key),
                problem=f"it is gone, though {len(records)} promotions are on record",
                fix=f"copy the last of them, {self._storage.url(records[-1])}, to promoted.json",
            )


def _decision_key(experiment: str, candidate_id: str) -> str:
    return f"{experiment}/decisions/{candidate_id}.json"
