"""The runs and promotions of an experiment, read from the bucket."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.made_up import evaluation_of
from hrf.errors import ArtifactError
from hrf.promotion.chain import read_chain
from hrf.promotion.protocol import Candidate, history, read_pointer
from hrf.promotion.records import Failure, Promotion, RunError, RunStart, RunSummary
from hrf.promotion.runs import RunRecords
from hrf.storage.objects import Storage
from hrf.storage.s3 import connect
from hrf_pipelines.cli.chain_view import chain_view
from hrf_pipelines.cli.main import app
from hrf_pipelines.local.object_storage import CONFIGURED_BY
from tests.hrf.candidates import EXPERIMENT, candidate_of, put_forward
from tests.hrf.run_ends import status_of
from tests.interrupted import Killed, before_every_request, before_request, dying_before

WIDTH = 100
MOST_PROMOTERS = 4


@pytest.fixture(scope="module")
def clients(embedded_s3):
    """S3 clients, one for each who takes part: making one takes a tenth of a second."""
    return [connect("s3://hrf", embedded_s3.environment()) for _ in range(2 + MOST_PROMOTERS)]


def records(storage: Storage, run_id: str) -> RunRecords:
    return RunRecords(storage=storage, experiment=EXPERIMENT, run_id=run_id)


def begin(storage: Storage, run_id: str, minute: int = 0, *, started_from: str | None = None, **changes: Any) -> None:
    """What a run's first task writes down."""
    about = {
        "run_id": run_id,
        "experiment": EXPERIMENT,
        "started_from": started_from,
        "started_from_sequence": None,
        "incumbent": None,
        "noise_tag": "",
        "code": "0",
        "created": f"2026-01-01T03:{minute:02d}:00Z",
        "config_digest": "c1",
        "preset": "avatars-smoke",
    }
    records(storage, run_id).begin(RunStart(**{**about, **changes}))


def finish(storage: Storage, run_id: str) -> None:
    """What a run's last step but one leaves: its summary."""
    parts = {name: {} for name in ("config", "versions", "totals")}
    summary = RunSummary(run={"run_id": run_id}, base=evaluation_of([0.0] * 4), epochs=[], promoted=None, **parts)
    records(storage, run_id).write_summary(summary)


def runs_of(chain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["run_id"]: run for run in chain["runs"]}


def lines_of(chain: dict[str, Any]) -> list[str]:
    """What a terminal of 100 columns shows."""
    console = Console(width=WIDTH, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(chain_view(chain), highlight=False)
    return [line.rstrip() for line in captured.get().splitlines()]


class TestRuns:
    def test_they_come_in_order_of_their_start_and_not_of_their_names(self, storage):
        for name, minute in (("b", 2), ("c", 0), ("a", 1)):
            begin(storage, name, minute)
        assert [run["run_id"] for run in read_chain(storage, EXPERIMENT)["runs"]] == ["c", "a", "b"]

    def test_what_a_run_started_from_is_told_by_its_number_in_the_chain(self, storage, tmp_path):
        begin(storage, "r1", 0)
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        put_forward(storage, candidate_of(tmp_path, "r1", 0.2, epoch=1))
        begin(storage, "r2", 1, started_from="r1/epoch-0001", started_from_sequence=2)
        begin(storage, "r3", 2, started_from="r1/epoch-0000")
        runs = runs_of(read_chain(storage, EXPERIMENT))
        assert [runs[name]["started_from_sequence"] for name in ("r1", "r2", "r3")] == [None, 2, 1]
        assert [runs[name]["start_known"] for name in ("r1", "r2", "r3")] == [True] * 3

    @pytest.mark.parametrize(
        ("status", "has_summary", "state"),
        [
            (None, False, "unfinished"),
            (None, True, "finished"),
            # What Kubeflow tells its exit handler, as recorded.
            ("COMPLETE", True, "finished"),
            ("COMPLETE", False, "finished"),
            ("FAILED", False, "failed"),
            ("RUNNING", False, "failed"),
            # The report of a failed attempt, after which the run was given again and went to its end.
            ("FAILED", True, "finished"),
        ],
    )
    def test_how_it_ended(self, storage, status, has_summary, state):
        begin(storage, "r1")
        if status:
            records(storage, "r1").write_status(
                status_of("r1", status, problem="a score is nan" if status == "FAILED" else "")
            )
        if has_summary:
            finish(storage, "r1")
        (run,) = read_chain(storage, EXPERIMENT)["runs"]
        assert run["state"] == state
        assert run["error"] == ("update, epoch 0: a score is nan" if (status, state) == ("FAILED", "failed") else None)

    def test_one_that_somebody_ended_is_terminated(self, storage):
        begin(storage, "r1")
        records(storage, "r1").write_status(status_of("r1", "RUNNING", outcome="terminated"))
        assert read_chain(storage, EXPERIMENT)["runs"][0]["state"] == "terminated"

    def test_a_failed_run_shows_what_the_failing_step_said(self, storage):
        begin(storage, "r1")
        for step, epoch, minute in (("score", 0, 10), ("evaluate", 1, 20)):
            told = {"step": step, "epoch": epoch, "error_type": "NumericalError", "message": "a score is nan"}
            failure = Failure(**told, exit_code=5, traceback="long", time=1.8e9 + minute)
            records(storage, "r1").add_failure(failure)
        records(storage, "r1").write_status(status_of("r1", error=RunError(code=1, message="task failed")))
        chain = read_chain(storage, EXPERIMENT)
        assert [failure["epoch"] for failure in chain["runs"][0]["failures"]] == [0, 1]
        assert "└── NumericalError in evaluate, epoch 1: a score is nan" in lines_of(chain)

    def test_those_whose_start_is_gone_come_in_order_of_their_verdicts(self, storage, tmp_path):
        put_forward(storage, candidate_of(tmp_path, "b", 0.1))
        put_forward(storage, candidate_of(tmp_path, "a", 0.2))
        chain = read_chain(storage, EXPERIMENT)
        assert [run["run_id"] for run in chain["runs"]] == ["b", "a"]
        assert [run["start_known"] for run in chain["runs"]] == [False, False]
        assert "b  unfinished  start not on record" in lines_of(chain)

    def test_an_experiment_without_runs_is_an_empty_chain(self, storage):
        chain = read_chain(storage, EXPERIMENT)
        assert (chain["runs"], chain["promotions"], chain["base"]) == ([], [], None)

    def test_other_experiments_are_left_out(self, storage, tmp_path):
        storage.create_json("avatars-2/runs/other/run.json", {"run_id": "other"})
        begin(storage, "r1")
        assert list(runs_of(read_chain(storage, EXPERIMENT))) == ["r1"]


class TestCandidates:
    def test_each_has_its_outcome_with_the_incumbent_that_it_met(self, storage, tmp_path):
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        put_forward(storage, candidate_of(tmp_path, "r2", 0.05))
        put_forward(storage, candidate_of(tmp_path, "r2", 0.2, epoch=1, digest="e2"), comparable=False)
        put_forward(storage, candidate_of(tmp_path, "r2", 0.3, epoch=2, tripped=True))
        runs = runs_of(read_chain(storage, EXPERIMENT))
        (first,), (worse, otherwise, tripped) = runs["r1"]["candidates"], runs["r2"]["candidates"]
        assert (first["outcome"], first["sequence"], first["incumbent_id"]) == ("promoted", 1, None)
        assert first["reward_vs_incumbent"]["value"] == pytest.approx(0.1)
        assert (worse["outcome"], worse["incumbent_id"]) == ("rejected", "r1/epoch-0000")
        assert worse["failed_checks"] == ["reward"]
        assert (otherwise["outcome"], otherwise["reward_vs_incumbent"]) == ("lost", None)
        assert tripped["failed_checks"] == ["monitors"]

    def test_one_that_lost_the_race_shows_whom_it_was_judged_against_before(self, storage, tmp_path):
        first, rival, challenger = (
            candidate_of(tmp_path, name, gain) for name, gain in (("r1", 0.1), ("r2", 0.2), ("r3", 0.3))
        )
        put_forward(storage, first)
        chain = race(storage, challenger, rival)
        (candidate,) = runs_of(chain)["r3"]["candidates"]
        assert (candidate["outcome"], candidate["sequence"], candidate["attempts"]) == ("promoted", 3, 2)
        assert [verdict["incumbent_id"] for verdict in candidate["verdicts"]] == ["r1/epoch-0000", "r2/epoch-0000"]
        assert any(line.endswith("over #2; judged before against #1") for line in lines_of(chain))

    def test_one_whose_step_died_is_undecided(self, storage, tmp_path):
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        candidate = candidate_of(tmp_path, "r2", -0.1)
        seen = set()
        for number in itertools.count(1):
            try:
                with dying_before(storage, number):
                    put_forward(storage, candidate)
                break
            except Killed:
                found = runs_of(read_chain(storage, EXPERIMENT)).get("r2")
                seen.add((found["candidates"][0]["outcome"], found["candidates"][0]["attempts"]) if found else None)
        assert seen == {None, ("undecided", 0), ("undecided", 1)}
        assert runs_of(read_chain(storage, EXPERIMENT))["r2"]["candidates"][0]["outcome"] == "rejected"

    def test_a_promotion_whose_promoter_died_right_after_it_is_on_the_chain(self, storage, tmp_path):
        other = Storage.open(storage.uri)

        def die(_: object) -> None:
            if read_pointer(other, EXPERIMENT) is not None:
                raise Killed

        with before_every_request(storage, die), pytest.raises(Killed):
            put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        assert storage.list(f"{EXPERIMENT}/decisions/") == []
        chain = read_chain(storage, EXPERIMENT)
        assert chain["runs"][0]["candidates"][0]["outcome"] == "promoted"
        assert [link["candidate_id"] for link in chain["promotions"]] == ["r1/epoch-0000"]

    @pytest.mark.e2e
    def test_a_promotion_in_the_midst_of_reading_is_shown_whole_or_not_at_all(self, clients, tmp_path):
        first, second = candidate_of(tmp_path, "r1", 0.1), candidate_of(tmp_path, "r2", 0.2)
        shown, number, outcomes = [], 0, ["none yet"]
        while outcomes:
            number += 1
            prefix = uuid.uuid4().hex
            fresh, reader = (Storage("hrf", prefix, client) for client in clients[:2])
            put_forward(fresh, first)
            outcomes = []

            def let_pass(_: object, storage: Storage = fresh, into: list[str] = outcomes) -> None:
                into.append(put_forward(storage, second).outcome)

            with before_request(reader, number, let_pass):
                chain = read_chain(reader, EXPERIMENT)
            shown.append(len(chain["promotions"]))
            check_chain(chain, history(fresh, EXPERIMENT)[: shown[-1]])
        assert set(shown[:-1]) == {1, 2}
        assert number > 10

    def test_a_promotion_that_is_missing_on_the_chain_is_an_error(self, storage, tmp_path):
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        for key in ("promoted.json", "history/000001.json"):
            storage._client.delete_object(Bucket="hrf", Key=storage._full(f"{EXPERIMENT}/{key}"))
        with pytest.raises(ArtifactError, match=r"history/000001\.json: it does not tell of .* r1/epoch-0000"):
            read_chain(storage, EXPERIMENT)


def race(storage: Storage, challenger: Candidate, rival: Candidate) -> dict[str, Any]:
    """Let a rival be promoted between the challenger's verdict and its promotion; returns the chain after both."""
    other = Storage.open(storage.uri)
    judged = f"{EXPERIMENT}/attempts/{challenger.candidate_id}/001.json"
    outcomes: list[str] = []

    def overtake(_: object) -> None:
        if not outcomes and other.read_json(judged) is not None:
            outcomes.append(put_forward(other, rival).outcome)

    with before_every_request(storage, overtake):
        put_forward(storage, challenger)
    assert outcomes == ["promoted"]
    return read_chain(storage, EXPERIMENT)


class Promoter(threading.Thread):
    """One that puts a candidate forward, a request at a time, each when it is its turn."""

    def __init__(self, storage: Storage, candidate: Candidate) -> None:
        super().__init__(daemon=True)
        self.candidate, self.outcome, self._storage = candidate, "", storage
        self._dies, self._turn, self._waits = False, threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._waits.acquire()

    def run(self) -> None:
        try:
            with before_every_request(self._storage, self._wait):
                self.outcome = put_forward(self._storage, self.candidate).outcome
        except Killed:
            self.outcome = "died"
        finally:
            self._waits.release()

    def take_turn(self, *, dies: bool = False) -> None:
        """Send the next request, or die right before it; returns when the one after it is due."""
        if not self.outcome:
            self._dies = dies
            self._turn.release()
            self._waits.acquire()

    def _wait(self, _: object) -> None:
        self._waits.release()
        self._turn.acquire()
        if self._dies:
            raise Killed


CANDIDATES = st.lists(
    st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.sampled_from([-0.1, 0.1, 0.2, 0.3]), st.sampled_from("1112")),
    min_size=2,
    max_size=MOST_PROMOTERS,
)
WHO = st.integers(0, MOST_PROMOTERS - 1)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("turns"), WHO, st.integers(1, 20)),
        st.tuples(st.just("dies"), WHO, st.just(1)),
        st.tuples(st.just("read"), WHO, st.integers(0, 12)),
    ),
    max_size=16,
)


class Interleaving:
    """Promoters of one experiment, who take turns."""

    def __init__(self, clients: list[Any], folder: Path, drawn: list[tuple[str, float, str]]) -> None:
        prefix = uuid.uuid4().hex
        self.storage, self._reader, *self._storages = (Storage("hrf", prefix, client) for client in clients)
        self.candidates = [
            candidate_of(folder, run_id, gain, epoch=number, digest=digest)
            for number, (run_id, gain, digest) in enumerate(drawn)
        ]
        for candidate in self.candidates:
            begin(self.storage, candidate.run_id)
        self.promoters = [Promoter(*pair) for pair in zip(self._storages, self.candidates, strict=False)]

    def turns(self, who: int, number: int = 1, *, dies: bool = False) -> None:
        """Let one take turns; whoever died before is replaced by one who does it all again."""
        who %= len(self.promoters)
        if self.promoters[who].outcome == "died":
            self.promoters[who] = Promoter(self._storages[who], self.candidates[who])
        for _ in range(number):
            self.promoters[who].take_turn(dies=dies)

    def read(self, who: int, number: int) -> None:
        """Read the chain while one takes turns, and hold it to the histories before and after."""
        before = history(self.storage, EXPERIMENT)
        with before_request(self._reader, number + 1, lambda _: self.turns(who, number)):
            chain = read_chain(self._reader, EXPERIMENT)
        after = history(self.storage, EXPERIMENT)
        assert len(before) <= len(chain["promotions"])
        check_chain(chain, after[: len(chain["promotions"])])

    def finish(self) -> None:
        """Let all come to their end."""
        while any(promoter.outcome in ("", "died") for promoter in self.promoters):
            for who in range(len(self.promoters)):
                self.turns(who)


def check_chain(chain: dict[str, Any], promotions: list[Promotion]) -> None:
    """It is the history, and its runs tell the same."""
    assert chain["promotions"] == [
        {name: value for name, value in record.as_json().items() if name != "decision"} for record in promotions
    ]
    candidates = [candidate for run in chain["runs"] for candidate in run["candidates"]]
    promoted = sorted((each for each in candidates if each["outcome"] == "promoted"), key=lambda each: each["sequence"])
    assert [each["candidate_id"] for each in promoted] == [record.candidate_id for record in promotions]
    ids = [record.candidate_id for record in promotions]
    assert [each["incumbent_id"] for each in promoted] == [None, *ids][: len(promoted)]
    for each in candidates:
        if each["outcome"] != "undecided" and each["verdicts"]:
            assert len(each["verdicts"]) == each["attempts"]
            assert each["verdicts"][-1]["incumbent_id"] == each["incumbent_id"]
        met = [verdict["incumbent_id"] for verdict in each["verdicts"] if verdict["incumbent_id"]]
        assert met == sorted(set(met), key=ids.index), "a candidate meets later and later incumbents"


@pytest.mark.e2e
@settings(max_examples=15)
@given(drawn=CANDIDATES, actions=ACTIONS)
def test_it_is_the_history_whatever_order_promoters_and_readers_come_in(clients, drawn, actions):
    with tempfile.TemporaryDirectory() as folder:
        scene = Interleaving(clients, Path(folder), drawn)
        for action, who, number in actions:
            if action == "read":
                scene.read(who, number)
            else:
                scene.turns(who, number, dies=action == "dies")
        scene.finish()
        chain = read_chain(scene.storage, EXPERIMENT)
        check_chain(chain, history(scene.storage, EXPERIMENT))
        outcomes = {each["candidate_id"]: each["outcome"] for run in chain["runs"] for each in run["candidates"]}
        assert outcomes == {each.candidate.candidate_id: each.outcome for each in scene.promoters}


class TestCommand:
    @pytest.fixture
    def hrf(self, storage_uri, monkeypatch):
        monkeypatch.setenv("COLUMNS", str(WIDTH))
        return lambda *arguments: CliRunner().invoke(app, ["runs", "chain", *arguments, "--bucket", storage_uri])

    def test_it_shows_each_run_with_its_start_and_outcomes_and_the_chain_back_to_the_base(self, hrf, storage, tmp_path):
        begin(storage, "20260101-030000-aaaaaa", 0)
        put_forward(storage, candidate_of(tmp_path, "20260101-030000-aaaaaa", 0.1))
        finish(storage, "20260101-030000-aaaaaa")
        begin(storage, "nightly-20260102030000", 5, started_from="20260101-030000-aaaaaa/epoch-0000")
        put_forward(storage, candidate_of(tmp_path, "nightly-20260102030000", 0.05, epoch=1))
        put_forward(storage, candidate_of(tmp_path, "nightly-20260102030000", 0.2, epoch=2))
        result = hrf("--experiment", EXPERIMENT)
        assert result.exit_code == 0, result.output
        shown = [line.rstrip() for line in result.output.splitlines()]
        assert max(map(len, shown)) <= WIDTH
        time = read_chain(storage, EXPERIMENT)["promotions"][0]["time"][:16].replace("T", " ")
        told = (
            "Experiment avatars: 2 runs of avatars-smoke, 2 promotions. Oldest first, times in UTC.",
            "20260101-030000-aaaaaa  finished  from the base  2026-01-01 03:00",
            "└── epoch 0   promoted #1   +0.100 [+0.096, +0.104] over the base",
            "    └── verdict 1, each test at level 0.015; diversity 0.980 [0.950, 1.010]",
            "nightly-20260102030000  unfinished  from #1  2026-01-01 03:05",
            "└── epoch 2   promoted #2   +0.100 [+0.095, +0.105] over #1",
            "    └── verdict 2, each test at level 0.015; diversity 0.980 [0.950, 1.010]",
            f"#1    20260101-030000-aaaaaa/epoch-0000  {time}",
            "      the base",
        )
        assert [line for line in told if line not in shown] == [], result.output
        assert any("rejected      -0.050" in line and line.endswith("against #1: reward") for line in shown)

    def test_as_json_it_is_what_was_read(self, hrf, storage, tmp_path):
        begin(storage, "r1")
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        result = hrf("--experiment", EXPERIMENT, "--json")
        assert json.loads(result.output) == read_chain(storage, EXPERIMENT)

    def test_an_experiment_without_runs_names_those_that_have_some(self, hrf, storage):
        begin(storage, "r1")
        assert f"There are runs of: {EXPERIMENT}" in hrf("--experiment", "other").output

    def test_long_names_and_messages_stay_within_the_terminal(self, storage):
        name = "11111111-2222-3333-4444-555555555555"
        begin(storage, name, preset="avatars-compressibility")
        begin(storage, "r2", 1, preset="avatars-incompressibility")
        problem = "s3://bucket/" + "long/" * 40 + "[/] is gone. Fix: restore it"
        records(storage, name).write_status(status_of(name, problem=problem))
        shown = lines_of(read_chain(storage, EXPERIMENT))
        assert max(map(len, shown)) <= WIDTH
        assert "[/] is gone" in " ".join(shown)


def test_without_any_storage_none_is_started_to_find_nothing(tmp_path, monkeypatch):
    for name in (*CONFIGURED_BY, "HRF_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(app, ["runs", "chain", "--work-dir", str(tmp_path / "work")])
    assert (result.exit_code, (tmp_path / "work").exists()) == (0, False)
    assert "No runs of experiment 'default'" in result.output
    as_json = CliRunner().invoke(app, ["runs", "chain", "--json", "--work-dir", str(tmp_path / "work")])
    assert json.loads(as_json.output)["runs"] == []
