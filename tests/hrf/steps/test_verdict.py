"""What a candidate is measured on for its verdict: fresh seeds, with its incumbent and the base beside it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from hrf.errors import ArtifactError
from hrf.evaluation.record import EvaluationRecord
from hrf.policies.folders import load_policy
from hrf.promotion.pointer import read_pointer
from hrf.promotion.protocol import FreshMeasurement
from hrf.promotion.records import VerdictNumber
from hrf.rewards import build_reward
from hrf.seeds import Purpose, stream
from hrf.steps.context import RunContext
from hrf.steps.verdict import BaseBlock, VerdictBench
from hrf.storage.folders import read_folder, read_manifest, writing_folder
from hrf.storage.objects import Storage
from hrf.storage.records import read_record
from hrf.trainer.rollout import Batch, denoise
from tests.interrupted import before_every_request

SPLIT = {"starts": {"kind": "window", "schedule": "uniform", "width": 0.0}, "policy": {"split": 0.3}}
PROMOTED = {
    "update": {"learning_rate": 1e-7, "minibatch": 4, "microbatch": 5, "ema_decay": 0.5},
    "reward": {"name": "python", "function": "tests.hrf.steps.test_verdict:blueness"},
    "gate": {"diversity_margin": 0.5, "num_samples": 10, "error": 0.4},
}


def blueness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Blue minus red."""
    return (images[:, 2].astype(np.float64) - images[:, 0]).mean(axis=(1, 2))


def bench_of(run, *, weights: str = "policy-1") -> VerdictBench:
    context = RunContext.read(run.at("run"))
    record = EvaluationRecord.read(run.folder / "evaluation-0" / "evaluation.json")
    return VerdictBench(
        context=context,
        storage=Storage.open(run.storage),
        base=read_folder(run.at("base")),
        candidate=read_folder(run.at(weights)),
        record=record,
    )


def number_of(number: int, level: float = 0.01) -> VerdictNumber:
    about = {"candidate_id": "run/epoch-0000", "candidate_digest": "d", "incumbent_id": None}
    return VerdictNumber(number=number, num_spent=number - 1, level=level, **about)


@pytest.fixture
def trained(steps):
    """Makes a run with one candidate, whose pictures are as diverse as the base's and bluer."""

    def make(name: str = "run", changes: dict | None = None):
        run = steps(name, {**SPLIT, **PROMOTED, **(changes or {})})
        run.prepare(name, name)
        run.epoch(0)
        (run.folder / "policy-1").rename(run.folder / "as-trained")
        with writing_folder(run.at("policy-1"), producer={}) as folder:
            ignored = shutil.ignore_patterns("manifest.json")
            shutil.copytree(run.folder / "as-trained", folder, dirs_exist_ok=True, ignore=ignored)
            for weights in folder.glob("*/*.safetensors"):
                tensors = load_file(weights)
                # Of the noise that is taken away.
                tensors["conv_out.bias"][2] -= 0.02 if weights.parent.name == "average" else 0.01
                save_file(tensors, weights)
        run.evaluate(0)
        return run

    return make


def base_blocks(run) -> list[str]:
    return Storage.open(run.storage).list(".base/")


def test_rewards_are_those_of_pictures_from_seeds_that_selection_never_saw(trained):
    """Against sampling all steps from noise. Kills: selection seeds used for the verdict; seeds that another number has
    had; the base's seeds not being the candidate's; the number of samples of selection."""
    run = trained()
    measured = bench_of(run).measure(number_of(3), None)
    record, base_rewards = measured.evaluation, measured.incumbent_rewards

    config = run.config
    for weights, rewards in (("policy-1", record.rewards), ("base", base_rewards)):
        policy = load_policy(config, Path(run.at("base")), Path(run.at(weights)), reference=True)
        streams = [stream(config.evaluation.seed, Purpose.VERDICT, 3, index) for index in range(10)]
        pictures = denoise(
            policy.with_schedule(policy.schedule.with_eta(config.evaluation.eta)),
            Batch.from_noise(policy, streams, None),
            batch_size=config.model.batch_size,
        )
        expected = build_reward(config.reward, None).of_samples(pictures.numpy(), None)
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)
    selection = EvaluationRecord.read(run.folder / "evaluation-0" / "evaluation.json").rewards
    others = bench_of(run).measure(number_of(4), None).evaluation.rewards
    assert not {*record.rewards} & {*others, *selection}


def test_intervals_have_the_level_of_the_verdict(trained):
    bench = bench_of(trained())
    wide, narrow = (bench.measure(number_of(1, level), None).evaluation for level in (0.001, 0.2))
    assert wide.rewards == narrow.rewards
    for name in ("reward_vs_base", "reward"):
        assert getattr(wide, name).low < getattr(narrow, name).low
    assert wide.diversity.vendi_order2_ratio.low < narrow.diversity.vendi_order2_ratio.low


def test_what_the_base_gives_is_kept_and_used_by_other_experiments(trained):
    """Kills: a base that is measured each time; a block that another number, or another setting, has left."""
    run = trained()
    first = bench_of(run).measure(number_of(1), None)
    kept = base_blocks(run)
    assert bench_of(run).measure(number_of(1), None) == first
    assert base_blocks(run) == kept
    bench = bench_of(run)
    elsewhere = replace(bench.context, about={**bench.context.about, "experiment": "other", "run_id": "r"})
    assert replace(bench, context=elsewhere).measure(number_of(1), None) == first
    assert base_blocks(run) == kept
    otherwise = replace(bench.context, about={**bench.context.about, "evaluation_digest": "other"})
    replace(bench, context=otherwise).measure(number_of(1), None)
    bench.measure(number_of(2), None)
    assert len(base_blocks(run)) == 3 * len(kept)


def test_one_that_was_slower_takes_what_the_faster_one_has_kept(trained):
    """Kills: two runs that judge by different numbers of the base, or whose files get mixed."""
    run = trained()
    bench, rival = bench_of(run), bench_of(run)
    found: list[FreshMeasurement] = []

    def overtake(request: object) -> None:
        if not found and request.method == "PUT" and request.url.endswith("/000001.json"):
            found.append(rival.measure(number_of(1), None))

    with before_every_request(bench.storage, overtake):
        assert bench.measure(number_of(1), None) == found[0]
    assert sum(key.endswith("/000001.json") for key in base_blocks(run)) == 1


def test_a_block_that_is_not_what_its_record_names_is_refused(trained):
    run = trained()
    bench = bench_of(run)
    bench.measure(number_of(1), None)
    (key,) = (key for key in base_blocks(run) if key.endswith("/000001.json"))
    record = read_record(bench.storage, key, BaseBlock)
    bench.storage.write_json(key, {**record.as_json(), "content_digest": "0" * 64})
    with pytest.raises(ArtifactError, match=r"not what its record names.*Fix: delete it: the base is then measured"):
        bench.measure(number_of(1), None)


def test_a_promotion_is_decided_on_fresh_seeds_and_the_next_candidate_meets_the_promoted_one_on_others(trained):
    """Kills: other weights measured than stored (the moving average forgotten, too); the incumbent's rewards taken from
    its record; a second attempt with other bits."""
    run = trained()
    facts = run.promote(0)
    assert (facts["outcome"], facts["verdict"]) == ("promoted", 1)
    digest = read_manifest(run.at("judged-0")).content_digest()
    shutil.rmtree(run.at("judged-0"))
    assert run.promote(0) == facts
    assert read_manifest(run.at("judged-0")).content_digest() == digest

    pointer = read_pointer(Storage.open(run.storage), "run")
    bench = bench_of(run)
    stored = bench.storage.download_folder(pointer.candidate_key, run.folder / "stored")
    bench = replace(bench, candidate=stored)
    assert bench.comparable(pointer)
    assert bench.measure(number_of(1), None).evaluation.reward_vs_base.value == pointer.decision.reward_vs_base.value
    measured = bench.measure(number_of(2), pointer)
    assert measured.evaluation.rewards == measured.incumbent_rewards
    decision = json.loads((run.folder / "judged-0" / "epochs" / "0000" / "decision.json").read_text())
    assert (decision["number"], decision["confidence"]) == (1, 1 - 2 * decision["level"])


def test_an_incumbent_that_samples_otherwise_or_has_another_base_cannot_be_measured(trained):
    run = trained()
    run.promote(0)
    pointer, bench = read_pointer(Storage.open(run.storage), "run"), bench_of(run)
    about = bench.context.about
    for changed in ({"sampler": {}}, {"lora": {"rank": 4}}, {"base": {**about["policy"]["base"], "digest": "other"}}):
        context = replace(bench.context, about={**about, "policy": {**about["policy"], **changed}})
        assert not replace(bench, context=context).comparable(pointer)


def test_an_incumbent_that_switches_earlier_is_sampled_from_noise_by_its_own_weights(trained):
    """Kills: the incumbent at the candidate's switch step."""
    early = trained("early", {"policy": {"split": 0.0}})
    early.promote(0)
    pointer = read_pointer(Storage.open(early.storage), "early")
    stored = Storage.open(early.storage).download_folder(pointer.candidate_key, early.folder / "stored")
    late = bench_of(trained("late", {"policy": {"split": 0.5}}))
    own = replace(bench_of(early), candidate=stored).measure(number_of(2), None).evaluation
    assert late.measure(number_of(2), pointer).incumbent_rewards == own.rewards
