"""What becomes of flipped bytes and of requests that go wrong: is everything noticed, and is anything lost?

    python -m benchmarks.faults              # 2,000 flipped bytes, and 3,000 requests with a fault at every tenth
    python -m benchmarks.faults --flips 100 --requests 300

It starts an S3 server of its own in a temporary folder, and ends with 1 if anything went unnoticed or was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.faulty_s3 import faulty_network
from benchmarks.made_up import evaluation_of
from hrf.errors import HrfError, StorageError
from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.chain import read_chain
from hrf.promotion.pointer import read_candidate_json
from hrf.promotion.protocol import (
    Candidate,
    FreshMeasurement,
    FreshSeeds,
    fetch_incumbent,
    history,
    promote,
    read_pointer,
)
from hrf.promotion.records import (
    Attempt,
    DecisionRecord,
    Failure,
    Promotion,
    RunError,
    RunStart,
    RunStatus,
    RunSummary,
    VerdictNumber,
)
from hrf.promotion.runs import RunRecords
from hrf.storage.folders import MANIFEST, read_folder, writing_folder
from hrf.storage.objects import Storage
from hrf.storage.records import read_record
from hrf_pipelines.local.embedded_s3 import EmbeddedS3

EXPERIMENT = "faults"
NUM_SEEDS = 16
FAULT_FRACTION = 0.1
AT_ONCE = 8
MOST_TRIES = 12
"""Of one operation. Each sends every request three times; so often in a row nothing fails by chance."""
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Flips:
    """What became of flipped bytes."""

    noticed: Counter[str] = field(default_factory=Counter)
    """Refused with an error of the library's own, by kind of object."""
    harmless: Counter[str] = field(default_factory=Counter)
    """Read as before: the byte was a blank between two values, or the like."""
    unnoticed: list[str] = field(default_factory=list)
    """Read as something else. There must be none."""
    raw: list[str] = field(default_factory=list)
    """Ended in an error that says nothing to a user. There must be none."""

    @property
    def total(self) -> int:
        """How many bytes were flipped."""
        return self.noticed.total() + self.harmless.total() + len(self.unnoticed) + len(self.raw)


@dataclass(kw_only=True)
class Requests:
    """What became of requests that went wrong."""

    num_requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    num_operations: int = 0
    num_repeated: int = 0
    """How often an operation ended in a StorageError, and was done again."""
    wrong: list[str] = field(default_factory=list)
    """What an operation gave that it must not give. There must be none."""
    lost: list[str] = field(default_factory=list)
    """What was written and is not there in the end. There must be none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run leaves in its bucket, with made-up numbers."""

    start: RunStart
    failure: Failure
    candidate: Candidate
    status: RunStatus
    summary: RunSummary

    @classmethod
    def make(cls, folder: Path, number: int, gain: float) -> Run:
        """A run whose candidate is better than the base by `gain`."""
        run_id = f"run-{number}"
        noise = [random.Random(f"{number} {seed}").gauss(0.0, 0.01) for seed in range(NUM_SEEDS)]
        evaluation = evaluation_of([gain + deviation - sum(noise) / NUM_SEEDS for deviation in noise])
        with writing_folder(folder / run_id, producer={"step": "promote", "run": run_id}) as partial:
            (partial / "weights.bin").write_bytes(random.Random(number).randbytes(20_000))
            (partial / "policy.json").write_text(json.dumps({"base": {"source": "shipped:avatars-32"}}))
            evaluation.write(partial / "evaluation.json")
        failure = Failure(
            step="score", epoch=0, error_type="E", message="é", exit_code=1, traceback="line\n", time=number + 0.5
        )
        return cls(
            start=RunStart(
                run_id=run_id,
                experiment=EXPERIMENT,
                config_digest="c",
                preset="avatars-32",
                started_from=None,
                started_from_sequence=None,
                incumbent=None,
                noise_tag="",
                code="0",
                created=f"2026-01-01T00:00:00.{number:06d}+00:00",
            ),
            failure=failure,
            candidate=Candidate(
                run_id=run_id, epoch=0, folder=folder / run_id, evaluation=evaluation, evaluation_digest="e"
            ),
            status=RunStatus(
                run_id=run_id,
                state="FAILED",
                outcome="failed",
                time=1.5,
                error=RunError(code=1, message="m"),
                kubeflow_run="k",
                reasons=[],
                reasons_unread="",
                failures=[failure],
            ),
            summary=RunSummary(
                run={"run_id": run_id}, config={}, base=evaluation, epochs=[], promoted=None, versions={}, totals={}
            ),
        )

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.start.run_id

    def begin(self, storage: Storage) -> RunStart:
        """Write its first record; returns what holds."""
        return records_of(storage, self.run_id).begin(self.start)

    def put_forward(self, storage: Storage) -> DecisionRecord:
        """Put its candidate before the gate."""
        return promote(
            storage,
            EXPERIMENT,
            self.candidate,
            base_rewards=[0.0] * NUM_SEEDS,
            known_incumbents={},
            diversity_floor=0.9,
            confidence=0.95,
            fresh_seeds=FreshSeeds(
                error=0.05, comparable=lambda _: True, measure=lambda _, incumbent: self._measured(storage, incumbent)
            ),
        )

    def _measured(self, storage: Storage, incumbent: Promotion | None) -> FreshMeasurement:
        """The same on fresh seeds as on the fixed ones."""
        rewards = [0.0] * NUM_SEEDS
        if incumbent is not None:
            values = read_candidate_json(storage, incumbent, "evaluation.json")
            rewards = EvaluationRecord.parse(values, incumbent.candidate_id).rewards
        return FreshMeasurement(evaluation=self.candidate.evaluation, incumbent_rewards=rewards, diversity_p_value=0.0)

    def end(self, storage: Storage) -> None:
        """Write its last records."""
        records = records_of(storage, self.run_id)
        records.add_failure(self.failure)
        records.write_status(self.status)
        records.write_summary(self.summary)


def records_of(storage: Storage, run_id: str) -> RunRecords:
    """The records of a run."""
    return RunRecords(storage=storage, experiment=EXPERIMENT, run_id=run_id)


@dataclass(frozen=True, kw_only=True)
class Target:
    """An object or a file, and how the product reads it."""

    kind: str
    content: bytes
    write: Callable[[bytes], None]
    read: Callable[[], Any]


def flip_bytes(server: EmbeddedS3, folder: Path, *, number: int, seed: int, seconds: float) -> Flips:
    """Flip one byte of a record or an artifact at a time, and read it as the product does.

    Args:
        server: For the bucket.
        folder: For files.
        number: Flips to do.
        seed: Of what is flipped.
        seconds: After which no more are begun.
    """
    storage = Storage.open(f"s3://{server.bucket}/flips-{seed}", environment=server.environment())
    targets = [*_bucket_targets(storage, folder), *_local_targets(folder)]
    kinds = sorted({target.kind for target in targets})
    truths = {id(target): target.read() for target in targets}
    source, flips, end = random.Random(seed), Flips(), time.monotonic() + seconds
    while flips.total < number and time.monotonic() < end:
        kind = source.choice(kinds)
        target = source.choice([target for target in targets if target.kind == kind])
        place, change = source.randrange(len(target.content)), source.randrange(1, 256)
        damaged = bytearray(target.content)
        damaged[place] ^= change
        target.write(bytes(damaged))
        what = f"{kind}, byte {place} of {len(damaged)}: {target.content[place]:#04x} -> {damaged[place]:#04x}"
        try:
            same = target.read() == truths[id(target)]
        except HrfError:
            flips.noticed[kind] += 1
        except Exception as error:  # noqa: BLE001 - that there is none is what is measured.
            flips.raw.append(f"{what}: {type(error).__name__}: {error}")
        else:
            if same:
                flips.harmless[kind] += 1
            else:
                flips.unnoticed.append(what)
        target.write(target.content)
    return flips


def _bucket_targets(storage: Storage, folder: Path) -> Iterator[Target]:
    """Every kind of record, and the files of a promoted candidate."""
    for number, gain in enumerate((0.1, -0.1, 0.2)):
        run = Run.make(folder / "candidates", number, gain)
        run.begin(storage)
        run.put_forward(storage)
        run.end(storage)
    bucket, _, prefix = storage.uri.removeprefix("s3://").partition("/")
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "promoted.json": ("pointer", lambda _: read_pointer(storage, EXPERIMENT)),
        "history/": ("history", lambda _: history(storage, EXPERIMENT)),
        "decisions/": ("decision", lambda key: read_record(storage, key, DecisionRecord)),
        "attempts/": ("attempt", lambda key: read_record(storage, key, Attempt)),
        "verdicts/": ("number of a verdict", lambda key: read_record(storage, key, VerdictNumber)),
        "numbers/": ("number of a verdict", lambda key: read_record(storage, key, VerdictNumber)),
        "runs/run-2/run.json": ("run record", lambda _: records_of(storage, "run-2").started()),
        "runs/run-2/failures/": ("failure", lambda _: records_of(storage, "run-2").failures()),
        "runs/run-2/status.json": ("status", lambda _: records_of(storage, "run-2").status()),
        "runs/run-2/summary.json": ("summary", lambda _: records_of(storage, "run-2").summary()),
        "candidates/run-2/": ("candidate in the bucket", lambda _: _fetched(storage, folder / "fetched")),
    }
    for key in storage.list(f"{EXPERIMENT}/"):
        found = storage.read_bytes(key)
        assert found is not None
        for start, (kind, read) in readers.items():
            if key.startswith(f"{EXPERIMENT}/{start}"):
                place = {"Bucket": bucket, "Key": f"{prefix}/{key}"}
                yield Target(
                    kind=kind,
                    content=found[0],
                    write=lambda body, place=place: storage._client.put_object(**place, Body=body),  # type: ignore[misc]
                    read=lambda read=read, key=key: read(key),  # type: ignore[misc]
                )


def _local_targets(folder: Path) -> Iterator[Target]:
    """The files of an artifact on this machine: the shipped model's."""
    from hrf.storage.shipped import shipped_folder

    artifact = Path(shutil.copytree(shipped_folder("avatars-32"), folder / "artifact"))
    for file in sorted(path for path in artifact.rglob("*") if path.is_file()):
        yield Target(
            kind="artifact on this machine",
            content=file.read_bytes(),
            write=file.write_bytes,  # type: ignore[arg-type]
            read=lambda: str(read_folder(artifact)),
        )


def _fetched(storage: Storage, target: Path) -> dict[str, str]:
    """The digests of what a user gets who fetches the promoted candidate."""
    pointer = read_pointer(storage, EXPERIMENT)
    assert pointer is not None
    folder = fetch_incumbent(storage, pointer, target)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def break_requests(server: EmbeddedS3, folder: Path, *, number: int, seed: int, seconds: float) -> Requests:
    """Let runs write and read while every tenth request goes wrong, and look whether all is there in the end.

    Runs go on in several threads at a time and race for the promoted pointer. An operation that ends in a StorageError
    is done again, as a user runs a step again.

    Args:
        server: The S3 server.
        folder: For files.
        number: Requests, from which on no more runs begin.
        seed: Of the faults.
        seconds: After which no more runs begin.
    """
    uri, told = f"s3://{server.bucket}/requests-{seed}", Requests()
    lock, end = threading.Lock(), time.monotonic() + seconds
    finished: list[tuple[Run, DecisionRecord]] = []
    numbers = iter(range(10**9))
    gains = random.Random(seed)
    with faulty_network(server.endpoint, seed=seed, fraction=FAULT_FRACTION) as network:
        environment = {**server.environment(), "AWS_ENDPOINT_URL_S3": network.endpoint}

        def work(_: int) -> None:
            user = _User(Storage.open(uri, environment=environment), told, lock)
            while network.num_requests < number and time.monotonic() < end:
                with lock:
                    run = Run.make(folder / "candidates", next(numbers), gains.uniform(-0.1, 0.4))
                decision = user.live_through(run, folder / "scratch")
                if decision is not None:
                    with lock:
                        finished.append((run, decision))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, range(AT_ONCE)))
        told.num_requests, told.faults = network.num_requests, network.faults
    told.lost = [*_losses(Storage.open(uri, environment=server.environment()), finished)]
    return told


class _User:
    """One who does things until they are done, and looks at what comes of them."""

    def __init__(self, storage: Storage, told: Requests, lock: threading.Lock) -> None:
        self._storage, self._told, self._lock = storage, told, lock

    def live_through(self, run: Run, scratch: Path) -> DecisionRecord | None:
        """All that a run does in its bucket; returns the decision on its candidate."""
        storage, run_id = self._storage, run.run_id
        self._expect("run record", lambda: run.begin(storage), run.start)
        decision = self._do("promote", lambda: run.put_forward(storage))
        self._expect("end", lambda: run.end(storage), None)
        self._expect("failures", lambda: records_of(storage, run_id).failures(), [run.failure])
        self._expect("summary", lambda: records_of(storage, run_id).summary(), run.summary)
        candidate = f"{EXPERIMENT}/candidates/{run.candidate.candidate_id}"
        self._expect(
            "download",
            lambda: _digests(storage.download_folder(candidate, scratch / run_id)),
            _digests(run.candidate.folder),
        )
        chain = self._do("chain", lambda: read_chain(storage, EXPERIMENT))
        if chain is not None and run_id not in {one["run_id"] for one in chain["runs"]}:
            self._note("the chain leaves out a run")
        self._come_and_go(run, scratch / f"{run_id}.bin")
        return decision

    def _come_and_go(self, run: Run, target: Path) -> None:
        """Files that are not for long."""
        storage, file = self._storage, run.candidate.folder / "weights.bin"
        keys = [f"passing/{run.run_id}/{name}" for name in "ab"]
        for key in keys:
            self._expect("upload", lambda key=key: storage.upload_file(file, key), None)  # type: ignore[misc]
        self._expect("list", lambda: storage.list(f"passing/{run.run_id}/"), keys)
        self._do("weights", lambda: storage.download_file(keys[0], target))
        if target.read_bytes() != file.read_bytes():
            self._note("downloaded weights differ")
        self._expect("delete", lambda: storage.delete(f"passing/{run.run_id}/"), None)
        self._expect("list", lambda: storage.list(f"passing/{run.run_id}/"), [])

    def _do(self, what: str, operation: Callable[[], Result]) -> Result | None:
        """Do something until it is done; None if it never is."""
        with self._lock:
            self._told.num_operations += 1
        for _ in range(MOST_TRIES):
            try:
                return operation()
            except StorageError:
                with self._lock:
                    self._told.num_repeated += 1
            except Exception:  # noqa: BLE001 - that there is none is what is measured.
                self._note(f"{what}: {traceback.format_exc()}")
                return None
        self._note(f"{what}: does not come to an end")
        return None

    def _expect(self, what: str, operation: Callable[[], Result], expected: Result) -> None:
        if (found := self._do(what, operation)) != expected:
            self._note(f"{what}: {found} instead of {expected}")

    def _note(self, what: str) -> None:
        with self._lock:
            self._told.wrong.append(what)


def _losses(storage: Storage, finished: Sequence[tuple[Run, DecisionRecord]]) -> Iterator[str]:
    """What is not as it was written, seen without faults."""
    promotions = history(storage, EXPERIMENT)
    pointer = read_pointer(storage, EXPERIMENT)
    if promotions and promotions[-1] != pointer:
        yield "the pointer is not the last promotion"
    promoted = [promotion.candidate_id for promotion in promotions]
    decided = [decision.candidate_id for _, decision in finished if decision.outcome == "promoted"]
    if sorted(promoted) != sorted(decided):
        yield f"promotions {promoted}, and decisions to promote {decided}"
    for run, decision in finished:
        records = records_of(storage, run.run_id)
        kept = (records.started(), records.failures(), records.status(), records.summary())
        if kept != (run.start, [run.failure], run.status, run.summary):
            yield f"the records of {run.run_id}"
        if run.put_forward(storage) != decision:
            yield f"the decision on {run.run_id}"
        manifest = storage.read_manifest(f"{EXPERIMENT}/candidates/{run.candidate.candidate_id}")
        if manifest is None or manifest.files.keys() != _digests(run.candidate.folder).keys() - {MANIFEST}:
            yield f"the candidate of {run.run_id}"


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def place() -> Iterator[tuple[EmbeddedS3, Path]]:
    """An S3 server and a folder of one's own."""
    with tempfile.TemporaryDirectory() as name, EmbeddedS3.start(Path(name) / "s3", "hrf") as server:
        yield server, Path(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if anything went unnoticed or was lost, or the time did not suffice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600, help="for each of the two")
    asked = parser.parse_args(arguments)
    with place() as (server, folder):
        options = {"seed": asked.seed, "seconds": asked.seconds}
        flips = flip_bytes(server, folder / "flips", number=asked.flips, **options)
        requests = break_requests(server, folder / "requests", number=asked.requests, **options)
    print("\n".join([*_told_of_flips(flips), "", *_told_of_requests(requests)]))
    bad = flips.unnoticed or flips.raw or requests.wrong or requests.lost
    short = flips.total < asked.flips or requests.num_requests < asked.requests
    return 1 if bad or short else 0


def _told_of_flips(flips: Flips) -> Iterator[str]:
    yield "| flipped byte in | refused | read as before |"
    yield "|---|---|---|"
    for kind in sorted(flips.noticed | flips.harmless):
        yield f"| {kind} | {flips.noticed[kind]:,} | {flips.harmless[kind]:,} |"
    yield f"| all | {flips.noticed.total():,} | {flips.harmless.total():,} |"
    yield f"unnoticed: {len(flips.unnoticed)}; with an error that is none of the library's: {len(flips.raw)}"
    yield from flips.unnoticed + flips.raw


def _told_of_requests(requests: Requests) -> Iterator[str]:
    yield "| fault | times |"
    yield "|---|---|"
    for name, times in sorted(requests.faults.items()):
        yield f"| {name} | {times:,} |"
    yield f"| all | {requests.faults.total():,} of {requests.num_requests:,} requests |"
    yield f"{requests.num_operations:,} operations; {requests.num_repeated} had to be done again after a StorageError"
    yield f"wrong: {len(requests.wrong)}; lost: {len(requests.lost)}"
    yield from requests.wrong + requests.lost


if __name__ == "__main__":
    sys.exit(main())
