"""The records of the bucket: each kind is read as it was written, or refused by name."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from benchmarks.faults import EXPERIMENT, Run
from hrf.errors import ArtifactError
from hrf.promotion.protocol import history, read_pointer
from hrf.promotion.records import (
    Attempt,
    DecisionRecord,
    Failure,
    Promotion,
    RunStart,
    RunStatus,
    RunSummary,
    VerdictNumber,
)
from hrf.storage.objects import Storage
from hrf.storage.records import read_record
from hrf_pipelines.local.embedded_s3 import EmbeddedS3

KINDS = {
    "promoted.json": Promotion,
    "history/000001.json": Promotion,
    "decisions/run-0/epoch-0000.json": DecisionRecord,
    "attempts/run-0/epoch-0000/001.json": Attempt,
    "verdicts/000001.json": VerdictNumber,
    "numbers/run-0/epoch-0000/000000.json": VerdictNumber,
    "runs/run-0/run.json": RunStart,
    "runs/run-0/failures/score-epoch-0000.json": Failure,
    "runs/run-0/status.json": RunStatus,
    "runs/run-0/summary.json": RunSummary,
}


def fill(storage: Storage, folder: Path) -> Storage:
    """An experiment with one run, whose candidate was promoted."""
    run = Run.make(folder, 0, 0.1)
    run.begin(storage)
    run.put_forward(storage)
    run.end(storage)
    return storage


@pytest.fixture
def filled(storage: Storage, tmp_path: Path) -> Storage:
    """For a test that writes over its records."""
    return fill(storage, tmp_path)


@pytest.fixture(scope="module")
def untouched(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """For tests that only read it."""
    storage = Storage.open(f"s3://hrf/{uuid.uuid4().hex}", environment=embedded_s3.environment())
    return fill(storage, tmp_path_factory.mktemp("run"))


def write_raw(storage: Storage, key: str, content: bytes, folder: Path) -> None:
    """Put bytes in the place of a record."""
    (folder / "raw").write_bytes(content)
    storage.upload_file(folder / "raw", f"{EXPERIMENT}/{key}")


def test_every_record_that_a_run_leaves_is_of_one_of_the_kinds(untouched):
    """So a new kind of record is added here, and so to what follows."""
    rest = [key.removeprefix(f"{EXPERIMENT}/") for key in untouched.list(f"{EXPERIMENT}/") if "/candidates/" not in key]
    assert sorted(rest) == sorted(KINDS)


@pytest.mark.parametrize("key", KINDS)
def test_a_record_comes_back_as_it_was_written(key, untouched):
    record = read_record(untouched, f"{EXPERIMENT}/{key}", KINDS[key])
    assert untouched.read_json(f"{EXPERIMENT}/{key}")[0] == record.as_json()


@pytest.mark.parametrize("change", ["added", "missing", "of another type"])
@pytest.mark.parametrize("key", KINDS)
def test_one_with_other_fields_is_refused_by_the_first_of_them(key, change, untouched, storage):
    value, _ = untouched.read_json(f"{EXPERIMENT}/{key}")
    name = sorted(value)[0]
    if change == "added":
        name = "of_a_later_version"
        value[name] = 1
    elif change == "missing":
        del value[name]
    else:
        value[name] = "x" if isinstance(value[name], list) else ["x"]
    storage.write_json(f"{EXPERIMENT}/{key}", value)
    with pytest.raises(ArtifactError) as caught:
        read_record(storage, f"{EXPERIMENT}/{key}", KINDS[key])
    told = str(caught.value)
    assert [
        word for word in (key, KINDS[key].__name__, name, "Fix: read it with the hrf that wrote it") if word not in told
    ] == []


@pytest.mark.parametrize("key", KINDS)
def test_one_without_a_digest_is_refused_as_one_of_another_version_would_be(key, untouched, storage, tmp_path):
    content, _ = untouched.read_bytes(f"{EXPERIMENT}/{key}")
    write_raw(storage, key, content.replace(b'"sha256": "', b'"sha255": "', 1), tmp_path)
    with pytest.raises(ArtifactError, match=rf"{key}: it has no sha256 of its own: .* was not written by this version"):
        read_record(storage, f"{EXPERIMENT}/{key}", KINDS[key])


@pytest.mark.parametrize(
    ("key", "fix"), [("runs/run-0/status.json", "delete it"), ("runs/run-0/run.json", "restore it")]
)
def test_a_damaged_one_says_what_to_do(key, fix, untouched, storage, tmp_path):
    content, _ = untouched.read_bytes(f"{EXPERIMENT}/{key}")
    write_raw(storage, key, content.replace(b"run-0", b"run-1", 1), tmp_path)
    with pytest.raises(ArtifactError, match=rf"{key}: it was changed or damaged.*Fix: {fix}"):
        read_record(storage, f"{EXPERIMENT}/{key}", KINDS[key])


def test_a_damaged_pointer_stops_everybody_until_the_last_promotion_is_copied_there(filled, tmp_path):
    """Kills: a damaged pointer taken for none, over which the next candidate would be number 1 again."""
    content, _ = filled.read_bytes(f"{EXPERIMENT}/promoted.json")
    write_raw(filled, "promoted.json", content.replace(b'"sequence": 1', b'"sequence": 7'), tmp_path)
    challenger = Run.make(tmp_path, 1, 0.2)
    for use in (lambda: read_pointer(filled, EXPERIMENT), lambda: challenger.put_forward(filled)):
        with pytest.raises(ArtifactError, match=r"Fix: copy the last record below .*/history/ to promoted\.json"):
            use()
    last, _ = filled.read_bytes(f"{EXPERIMENT}/history/000001.json")
    write_raw(filled, "promoted.json", last, tmp_path)
    assert challenger.put_forward(filled).outcome == "promoted"
    assert [promotion.sequence for promotion in history(filled, EXPERIMENT)] == [1, 2]


def test_an_incumbents_evaluation_is_only_taken_as_it_was_promoted(filled, tmp_path):
    """Kills: the rewards to beat read without a look at their digest."""
    key = f"candidates/{read_pointer(filled, EXPERIMENT).candidate_id}/evaluation.json"
    content, _ = filled.read_bytes(f"{EXPERIMENT}/{key}")
    write_raw(filled, key, content.replace(b"0.1", b"0.0", 1), tmp_path)
    with pytest.raises(ArtifactError, match=r"evaluation\.json: its sha256 is not the manifest's"):
        Run.make(tmp_path, 1, 0.2).put_forward(filled)
