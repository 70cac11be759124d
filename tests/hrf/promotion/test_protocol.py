"""The gate, and the promoted pointer under races, kills and lost answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hrf.core.spending import level
from hrf.errors import ArtifactError
from hrf.evaluation.record import EvaluationRecord
from hrf.promotion.protocol import Candidate, decide, fetch_incumbent, history, promote, read_pointer
from hrf.promotion.records import DecisionRecord, Promotion, VerdictNumber
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.objects import Storage
from hrf.storage.records import read_record
from tests.hrf.candidates import (
    BASE_REWARDS,
    ERROR,
    EXPERIMENT,
    NUM_RACERS,
    NUM_SEEDS,
    TRIPPED_RACERS,
    candidate_of,
    evaluation_of,
    put_forward,
    racing_candidate,
)
from tests.interrupted import Killed, before_request, dying_before, losing_the_answer_of


def assert_sound(storage: Storage, candidates: list[Candidate]) -> None:
    """One unbroken history that ends at the pointer; one final decision per candidate, which agrees with it."""
    records = history(storage, EXPERIMENT)
    promoted = [record.candidate_id for record in records]
    assert len(set(promoted)) == len(promoted), "a candidate was promoted twice"
    assert read_pointer(storage, EXPERIMENT) == (records[-1] if records else None)
    assert storage.list(f"{EXPERIMENT}/history/") == [
        f"{EXPERIMENT}/history/{number:06d}.json" for number in range(1, len(records) + 1)
    ]
    for candidate in candidates:
        decision = read_record(storage, f"{EXPERIMENT}/decisions/{candidate.candidate_id}.json", DecisionRecord)
        assert (decision.outcome == "promoted") == (candidate.candidate_id in promoted)
    numbers = verdict_numbers(storage)
    assert [number.number for number in numbers] == list(range(1, len(numbers) + 1))
    taken = {record.decision.number: record.candidate_id for record in records}
    assert all(numbers[number - 1].candidate_id == candidate_id for number, candidate_id in taken.items())
    assert sum(number.level for number in numbers if number.number not in taken) <= ERROR
    rewards = {candidate.candidate_id: candidate.evaluation.rewards for candidate in candidates}
    bars = [BASE_REWARDS, *(rewards[candidate_id] for candidate_id in promoted)]
    for record, bar in zip(records, bars, strict=False):
        gains = np.subtract(rewards[record.candidate_id], bar)
        assert record.decision.reward_vs_incumbent.value == pytest.approx(gains.mean())
        assert record.decision.reward_vs_incumbent.low > 0


def verdict_numbers(storage: Storage) -> list[VerdictNumber]:
    return [read_record(storage, key, VerdictNumber) for key in storage.list(f"{EXPERIMENT}/verdicts/")]


class TestGate:
    def decide(self, evaluation: EvaluationRecord, incumbent: Any = BASE_REWARDS) -> Any:
        return decide(evaluation, incumbent_rewards=list(incumbent), diversity_floor=0.9, confidence=0.95)

    def test_a_better_reward_with_kept_diversity_is_promoted(self):
        decision = self.decide(evaluation_of(0.1))
        assert decision.outcome == "promoted"
        assert [check.passed for check in decision.checks] == [True, True, True]

    @pytest.mark.parametrize(
        ("evaluation", "failed"),
        [
            (evaluation_of(0.0), "reward"),
            (evaluation_of(-0.1), "reward"),
            (evaluation_of(0.1, ratio_low=0.9), "diversity"),
            (evaluation_of(0.1, ratio_low=0.899), "diversity"),
            (evaluation_of(0.1, tripped=True), "monitors"),
        ],
    )
    def test_each_condition_alone_rejects_and_is_the_reason(self, evaluation, failed):
        decision = self.decide(evaluation)
        assert decision.outcome == "rejected"
        assert [check.name for check in decision.checks if not check.passed] == [failed]
        assert decision.reasons == [check.detail for check in decision.checks if not check.passed]

    def test_the_interval_is_the_paired_t_test(self):
        """Kills: unpaired differences, the normal quantile for Student's, a one-sided confidence, swapped operands."""
        incumbent = np.random.default_rng(3).normal(-1.3, 0.1, NUM_SEEDS)
        rewards = incumbent + np.random.default_rng(4).normal(0.02, 0.05, NUM_SEEDS)
        expected = stats.ttest_rel(rewards, incumbent).confidence_interval(0.95)
        evaluation = evaluation_of(0.0).model_copy(update={"rewards": rewards.tolist()})
        difference = self.decide(evaluation, incumbent).reward_vs_incumbent
        assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))

    @given(gain=st.floats(-0.2, 0.2), ratio_low=st.floats(0.5, 1.5), tripped=st.booleans())
    def test_it_promotes_exactly_if_all_three_conditions_hold(self, gain, ratio_low, tripped):
        evaluation = evaluation_of(gain, ratio_low=ratio_low, tripped=tripped)
        better = stats.ttest_rel(evaluation.rewards, BASE_REWARDS).confidence_interval(0.95).low > 0
        assert (self.decide(evaluation).outcome == "promoted") == (better and ratio_low > 0.9 and not tripped)

    def test_numbers_that_are_not_finite_never_reach_it(self):
        broken = evaluation_of(0.1).as_json()
        broken["rewards"][3] = float("nan")
        with pytest.raises(ArtifactError, match=r"rewards\.3: Input should be a finite number"):
            EvaluationRecord.parse(broken, "evaluation.json")
        with pytest.raises(ValueError, match="finite number"):
            evaluation_of(0.1, ratio_low=float("nan"))
        with pytest.raises(ValueError, match="expected finite values"):
            self.decide(evaluation_of(0.1), [float("nan"), *BASE_REWARDS[1:]])

    def test_rewards_of_other_seeds_are_refused(self):
        with pytest.raises(ValueError, match="same seeds"):
            self.decide(evaluation_of(0.1), BASE_REWARDS[:-1])

    def test_the_record_is_json_with_every_number(self):
        record = self.decide(evaluation_of(0.1, tripped=True)).as_json()
        assert json.loads(json.dumps(record)) == record
        assert record["monitors_tripped"] == ["edge_density"]
        assert record["diversity_floor"] == pytest.approx(0.9)
        assert record["diversity_ratio"] == {"value": 0.98, "low": 0.95, "high": 1.01}


def test_the_first_good_candidate_becomes_the_incumbent_and_can_be_fetched(storage, tmp_path):
    candidate = candidate_of(tmp_path, "r1", 0.1)
    assert read_pointer(storage, EXPERIMENT) is None
    decision = put_forward(storage, candidate)
    assert (decision.outcome, decision.sequence, decision.attempts) == ("promoted", 1, 1)
    assert decision.incumbent_id is None
    pointer = read_pointer(storage, EXPERIMENT)
    assert pointer.decision == decision
    folder = read_folder(fetch_incumbent(storage, pointer, tmp_path / "incumbent"))
    assert (folder / "weights.bin").read_text() == "r1 0.1"
    assert_sound(storage, [candidate])


def test_a_rejected_candidate_is_recorded_and_kept_and_moves_nothing(storage, tmp_path):
    candidate = candidate_of(tmp_path, "r1", -0.1)
    assert put_forward(storage, candidate).outcome == "rejected"
    assert storage.read_manifest(f"{EXPERIMENT}/candidates/{candidate.candidate_id}") is not None
    assert_sound(storage, [candidate])


def test_a_later_candidate_has_to_beat_the_incumbent_and_not_the_base(storage, tmp_path):
    first, worse, better = (
        candidate_of(tmp_path, name, gain, epoch=epoch)
        for epoch, (name, gain) in enumerate([("r1", 0.1), ("r2", 0.05), ("r3", 0.15)])
    )
    outcomes = [put_forward(storage, candidate).outcome for candidate in (first, worse, better)]
    assert outcomes == ["promoted", "rejected", "promoted"]
    assert [record.previous for record in history(storage, EXPERIMENT)] == [None, first.candidate_id]
    assert_sound(storage, [first, worse, better])


def test_running_again_returns_the_same_record(storage, tmp_path):
    candidates = [candidate_of(tmp_path, "r1", 0.1), candidate_of(tmp_path, "r2", 0.05)]
    decisions = [put_forward(storage, candidate) for candidate in candidates]
    put_forward(storage, candidate_of(tmp_path, "r3", 0.3))
    assert [put_forward(storage, candidate) for candidate in candidates] == decisions


def test_an_incumbent_evaluated_otherwise_is_left_to_the_verdict_where_it_can_be_measured(storage, tmp_path):
    incumbent = candidate_of(tmp_path, "r1", 0.1, digest="other settings")
    put_forward(storage, incumbent)
    lost = put_forward(storage, candidate_of(tmp_path, "r2", 0.2), comparable=False)
    assert (lost.outcome, lost.reward_vs_incumbent, lost.sequence) == ("lost", None, None)
    assert "samples otherwise" in lost.reasons[0]
    assert [number.number for number in verdict_numbers(storage)] == [1]
    rejected = put_forward(storage, candidate_of(tmp_path, "r3", 0.05))
    assert (rejected.outcome, rejected.number) == ("rejected", 2)
    assert put_forward(storage, candidate_of(tmp_path, "r4", 0.2)).outcome == "promoted"


class TestVerdicts:
    @pytest.mark.parametrize("fault", [{"gain": -0.1}, {"gain": 0.1, "ratio_low": 0.9}, {"gain": 0.1, "tripped": True}])
    def test_what_does_not_pass_on_the_fixed_seeds_is_rejected_at_once_and_takes_no_number(
        self, storage, tmp_path, fault
    ):
        """Kills: a verdict on every candidate; a selection that looks at one of the three alone."""
        decision = put_forward(storage, candidate_of(tmp_path, "r1", **fault), verdict=evaluation_of(0.1))
        assert (decision.outcome, decision.number, decision.level) == ("rejected", None, None)
        assert verdict_numbers(storage) == []

    @pytest.mark.parametrize(
        ("fresh", "failed"),
        [
            (evaluation_of(0.0), "reward"),
            (evaluation_of(0.1, ratio_low=0.9), "diversity"),
            (evaluation_of(0.1, tripped=True), "monitors"),
        ],
    )
    def test_luck_on_the_fixed_seeds_promotes_nothing(self, storage, tmp_path, fresh, failed):
        """Kills: selection seeds used for the verdict."""
        decision = put_forward(storage, candidate_of(tmp_path, "r1", 0.1), verdict=fresh)
        assert (decision.outcome, decision.number) == ("rejected", 1)
        assert [check.name for check in decision.checks if not check.passed] == [failed]
        assert read_pointer(storage, EXPERIMENT) is None

    def test_diversity_has_two_tests_at_the_level(self, storage, tmp_path):
        """Kills: the p-value left out, or held against another level."""
        own = level(ERROR, 0)
        unsure = put_forward(storage, candidate_of(tmp_path, "r1", 0.1), diversity_p_value=own * 1.01)
        assert [check.name for check in unsure.checks if not check.passed] == ["diversity"]
        sure = put_forward(storage, candidate_of(tmp_path, "r2", 0.1), diversity_p_value=level(ERROR, 1) * 0.99)
        assert (sure.outcome, sure.level) == ("promoted", level(ERROR, 1))

    def test_each_has_the_next_number_and_a_promotion_gives_its_level_back(self, storage, tmp_path):
        """Kills: a level by the number alone; one that all share; a test at half the level, or at twice it."""
        lucky = evaluation_of(0.0)
        decisions = [
            put_forward(storage, candidate_of(tmp_path, f"r{number}", gain), verdict=fresh)
            for number, (gain, fresh) in enumerate(
                [(0.1, lucky), (0.1, None), (0.05, lucky), (0.2, None), (0.3, lucky), (0.3, None)]
            )
        ]
        assert [decision.number for decision in decisions] == [1, 2, None, 3, 4, 5]
        spent = [0, 1, 1, 1, 2]
        assert [number.num_spent for number in verdict_numbers(storage)] == spent
        assert [decision.level for decision in decisions if decision.level] == [level(ERROR, count) for count in spent]
        expected = stats.ttest_rel(evaluation_of(0.1).rewards, BASE_REWARDS, alternative="greater")
        low = expected.confidence_interval(1.0 - decisions[1].level).low
        assert decisions[1].reward_vs_incumbent.low == pytest.approx(low)

    def test_a_study_decides_on_the_fixed_seeds_and_takes_no_number(self, storage, tmp_path):
        candidate = candidate_of(tmp_path, "r1", 0.1)
        settings = {"base_rewards": BASE_REWARDS, "known_incumbents": {}, "diversity_floor": 0.9, "confidence": 0.95}
        decision = promote(storage, EXPERIMENT, candidate, **settings, fresh_seeds=None)
        assert (decision.outcome, decision.number) == ("promoted", None)
        assert (
            decision.reward_vs_incumbent
            == decide(
                candidate.evaluation, incumbent_rewards=BASE_REWARDS, diversity_floor=0.9, confidence=0.95
            ).reward_vs_incumbent
        )

    def test_records_from_before_are_read(self, storage, tmp_path):
        """Kills: a new field without a default."""
        put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
        pointer = read_pointer(storage, EXPERIMENT).as_json()
        del pointer["num_by_verdict"]
        for name in ("number", "level", "reward_vs_base", "diversity_p_value"):
            del pointer["decision"][name]
        assert Promotion.parse(pointer, "promoted.json").decision.number is None


def test_a_run_id_used_twice_is_refused_and_overwrites_nothing(storage, tmp_path):
    candidate = candidate_of(tmp_path / "a", "r1", 0.1)
    with dying_before(storage, 8), pytest.raises(Killed):
        put_forward(storage, candidate)
    with pytest.raises(ArtifactError, match="run ids must not be used twice"):
        put_forward(storage, candidate_of(tmp_path / "b", "r1", 0.2))
    assert put_forward(storage, candidate).outcome == "promoted"
    with pytest.raises(ArtifactError, match="run ids must not be used twice"):
        put_forward(storage, candidate_of(tmp_path / "b", "r1", 0.2))


def test_a_deleted_pointer_is_not_taken_for_a_new_experiment(storage, tmp_path):
    put_forward(storage, candidate_of(tmp_path, "r1", 0.1))
    prefix = storage.uri.removeprefix("s3://hrf/")
    storage._client.delete_object(Bucket="hrf", Key=f"{prefix}/{EXPERIMENT}/promoted.json")
    with pytest.raises(ArtifactError, match=r"000001\.json, to promoted\.json"):
        put_forward(storage, candidate_of(tmp_path, "r2", 0.2))


def test_a_broken_history_is_refused(storage, tmp_path):
    for number, gain in enumerate((0.1, 0.2, 0.3)):
        put_forward(storage, candidate_of(tmp_path, f"r{number}", gain))
    prefix = storage.uri.removeprefix("s3://hrf/")
    storage._client.delete_object(Bucket="hrf", Key=f"{prefix}/{EXPERIMENT}/history/000002.json")
    with pytest.raises(ArtifactError, match="no unbroken chain"):
        history(storage, EXPERIMENT)


def test_a_swapped_policy_is_not_fetched_as_the_promoted_one(storage, tmp_path):
    candidate = candidate_of(tmp_path, "r1", 0.1)
    put_forward(storage, candidate)
    other = candidate_of(tmp_path / "other", "r1", 0.3)
    storage.upload_folder(other.folder, f"{EXPERIMENT}/candidates/{candidate.candidate_id}", replace=True)
    with pytest.raises(ArtifactError, match="not what was decided on"):
        fetch_incumbent(storage, read_pointer(storage, EXPERIMENT), tmp_path / "incumbent")


def test_a_candidate_without_its_evaluation_is_refused(storage, tmp_path):
    candidate = candidate_of(tmp_path, "r1", 0.1)
    with writing_folder(candidate.folder, producer={"step": "promote"}) as folder:
        (folder / "weights.bin").write_text("r1")
    with pytest.raises(ArtifactError, match=r"evaluation\.json: a candidate's folder needs it"):
        put_forward(storage, candidate)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Candidates of three runs, and as many experiments as wanted in which the first of them is the incumbent."""

    storage: Storage
    first: Candidate
    challenger: Candidate
    rival: Candidate

    def fresh(self, case: object) -> Storage:
        bucket, _, prefix = self.storage.uri.removeprefix("s3://").partition("/")
        storage = Storage(bucket, f"{prefix}/{case}", self.storage._client)
        put_forward(storage, self.first)
        return storage


@pytest.fixture
def set_scene(storage: Storage, tmp_path: Path) -> Callable[[float, float], Scene]:
    def build(challenger_gain: float, rival_gain: float) -> Scene:
        first, challenger, rival = (
            candidate_of(tmp_path, name, gain, epoch=epoch)
            for epoch, (name, gain) in enumerate(
                [("first", 0.1), ("challenger", challenger_gain), ("rival", rival_gain)]
            )
        )
        return Scene(storage=storage, first=first, challenger=challenger, rival=rival)

    return build


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("gain", "with_rival"),
    [(0.2, False), (0.2, True), (0.0, False)],
    ids=["promoted", "rival promoted meanwhile", "rejected"],
)
def test_killed_before_any_request_and_run_again_it_ends_the_same(set_scene, gain, with_rival):
    scene = set_scene(gain, 0.3)
    number, died = 0, True
    while died:
        number += 1
        storage = scene.fresh(number)
        try:
            with dying_before(storage, number):
                put_forward(storage, scene.challenger)
            died = False
        except Killed:
            pass
        took_effect = read_pointer(storage, EXPERIMENT).candidate_id == scene.challenger.candidate_id
        if with_rival:
            put_forward(storage, scene.rival)
        decision = put_forward(storage, scene.challenger)
        assert (decision.outcome == "promoted") == (gain > 0 and (took_effect or not with_rival))
        # The one that was taken when it died may be lost.
        assert len(verdict_numbers(storage)) <= 1 + (gain > 0) * (2 + 2 * with_rival)
        assert put_forward(storage, scene.challenger) == decision
        assert_sound(storage, [scene.first, scene.challenger] + [scene.rival] * with_rival)
    assert number > 10


@pytest.mark.e2e
@pytest.mark.parametrize("rival_gain", [0.15, 0.3], ids=["weaker rival", "stronger rival"])
def test_a_rival_promoted_before_any_request_is_reckoned_with(set_scene, rival_gain):
    """The race, played through: at each request of the challenger a rival is promoted from start to end."""
    scene = set_scene(0.2, rival_gain)
    outcomes: set[tuple[object, ...]] = set()
    number, rival_outcomes = 0, ["none yet"]
    while rival_outcomes:
        number += 1
        storage, rival_outcomes = scene.fresh(number), []

        def let_rival_pass(request: object, storage: Storage = storage, into: list[str] = rival_outcomes) -> None:
            into.append(put_forward(storage, scene.rival).outcome)

        with before_request(storage, number, let_rival_pass):
            decision = put_forward(storage, scene.challenger)
        assert_sound(storage, [scene.first, scene.challenger] + [scene.rival] * bool(rival_outcomes))
        outcomes.add((decision.outcome, decision.attempts, *rival_outcomes))
    assert (("promoted" if rival_gain < 0.2 else "rejected"), 2, "promoted") in outcomes
    assert ("promoted", 1) in outcomes


@pytest.mark.e2e
def test_the_same_candidate_put_forward_twice_at_once_is_decided_once(set_scene):
    """A retried step beside its undead predecessor, with a promotion of another run in between."""
    scene = set_scene(0.2, 0.3)
    number, others = 0, [{}]
    while others:
        number += 1
        storage, others = scene.fresh(number), []

        def repeat(request: object, storage: Storage = storage, into: list[dict[str, Any]] = others) -> None:
            into.append(put_forward(storage, scene.challenger))
            put_forward(storage, scene.rival)

        with before_request(storage, number, repeat):
            decision = put_forward(storage, scene.challenger)
        assert all(other == decision for other in others)
        assert_sound(storage, [scene.first, scene.challenger] + [scene.rival] * bool(others))


@pytest.mark.e2e
def test_two_that_judge_one_candidate_against_different_incumbents_agree(set_scene):
    """One of them saw an incumbent that beats the candidate, the other its successor, which does not."""
    scene = set_scene(0.2, 0.3)
    known = {
        scene.first.candidate_id: [reward + 0.5 for reward in BASE_REWARDS],
        scene.rival.candidate_id: [reward + 0.1 for reward in BASE_REWARDS],
    }
    outcomes = set()
    number, others = 0, [{}]
    while others:
        number += 1
        storage, others = scene.fresh(number), []

        def overtake(request: object, storage: Storage = storage, into: list[dict[str, Any]] = others) -> None:
            put_forward(storage, scene.rival)
            into.append(put_forward(storage, scene.challenger, known))

        with before_request(storage, number, overtake):
            decision = put_forward(storage, scene.challenger, known)
        assert all(other == decision for other in others)
        key = f"{EXPERIMENT}/decisions/{scene.challenger.candidate_id}.json"
        assert read_record(storage, key, DecisionRecord) == decision
        promoted = [record.candidate_id for record in history(storage, EXPERIMENT)]
        assert (scene.challenger.candidate_id in promoted) == (decision.outcome == "promoted")
        outcomes.add((decision.outcome, decision.incumbent_id))
    assert outcomes == {("rejected", scene.first.candidate_id), ("promoted", scene.rival.candidate_id)}


@pytest.mark.e2e
def test_any_lost_answer_changes_nothing(set_scene):
    scene = set_scene(0.2, 0.3)
    number, lost = 0, [True]
    while lost:
        number += 1
        storage, lost = scene.fresh(number), []
        with losing_the_answer_of(storage, number), before_request(storage, number, lost.append):
            decision = put_forward(storage, scene.challenger)
        assert (decision.outcome, decision.attempts) == ("promoted", 1)
        assert_sound(storage, [scene.first, scene.challenger])


@pytest.mark.e2e
def test_16_processes_promoting_at_once_give_one_linear_history(storage, tmp_path):
    promoters = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hrf.candidates", storage.uri, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for number in range(NUM_RACERS)
    ]
    assert [promoter.stdout.readline() for promoter in promoters] == ["ready\n"] * NUM_RACERS
    for promoter in promoters:
        promoter.stdin.write("go\n")
        promoter.stdin.flush()
    outcomes = [promoter.communicate()[0].strip() for promoter in promoters]
    assert [promoter.returncode for promoter in promoters] == [0] * NUM_RACERS

    candidates = [racing_candidate(tmp_path / "again", number) for number in range(NUM_RACERS)]
    assert_sound(storage, candidates)
    records = history(storage, EXPERIMENT)
    assert outcomes.count("promoted") == len(records) >= 1
    assert outcomes.count("rejected") == NUM_RACERS - len(records)
    gains = [np.mean(candidates[record.epoch].evaluation.rewards) for record in records]
    assert gains == sorted(gains)
    passing = [candidate for number, candidate in enumerate(candidates) if number not in TRIPPED_RACERS]
    best = max(passing, key=lambda candidate: np.mean(candidate.evaluation.rewards))
    assert records[-1].candidate_id == best.candidate_id
