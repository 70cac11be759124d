"""Runs of flow models through folders: every start distribution and sampler, with LoRA, guidance and prompts."""

import json
from functools import cache

import pytest
from safetensors.torch import load_file

from hrf.config import Config
from hrf.storage.folders import read_manifest
from tests.hrf import tiny_flux, tiny_stable_diffusion_3
from tests.hrf.steps.conftest import StepByStep
from tests.hrf.steps.test_text_to_image import DDPO, DIFFERENCE, HRF, SD, SPLIT

FLOW = {**SD, "sampler": {"steps": 5, "kind": "cps", "eta": 0.8}}
KINDS = {
    "sd3": (tiny_stable_diffusion_3, {"guidance_scale": 2.0}),
    # Its own guidance costs no second question.
    "flux": (tiny_flux, {"guidance_scale": 1.0, "embedded_guidance": 3.5, "picture_size": 16}),
}
RUNS = {
    "hrf": HRF,
    "split": {**SPLIT, "sampler": {"kind": "flow_sde", "eta": 0.7}},
    "ddpo": {**DDPO, "sampler": {"kind": "ancestral", "eta": 1.0}},
    "full": {"policy": {"lora": None}},
    "difference": DIFFERENCE,
}
FAST = {("sd3", "hrf"), ("sd3", "split"), ("flux", "split")}


def marked(*case: str):
    return pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return cache(lambda kind: KINDS[kind][0].save(tmp_path_factory.mktemp("model") / kind))


@pytest.fixture
def steps(tmp_path, storage_uri, saved):
    def make(kind: str, changes: dict) -> StepByStep:
        model = {**FLOW["model"], **KINDS[kind][1], "source": str(saved(kind))}
        config = Config.from_mapping({**FLOW, "model": model})
        return StepByStep(tmp_path / "run", storage_uri, config.with_changes(changes))

    return make


@pytest.mark.parametrize(("kind", "name"), [marked(kind, name) for kind in KINDS for name in RUNS])
def test_every_start_distribution_trains_a_flow_and_ends_in_a_candidate(steps, kind, name):
    """The log-probabilities of an update's first pass are those of the rollout: ratios are 1."""
    changes = RUNS[name]
    run = steps(kind, {**changes, "run": {"epochs": 1}, "update": {**changes.get("update", {}), "minibatch": 6}})
    run.prepare()
    run.epoch(0)
    decision = run.judge(0)

    record = run.update_record(0)
    samples = load_file(run.folder / "samples-0" / "samples.safetensors")["samples"]
    states = load_file(run.folder / "trajectories-0" / "trajectories.safetensors")["states"]
    assert (samples.shape[1:], states.shape[1:]) == ((3, 16, 16), (4, 8, 8))
    # The difference objective has no ratios.
    assert record.updates[0].approx_kl == (None if name == "difference" else pytest.approx(0, abs=1e-6))
    assert decision["outcome"] in {"promoted", "rejected"}
    files = set(read_manifest(run.at("policy-1")).files)
    weights = "transformer/diffusion_pytorch_model.safetensors" if name == "full" else None
    assert (weights or "pytorch_lora_weights.safetensors") in files
    policy = json.loads((run.folder / "policy-1" / "policy.json").read_text())
    assert policy["sampler"].get("kind", "ancestral") == run.config.sampler.kind
    before, after = (load_file(next((run.folder / f"policy-{n}").rglob("*.safetensors"))) for n in (0, 1))
    assert any(not value.equal(after[name]) for name, value in before.items())


RISES = {
    "sd3": {
        "policy": {"lora": {"rank": 4, "alpha": 8}, "split": 0.4, "prefix_pool": 16},
        "rollout": {"roots": 4, "branches": 6},
        "update": {"minibatch": 12, "learning_rate": 1e-2, "clip_range": 1e-2},
        "run": {"epochs": 6},
    },
    # Of its 528 tokens 16 are the picture's: attention alone moves so small a transformer's pictures little.
    "flux": {
        "policy": {
            "lora": {"rank": 4, "alpha": 8, "targets": ["to_q", "to_k", "to_v", "to_out.0", "proj_out"]},
            "split": 0.4,
            "prefix_pool": 16,
        },
        "rollout": {"roots": 4, "branches": 12},
        "update": {"minibatch": 48, "learning_rate": 3e-2, "clip_range": 1.0},
        "run": {"epochs": 8},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_of_a_flow_rises_on_prompts_that_were_never_trained_on(steps, kind):
    """From a shared prefix pool, with noise in the trained steps and none where it is measured."""
    epochs = RISES[kind]["run"]["epochs"]
    run = steps(kind, {**RISES[kind], "evaluation": {"num_samples": 32, "eta": 0.0}})
    run.prepare()
    run.train(0, epochs)
    (run.folder / f"policy-{epochs}").rename(run.folder / "policy-1")
    run.evaluate(0)
    measured = json.loads((run.folder / "evaluation-0" / "evaluation.json").read_text())
    assert measured["reward_vs_base"]["low"] > 0, measured["reward_vs_base"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_shards_and_a_resume_change_no_bit_of_a_flows_run(steps, kind):
    """Kills: timesteps or pooled texts that depend on which samples are in a call."""
    run = steps(kind, {**SPLIT, "run": {"epochs": 2}})
    run.prepare()
    run.train(0, 2)
    straight = read_manifest(run.at("policy-2")).files
    (run.folder / "policy-2").rename(run.folder / "policy-straight")
    (run.folder / "state-2").rename(run.folder / "state-straight")
    run.epoch(0)
    run.epoch(1)
    resumed = read_manifest(run.at("policy-2")).files
    weights = "pytorch_lora_weights.safetensors"
    assert straight[weights]["sha256"] == resumed[weights]["sha256"]

    run.sample_in_shards(0, 3, "-sharded")
    for name in ("trajectories", "samples"):
        whole, joined = (read_manifest(run.at(f"{name}-0{suffix}")).files for suffix in ("", "-sharded"))
        for file in whole.keys() - {"about.json"}:
            assert whole[file]["sha256"] == joined[file]["sha256"], file
