"""Runs of every kind of large model through folders: start distributions and samplers, LoRA, guidance and prompts."""

import json
import shutil
from functools import cache, partial

import numpy as np
import pytest
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from hrf.config import Config
from hrf.distributed.processes import run_in_processes
from hrf.evaluation.record import EvaluationRecord
from hrf.seeds import Purpose, stream
from hrf.steps.context import RunContext
from hrf.steps.sample import sample
from hrf.steps.score import score
from hrf.steps.update import update
from hrf.storage.folders import read_manifest, writing_folder
from hrf.storage.names import LORA_FILE
from hrf.storage.objects import Storage
from tests.hrf import tiny_flux, tiny_stable_diffusion_3, tiny_stable_diffusion_xl
from tests.hrf.colours import warmth
from tests.hrf.shared_work import call_steps
from tests.hrf.steps.conftest import StepByStep
from tests.hrf.steps.test_processes import (
    arguments_of_sample,
    arguments_of_score,
    arguments_of_update,
    contents,
    distance,
    tensors_of,
)
from tests.hrf.steps.test_text_to_image import DDPO, DIFFERENCE, HRF, SD, SPLIT

FLOW = {**SD, "sampler": {"steps": 5, "kind": "cps", "eta": 0.8}}
MODELS = {
    "sd3": tiny_stable_diffusion_3.save,
    "sdxl": tiny_stable_diffusion_xl.save,
    "flux": tiny_flux.save,
    "schnell": partial(tiny_flux.save, guidance_embeds=False, scheduler=tiny_flux.SCHNELL),
}
SETTINGS = {
    "sd3": {"guidance_scale": 2.0},
    "sdxl": {"guidance_scale": 2.0},
    # Its own guidance costs no second question.
    "flux": {"guidance_scale": 1.0, "embedded_guidance": 3.5, "picture_size": 16},
    "schnell": {"guidance_scale": 1.0, "picture_size": 16},
}
RUNS = {
    "hrf": HRF,
    "split": {**SPLIT, "sampler": {"kind": "flow_sde", "eta": 0.7}},
    "ddpo": {**DDPO, "sampler": {"kind": "ancestral", "eta": 1.0}},
    "full": {"policy": {"lora": None}},
    "difference": DIFFERENCE,
}
RENOISED = ("sd3", "sdxl", "flux")
"""What is distilled to few steps, such as schnell, starts from noise only."""
CASES = [*((kind, name) for kind in RENOISED for name in RUNS), ("schnell", "ddpo")]
FAST = {("sd3", "hrf"), ("sd3", "split"), ("sdxl", "split"), ("flux", "split")}


def marked(*case: str):
    return pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return cache(lambda kind: MODELS[kind](tmp_path_factory.mktemp("model") / kind))


@pytest.fixture
def steps(tmp_path, storage_uri, saved):
    def make(kind: str, changes: dict) -> StepByStep:
        model = {**FLOW["model"], **SETTINGS[kind], "source": str(saved(kind))}
        values = {**FLOW, "model": model}
        if kind == "sdxl":
            # No flow: it knows no samplers of theirs.
            values, changes = {**values, "sampler": SD["sampler"]}, {**changes, "sampler": {}}
        return StepByStep(tmp_path / kind, storage_uri, Config.from_mapping(values).with_changes(changes))

    return make


@pytest.mark.parametrize(("kind", "name"), [marked(*case) for case in CASES])
def test_every_start_distribution_trains_every_kind_and_ends_in_a_candidate(steps, kind, name):
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
    denoiser = "unet" if kind == "sdxl" else "transformer"
    weights = f"{denoiser}/diffusion_pytorch_model.safetensors" if name == "full" else LORA_FILE
    assert weights in files
    policy = json.loads((run.folder / "policy-1" / "policy.json").read_text())
    assert policy["sampler"].get("kind", "ancestral") == run.config.sampler.kind
    before, after = (load_file(next((run.folder / f"policy-{n}").rglob("*.safetensors"))) for n in (0, 1))
    assert any(not value.equal(after[name]) for name, value in before.items())


# Of its 528 tokens 16 are the picture's: attention alone moves so small a transformer's pictures little.
FLUX_LORA = {"rank": 4, "alpha": 8, "targets": ["to_q", "to_k", "to_v", "to_out.0", "proj_out"]}
RISES = {
    "sd3": {
        "policy": {"lora": {"rank": 4, "alpha": 8}, "split": 0.4, "prefix_pool": 16},
        "rollout": {"roots": 4, "branches": 6},
        "update": {"minibatch": 12, "learning_rate": 1e-2, "clip_range": 1e-2},
        "run": {"epochs": 6},
    },
    # Attention is on one of its two levels only, and moves its pictures little.
    "sdxl": {
        "policy": {
            "lora": {"rank": 4, "alpha": 8, "targets": ["to_q", "to_k", "to_v", "to_out.0", "conv_out"]},
            "split": 0.4,
            "prefix_pool": 16,
        },
        "rollout": {"roots": 4, "branches": 6},
        "update": {"minibatch": 12, "learning_rate": 3e-2, "clip_range": 0.1},
        "run": {"epochs": 6},
    },
    "flux": {
        "policy": {"lora": FLUX_LORA, "split": 0.4, "prefix_pool": 16},
        "rollout": {"roots": 4, "branches": 12},
        "update": {"minibatch": 48, "learning_rate": 3e-2, "clip_range": 1.0},
        "run": {"epochs": 8},
    },
    "schnell": {
        "policy": {"lora": FLUX_LORA},
        "starts": {"kind": "noise", "schedule": "uniform"},
        "rollout": {"roots": 4, "branches": 12},
        "update": {"minibatch": 24, "learning_rate": 2e-2, "clip_range": 1.0},
        "run": {"epochs": 4},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RISES)
def test_the_reward_of_every_kind_rises_on_prompts_that_were_never_trained_on(steps, kind):
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
@pytest.mark.parametrize("kind", RENOISED)
def test_shards_and_a_resume_change_no_bit_of_any_kinds_run(steps, kind):
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
    assert straight[LORA_FILE]["sha256"] == resumed[LORA_FILE]["sha256"]

    run.sample_in_shards(0, 3, "-sharded")
    for name in ("trajectories", "samples"):
        whole, joined = (read_manifest(run.at(f"{name}-0{suffix}")).files for suffix in ("", "-sharded"))
        for file in whole.keys() - {"about.json"}:
            assert whole[file]["sha256"] == joined[file]["sha256"], file


@pytest.mark.slow
def test_an_epoch_of_every_kind_in_two_processes_is_that_of_one(steps):
    """Trajectories, samples and rewards bit for bit, an update up to rounding.

    Three roots: two processes have unequal parts. Kills: a prompt or its pooled text by the number within a part.
    """
    runs = {kind: steps(kind, RUNS["ddpo" if kind == "schnell" else "split"]) for kind in MODELS}
    for kind, run in runs.items():
        run.prepare(experiment=kind)
        run.epoch(0)
    calls = [
        (step, arguments(run, "-of-2"))
        for run in runs.values()
        for step, arguments in (
            (sample, arguments_of_sample),
            (score, arguments_of_score),
            (update, arguments_of_update),
        )
    ]

    run_in_processes(call_steps, {"calls": calls}, num_processes=2, on_gpu=False)

    for run in runs.values():
        for name in ("trajectories-0", "samples-0", "scores-0"):
            assert contents(run.at(f"{name}-of-2")) == contents(run.at(name)), name
        before, alone, together = (tensors_of(run.folder / name) for name in ("policy-0", "policy-1", "policy-1-of-2"))
        assert distance(alone, together) < 1e-2 * distance(alone, before)


BY_SIGMA = {
    "policy": {"lora": {"rank": 2, "alpha": 4}, "split_sigma": 0.85, "prefix_pool": 7},
    "starts": {"kind": "window", "schedule": "fixed", "windows": [{"sigmas": [0.85, 0.0]}]},
    "evaluation": {"steps": 12, "eta": 0.0},
    "run": {"epochs": 1},
}


def test_a_run_is_configured_by_noise_level_and_measured_by_the_ode_with_other_steps(steps):
    """Five steps are at sigma 1, .900, .751, .503, .009: the switch is step 2; of twelve, .716 is after .784, step 6.

    The measured rewards are those of diffusers' own Euler steps, the adapter switched on at that step. Kills: the
    trained switch step, or its share, among twelve steps; noise in a measurement; a base that is sampled otherwise.
    """
    run = steps("sd3", {**BY_SIGMA, "update": {"learning_rate": 0.3}})
    run.prepare()
    told = RunContext.read(run.at("run"))
    assert (told.config.switch_step, told.config.starts.windows[0].steps) == (2, (2, 3))
    assert told.about["policy"]["switch_step"] == 2
    run.epoch(0)
    run.judge(0)

    record = EvaluationRecord.read(run.folder / "evaluation-0" / "evaluation.json")
    candidate = run.folder / "policy-1"
    for weights, rewards in (
        (candidate, record.rewards),
        (None, EvaluationRecord.read(run.folder / "baseline" / "baseline.json").rewards),
    ):
        pipeline = StableDiffusion3Pipeline.from_pretrained(run.folder / "base")
        pipeline.set_progress_bar_config(disable=True)
        if weights:
            pipeline.load_lora_weights(weights)
            pipeline.disable_lora()

        def after_step(pipeline, step, timestep, values, *, tuned=weights):
            if tuned and step + 1 == 6:
                pipeline.enable_lora()
            return values

        table = told.prompts
        count = told.config.evaluation.num_samples
        pictures = pipeline(
            table.texts_of(table.of_evaluation(count)),
            num_inference_steps=12,
            guidance_scale=2.0,
            generator=[stream(told.config.evaluation.seed, Purpose.EVALUATION, index) for index in range(count)],
            callback_on_step_end=after_step,
            output_type="pt",
        ).images
        np.testing.assert_allclose(rewards, warmth(pictures.numpy()), rtol=0, atol=1e-4)
    assert abs(np.subtract(record.rewards, rewards)).max() > 3e-3, "or the adapter did nothing"


def test_what_is_promoted_says_how_it_was_measured_and_what_is_tuned_from_there_does_not(steps):
    run = steps("sd3", {**BY_SIGMA, "run": {"epochs": 2}, "update": {"learning_rate": 1e-9}})
    run.prepare()
    run.epoch(0)
    run.judge(0)
    storage = Storage.open(run.storage)
    (written, _) = storage.read_bytes("tiny/candidates/run/epoch-0000/policy.json")
    stored = json.loads(written)
    assert stored["evaluation"] == {"steps": 12, "eta": 0.0, "switch_step": 6}
    assert stored["switch_step"] == 2
    # As the start of a run that goes on from it.
    (run.folder / "policy-1").rename(run.folder / "trained")
    with writing_folder(run.at("policy-1"), producer={}) as folder:
        shutil.copytree(
            run.folder / "trained", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
        )
        (folder / "policy.json").write_bytes(written)
    run.epoch(1)
    assert "evaluation" not in json.loads((run.folder / "policy-2" / "policy.json").read_text())
