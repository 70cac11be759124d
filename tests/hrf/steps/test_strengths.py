"""Candidates at the strength that keeps the diversity floor: what is measured, stored, and trained on from there."""

import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hrf.evaluation.record import EvaluationRecord
from hrf.policies.strength import fold_strength, strength_of
from hrf.promotion.pointer import fetch_candidate
from hrf.steps.context import RunContext
from hrf.steps.verdict import VerdictBench
from hrf.storage.folders import writing_folder
from hrf.storage.names import EVALUATION_FILE
from hrf.storage.objects import Storage
from tests.hrf.steps.test_epochs import SPLIT
from tests.hrf.steps.test_steer import FLOOR, about, weights
from tests.hrf.steps.test_verdict import number_of

STRONG = {
    **SPLIT,
    "update": {"learning_rate": 1e-2, "ema_decay": 0.5},
    "evaluation": {"num_samples": 16, "num_strengths": 4},
}
"""The tiny model falls apart at once at this rate; less of what it learnt does not."""
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def evaluated(run, epoch: int) -> EvaluationRecord:
    return EvaluationRecord.read(run.folder / f"evaluation-{epoch}" / EVALUATION_FILE)


def test_the_strongest_that_keeps_the_floor_is_stored_as_it_was_measured_and_training_goes_on_from_all(steps, tmp_path):
    """Kills: strength applied twice, or not at all, in what is stored; the weights for their average; training from
    the weakened policy; another strength's record, or one strength's alone."""
    run = steps("run", STRONG)
    run.prepare()
    run.epoch(0)
    run.judge(0)
    record, floor = evaluated(run, 0), run.config.gate_floor

    assert record.strength < 1
    assert record.diversity.vendi_order2_ratio.low > floor
    assert record.front[0].strength == 1
    assert record.front[0].diversity_ratio.low <= floor
    assert 2 <= len(record.front) <= 5
    assert record.at_strength in record.front
    assert record.strength == max(point.strength for point in record.front if point.keeps(floor))
    stored = fetch_candidate(Storage.open(run.storage), "tiny", "run/epoch-0000", tmp_path / "stored")
    assert strength_of(stored) == record.strength
    assert EvaluationRecord.read(stored / EVALUATION_FILE) == record
    base = load_file(run.folder / "base" / WEIGHTS)
    tuned = load_file(run.folder / "policy-1" / "average" / "diffusion_pytorch_model.safetensors")
    for name, value in load_file(stored / WEIGHTS).items():
        torch.testing.assert_close(value, torch.lerp(base[name], tuned[name], record.strength), rtol=1e-5, atol=1e-7)
    assert "strength" not in about(run, "policy-1", "policy.json")


def test_a_verdict_is_measured_on_the_weights_that_are_stored(steps, tmp_path):
    """Against a network interpolated by torch, on a verdict's seeds. Kills: strength applied twice (whose rewards are
    told apart), or left out, in a verdict."""
    run = steps("run", {**STRONG, "evaluation": {**STRONG["evaluation"], "num_strengths": 1}})
    run.prepare()
    run.epoch(0)
    run.judge(0)
    strength = evaluated(run, 0).strength
    stored = fetch_candidate(Storage.open(run.storage), "tiny", "run/epoch-0000", tmp_path / "stored")

    def rewards(candidate, record: EvaluationRecord) -> np.ndarray:
        bench = VerdictBench(
            context=RunContext.read(run.at("run")),
            storage=Storage.open(run.storage),
            base=run.folder / "base",
            candidate=candidate,
            record=record,
        )
        return np.array(bench.measure(number_of(1), None).evaluation.rewards)

    def by_hand(weight: float):
        """The weights at a strength, in a folder that says nothing of it."""
        folder = tmp_path / f"{weight}"
        shutil.copytree(run.folder / "policy-1", folder)
        shutil.rmtree(folder / "average")
        base = load_file(run.folder / "base" / WEIGHTS)
        tuned = load_file(run.folder / "policy-1" / "average" / "diffusion_pytorch_model.safetensors")
        blended = {name: torch.lerp(base[name], value, weight) for name, value in tuned.items()}
        save_file(blended, folder / WEIGHTS, metadata={"format": "pt"})
        return folder

    ours, whole = rewards(stored, evaluated(run, 0)), evaluated(run, 0).model_copy(update={"strength": 1.0})
    assert strength < 1
    same, twice = (abs(ours - rewards(by_hand(weight), whole)).mean() for weight in (strength, strength**2))
    # Sizes of files come in steps of 1e-3; the last bits of weights move few of them.
    assert same < 3e-4 < 1e-3 < twice


def test_what_keeps_the_floor_as_it_is_is_measured_once_and_as_without_strengths(steps):
    """Bit for bit, but for the front of one point. Kills: a search that nobody needs."""
    with_strengths, without = (
        steps(name, {**SPLIT, "evaluation": {"num_strengths": number}, "gate": {"diversity_margin": 0.99}})
        for name, number in (("with", 2), ("without", 0))
    )
    for run in (with_strengths, without):
        run.prepare(run_id=run.folder.name)
        run.epoch(0)
        run.evaluate(0)

    ours, theirs = evaluated(with_strengths, 0), evaluated(without, 0)
    assert (ours.strength, theirs.front) == (1.0, ())
    assert ours == theirs.model_copy(update={"front": (theirs.at_strength,)})
    assert with_strengths.config.digest() != without.config.digest()
    digests = [about(run, "run", "run.json")["evaluation_digest"] for run in (with_strengths, without)]
    assert digests[0] == digests[1]


def test_a_run_under_a_floor_weakens_its_candidate_before_it_turns_a_dial(steps):
    """Without strengths the same weights cross the floor and are lost (see `test_steer`). Kills: dials turned though a
    candidate is sound; training from the weakened weights; the kept candidate's record of another strength."""
    run = steps("run", {**STRONG, **FLOOR, "update": {"learning_rate": 3e-3}, "diversity_floor": 0.8})
    run.prepare()
    run.epoch(0)
    run.judge(0)
    steered = run.steer(0)

    record = evaluated(run, 0)
    assert 0.25 <= record.strength < 1
    assert (steered["action"], steered["switch_step"], steered["rate_scale"]) == ("keep", 1, 1.0)
    assert weights(run, "policy-1") == weights(run, "trained-policy-0")
    decision = json.loads((run.folder / "history-1" / "epochs" / "0000" / "steering.json").read_text())
    assert decision["reading"]["strength"] == record.strength
    assert f"at strength {record.strength:.3g}" in decision["reason"]


def test_what_is_trained_from_a_weakened_candidate_is_nobodys_fold(steps):
    """Kills: a strength in the name of weights that have moved since."""
    run = steps("run", SPLIT)
    run.prepare()
    (run.folder / "policy-0").rename(run.folder / "start")
    with writing_folder(run.at("policy-0"), producer={}) as folder:
        fold_strength(run.folder / "start", run.folder / "base", folder, 0.5)
    run.epoch(0)

    assert about(run, "policy-0", "policy.json")["strength"] == 0.5
    assert about(run, "policy-1", "policy.json") == about(run, "start", "policy.json")
