"""The runs of one experiment and the chain of their promotions, from the bucket alone.

So runs on a cluster, on this machine and on other machines are shown alike. `hrf.promotion.runs` and
`hrf.promotion.protocol` say what a run leaves there.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hrf.errors import ArtifactError
from hrf.promotion.pointer import history, read_candidate_json
from hrf.promotion.records import Attempt, DecisionRecord, Promotion
from hrf.promotion.runs import SUMMARY, RunRecords
from hrf.storage.names import POLICY_FILE
from hrf.storage.records import Kind, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hrf.storage.objects import Storage

#: As `hrf.promotion.protocol` names the objects of a candidate, below `decisions/`, `attempts/` and `candidates/`.
_CANDIDATE = re.compile(
    r"(?P<kind>\w+)/(?P<id>(?P<run>[^/]+)/epoch-(?P<epoch>\d+))(?:\.json|/\d+\.json|/manifest\.json)"
)
#: Requests at a time: a bucket that is far away takes some tenths of a second for each.
_AT_ONCE = 8
_COPIED = (
    *("outcome", "incumbent_id", "sequence", "attempts", "reward_vs_incumbent", "diversity_ratio", "confidence"),
    *("number", "level", "reasons", "time"),
)

State = Literal["finished", "failed", "terminated", "unfinished"]
_STATES: dict[str, State] = {"succeeded": "finished", "failed": "failed", "terminated": "terminated"}
Value = TypeVar("Value")
Result = TypeVar("Result")


def read_chain(storage: Storage, experiment: str) -> dict[str, Any]:
    """Read what an experiment's runs promoted.

    Returns:
        JSON values only:
        `runs` in order of their start, each with `run_id`, `state` (finished, failed, terminated or unfinished: at
        work, paused or killed, which a bucket can't tell), `error`, what is in its run.json, and its `candidates`;
        `promotions` as `hrf.promotion.pointer.history` gives them, without the decision; and the `base` they all
        come from.

    Raises:
        ArtifactError: The promotions are no unbroken chain, or a decision is not on it.
    """
    names = storage.list_folders(f"{experiment}/runs")
    candidates = _read_candidates(storage, experiment)
    # The history comes last: a promotion enters it before its decision is written.
    promotions = history(storage, experiment)
    for promotion in promotions:
        # Its promoter may have died before writing the decision.
        found = candidates.setdefault(promotion.candidate_id, _candidate(promotion.as_json()))
        found.update(_of_decision(promotion.decision))
    _check_on_chain(storage, experiment, candidates.values(), promotions)
    runs = sorted({*names, *(candidate["run_id"] for candidate in candidates.values())})
    numbers = {promotion.candidate_id: promotion.sequence for promotion in promotions}
    read = _at_once(lambda name: _read_run(storage, experiment, name), runs)
    for run in read:
        own = [candidate for candidate in candidates.values() if candidate["run_id"] == run["run_id"]]
        run["candidates"] = sorted(own, key=lambda candidate: candidate["epoch"])
        if run["started_from_sequence"] is None:
            run["started_from_sequence"] = numbers.get(run["started_from"])
    return {
        "experiment": experiment,
        "storage": storage.uri,
        "runs": sorted(read, key=_order),
        "promotions": [link.model_dump(mode="json", exclude={"decision"}) for link in promotions],
        "base": _read_base(storage, promotions),
    }


def parse_time(text: str) -> datetime:
    """A time as records hold it; one without a zone is UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _read_candidates(storage: Storage, experiment: str) -> dict[str, dict[str, Any]]:
    """All candidates that are stored or were judged, by id; those without a final decision are "undecided"."""
    # Decisions first, as above: what is decided meanwhile shows as undecided, and nothing the other way round.
    listed = _at_once(lambda kind: storage.list(f"{experiment}/{kind}/"), ("decisions", "attempts", "candidates"))
    found: dict[str, dict[str, Any]] = {}
    keys: dict[str, dict[str, list[str]]] = {"decisions": {}, "attempts": {}, "candidates": {}}
    for key in (key for group in listed for key in group):
        if (match := _CANDIDATE.fullmatch(key.removeprefix(f"{experiment}/"))) is not None:
            keys[match["kind"]].setdefault(match["id"], []).append(key)
            about = {"candidate_id": match["id"], "run_id": match["run"], "epoch": int(match["epoch"])}
            found.setdefault(match["id"], _candidate(about))
    decided = _read_all(storage, [key for group in keys["decisions"].values() for key in group], DecisionRecord)
    for decision in decided.values():
        found[decision.candidate_id].update(_of_decision(decision))
    # One verdict of a decided candidate is its decision; only those of others tell more.
    wanted = [name for name, candidate in found.items() if candidate["attempts"] != 1]
    verdicts = _read_all(storage, [key for name in wanted for key in keys["attempts"].get(name, [])], Attempt)
    for name in wanted:
        records = [verdicts[key].record.decision for key in keys["attempts"].get(name, []) if key in verdicts]
        found[name]["verdicts"] = [_verdict(record) for record in records]
        found[name]["attempts"] = found[name]["attempts"] or len(records)
    return found


def _candidate(about: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate of which no verdict is known."""
    known = {name: about[name] for name in ("candidate_id", "run_id", "epoch")}
    no_verdict = {"outcome": "undecided", "attempts": 0, "failed_checks": [], "verdicts": []}
    return {**known, **dict.fromkeys(_COPIED), **no_verdict}


def _of_decision(decision: DecisionRecord) -> dict[str, Any]:
    record = decision.model_dump(mode="json", include=set(_COPIED))
    record["failed_checks"] = [check.name for check in decision.checks if not check.passed]
    return {**record, "verdicts": [_verdict(decision)]} if decision.attempts == 1 else record


def _verdict(decision: DecisionRecord) -> dict[str, Any]:
    """One attempt: what the gate said, and against whom. All but the last lost the race for the pointer."""
    return decision.model_dump(mode="json", include={"outcome", "incumbent_id", "time"})


def _check_on_chain(
    storage: Storage, experiment: str, candidates: Iterable[Mapping[str, Any]], promotions: list[Promotion]
) -> None:
    """Refuse to show a chain that leaves out a promotion."""
    links = {promotion.candidate_id: promotion.sequence for promotion in promotions}
    for candidate in candidates:
        if candidate["outcome"] == "promoted" and links.get(candidate["candidate_id"]) != candidate["sequence"]:
            raise ArtifactError(
                storage.url(f"{experiment}/history/{candidate['sequence']:06d}.json"),
                problem=f"it does not tell of the promotion of {candidate['candidate_id']}, which its decision does",
                producer=f"run {candidate['run_id']}",
                fix="restore the missing record, and promoted.json if it was the last one",
            )


def _read_run(storage: Storage, experiment: str, run_id: str) -> dict[str, Any]:
    """What the bucket knows of a run, without its candidates."""
    records = RunRecords(storage=storage, experiment=experiment, run_id=run_id)
    begun = records.started()
    start = begun.as_json() if begun else {}
    state: State = "unfinished"
    status = None
    if storage.list(f"{records.prefix}/{SUMMARY}"):
        state = "finished"
    elif (status := records.status()) is not None:
        state = _STATES[status.outcome]
    failures = _failures(records) if state in ("failed", "unfinished") else []
    # What the run's Workflow said, or what its steps said, or Kubeflow.
    reasons = [reason.line for reason in status.reasons] if status else []
    told = status.error.message if status else ""
    error = reasons[0] if reasons else None if failures else told or None
    return {
        "run_id": run_id,
        "state": state,
        "error": error,
        "failures": failures,
        "start_known": begun is not None,
        **{name: start.get(name) for name in ("started_from", "started_from_sequence", "created")},
        **{name: start.get(name) for name in ("preset", "config_digest")},
        "replicas": begun.replicas if begun else 1,
    }


def _failures(records: RunRecords) -> list[dict[str, Any]]:
    """What failing steps said, oldest first. A run that went on afterwards keeps them."""
    told = sorted(records.failures(), key=lambda failure: failure.time)
    names = {"step", "epoch", "replica", "error_type", "message", "time"}
    return [failure.model_dump(mode="json", include=names) for failure in told]


def _read_base(storage: Storage, promotions: list[Promotion]) -> dict[str, Any] | None:
    """The base model that the first promoted policy names; None where its folder was cleared away."""
    manifest = storage.read_manifest(promotions[0].candidate_key) if promotions else None
    if manifest is None or POLICY_FILE not in manifest.files:
        return None
    return dict(read_candidate_json(storage, promotions[0], POLICY_FILE)["base"])


def _order(run: Mapping[str, Any]) -> tuple[datetime, str]:
    """By start; where that isn't on record by the first verdict; runs without either come first."""
    times = [parse_time(candidate["time"]) for candidate in run["candidates"] if candidate["time"]]
    begin = parse_time(run["created"]) if run["created"] else min(times, default=datetime.min.replace(tzinfo=UTC))
    return begin, run["run_id"]


def _read_all(storage: Storage, keys: list[str], kind: type[Kind]) -> dict[str, Kind]:
    """Records by key, without those that have gone meanwhile."""
    read = zip(keys, _at_once(lambda key: read_record(storage, key, kind), keys), strict=True)
    return {key: found for key, found in read if found is not None}


def _at_once(function: Callable[[Value], Result], values: Iterable[Value]) -> list[Result]:
    """Apply a function to several values at a time; results in their order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, values))
