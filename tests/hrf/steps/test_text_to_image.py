"""Runs of a text-to-image model through folders: prompts at every step, exact resume, shards, candidates."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from hrf.config import Config
from hrf.errors import ConfigError, NumericalError
from hrf.planning.cost import expected_epoch_evaluations
from hrf.policies.components import scheduler_config
from hrf.policies.folders import noise_schedule, weights_of
from hrf.policies.prompts import PromptTable
from hrf.steps.context import RunContext
from hrf.steps.sequence import Leg, Trained, training, whole_run
from hrf.storage.folders import read_manifest, writing_folder
from hrf.storage.names import LORA_FILE
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.steps.conftest import StepByStep

TEXTS = [*tiny.PROMPTS, "a wise owl", "a big elk", "a sad yak", "a mad ram"]
SD = {
    "model": {"guidance_scale": 2.0, "batch_size": 3},
    "prompts": {"texts": TEXTS},
    "policy": {"lora": {"rank": 2, "alpha": 4}},
    "sampler": {"steps": 5},
    "starts": {"kind": "window", "schedule": "uniform"},
    "rollout": {"roots": 3, "branches": 2},
    "update": {"minibatch": 3, "microbatch": 4, "learning_rate": 1e-2},
    "evaluation": {"num_samples": 8, "features": "pixels", "classifier": ""},
    "gate": {"monitors": {"unrecognised_fraction": None}},
    # The JPEG files of such small grey pictures are all of one size.
    "reward": {"name": "python", "function": "tests.hrf.colours:warmth"},
    "run": {"epochs": 4},
}
HRF = {}
SPLIT = {"policy": {"lora": {"rank": 2, "alpha": 4}, "split": 0.4, "prefix_pool": 7}}
SHARED_START = {
    **SPLIT,
    "starts": {"kind": "window", "schedule": "fixed", "windows": [{"steps": [2, 3]}]},
    "rollout": {"share_start": True},
    "update": {"trust_region": "divergence"},
}
DDPO = {
    "starts": {"kind": "noise", "schedule": "uniform"},
    "prompts": {"statistics_buffer": 3, "statistics_min_count": 2},
}
DIFFERENCE = {
    **SPLIT,
    "shaping": {"reward": {"name": "python", "function": "tests.hrf.shared_work:prompt_lengths"}},
    "update": {
        "objective": "difference",
        "levels_per_branch": 1,
        "reference_weight": 0.5,
        "sibling_distance_weight": 0.5,
    },
}
SELECTED = {
    "starts": {
        "kind": "selected",
        "selection": {"stride": 1, "branches": 2, "coarse_stride": 2, "preview_steps": 1},
    }
}
UNGUIDED = {"update": {"guidance": False}, "policy": {"lora": None}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture
def steps(tmp_path, storage_uri, model):
    def make(name: str = "run", changes: dict | None = None) -> StepByStep:
        values = {**SD, "model": {**SD["model"], "source": str(model)}}
        return StepByStep(tmp_path / name, storage_uri, Config.from_mapping(values).with_changes(changes or {}))

    return make


def digest(run, name: str) -> dict:
    """Digests of a folder's files, without the records that tell wall times."""
    files = read_manifest(run.at(name)).files
    return {file: entry["sha256"] for file, entry in files.items() if not file.startswith("updates/")}


def trajectories(run, epoch: int = 0, suffix: str = "") -> dict:
    return load_file(run.folder / f"trajectories-{epoch}{suffix}" / "trajectories.safetensors")


@pytest.mark.parametrize(
    "changes",
    [HRF, SPLIT, SHARED_START, DDPO, SELECTED, UNGUIDED, DIFFERENCE],
    ids=["hrf", "split", "shared", "ddpo", "hrf-d", "unguided-full", "difference"],
)
def test_every_start_distribution_trains_with_prompts_and_its_cost_is_counted(steps, changes):
    """A guided evaluation is two forwards. Branches of a root share its prompt, and only training prompts are used."""
    run = steps("run", changes)
    run.prepare()
    run.epoch(0)

    table, tensors, config = PromptTable.load(run.folder / "run" / "prompts"), trajectories(run), run.config
    assert len(table.evaluation) == 4
    assert int(tensors["prompts"].max()) < table.num_training
    if config.starts.kind != "noise":
        for group in tensors["groups"].unique():
            assert len(tensors["prompts"][tensors["groups"] == group].unique()) == 1
    told = json.loads((run.folder / "samples-0" / "prompts.json").read_text())
    assert told == table.texts_of(tensors["prompts"].tolist())
    if changes is DIFFERENCE:
        scores = json.loads((run.folder / "scores-0" / "scores.json").read_text())
        assert scores["shaping"] == [len(prompt) for prompt in told]
    samples = load_file(run.folder / "samples-0" / "samples.safetensors")["samples"]
    assert samples.shape == (6, 3, 16, 16)
    assert tensors["states"].shape[1:] == (4, 8, 8)
    spent = run.update_record(0).num_evaluations
    schedule = noise_schedule(scheduler_config(run.folder / "base"), config)
    pool = 2 * config.policy.prefix_pool * config.switch_step
    starts, trained = tensors["start_steps"], schedule.num_trained_steps
    episodes = 1 if changes is UNGUIDED else 2
    with_loss = (trained - starts).clamp(max=1 if changes is DIFFERENCE else trained)
    per_pair = 4 if changes is DIFFERENCE else 3
    tails = episodes * int((5 - starts).sum() + per_pair * with_loss.sum())
    fresh = config.switch_step if config.policy.prefix_pool else 0
    if config.starts.kind == "noise":
        assert spent == 2 * int(starts.sum()) + tails
        assert spent == expected_epoch_evaluations(config, schedule, 0)
    elif config.starts.kind == "window":
        assert spent == pool + 3 * 2 * ((2 if config.rollout.share_start else 5) - fresh) + tails


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SPLIT, DDPO, DIFFERENCE], ids=["split", "ddpo", "difference"])
def test_2n_epochs_are_n_epochs_a_resume_and_n_more_bit_for_bit_with_prompts(steps, changes):
    """Adapter, moments, counters, and the rewards that are kept of each prompt. Kills: statistics that start again."""
    straight, resumed = steps("straight", changes), steps("resumed", changes)
    for run in (straight, resumed):
        run.prepare(experiment=run.folder.name)
    straight.train(0, 3)
    resumed.train(0, 1)
    for epoch in (1, 2):
        resumed.epoch(epoch)

    assert digest(straight, "policy-3") == digest(resumed, "policy-3")
    assert digest(straight, "state-3") == digest(resumed, "state-3")
    state = json.loads((straight.folder / "state-3" / "state.json").read_text())
    kept = state.get("prompt_rewards", {})
    assert bool(kept) == (changes is DDPO)
    assert all(1 <= len(rewards) <= 3 for rewards in kept.values())
    assert sum(len(rewards) for rewards in kept.values()) > 0 or not kept


@pytest.mark.slow
def test_statistics_that_are_not_restored_change_the_next_weights(steps):
    """The mutant of the test above."""
    run = steps("run", DDPO)
    run.prepare()
    run.epoch(0)
    run.epoch(1)
    honest = digest(run, "policy-2")
    state = run.folder / "state-1" / "state.json"
    assert json.loads(state.read_text())["prompt_rewards"]
    with writing_folder(run.at("forgetful"), producer={"step": "test"}) as folder:
        shutil.copyfile(run.folder / "state-1" / "moments.safetensors", folder / "moments.safetensors")
        record = json.loads(state.read_text())
        (folder / "state.json").write_text(json.dumps({**record, "prompt_rewards": {}}))
    shutil.rmtree(run.folder / "state-1")
    (run.folder / "forgetful").rename(run.folder / "state-1")

    run.epoch(1)

    assert digest(run, "policy-2") != honest


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SPLIT, DDPO, SELECTED], ids=["split", "ddpo", "hrf-d"])
def test_shards_joined_are_the_bits_of_one_process_with_prompts(steps, changes):
    """Kills: prompts by the number within a shard, a pool's prompts drawn for the shard alone, shuffled texts."""
    run = steps("run", changes)
    run.prepare()
    run.sample(0)
    run.sample_in_shards(0, 3, "-sharded")

    for name in ("trajectories", "samples"):
        whole, joined = (read_manifest(run.at(f"{name}-0{suffix}")).files for suffix in ("", "-sharded"))
        for file in whole.keys() - {"about.json"}:
            assert whole[file]["sha256"] == joined[file]["sha256"], file


def test_a_pools_states_keep_the_prompts_that_they_were_made_for(steps):
    run = steps("run", SPLIT)
    run.prepare()
    run.sample(0)
    pool = load_file(run.folder / "baseline" / "prefix_pool.safetensors")

    assert len(pool["prompts"]) == len(pool["states"]) == 7
    assert len(pool["prompts"].unique()) > 1
    assert set(trajectories(run)["prompts"].tolist()) <= set(pool["prompts"].tolist())


def test_a_candidate_holds_the_adapter_alone_and_what_it_was_decided_on(steps):
    run = steps()
    run.prepare()
    run.epoch(0)
    decision = run.judge(0)

    evaluation = json.loads((run.folder / "evaluation-0" / "evaluation.json").read_text())
    files = read_manifest(run.at("policy-1")).files
    assert set(files) == {"pytorch_lora_weights.safetensors", "policy.json", "updates/0000.json"}
    assert sum((run.folder / "policy-1" / name).stat().st_size for name in files) < 40_000
    assert decision["outcome"] in {"promoted", "rejected"}
    assert evaluation["prompts"] == [0, 1, 2, 3, 0, 1, 2, 3]
    table = RunContext.read(run.at("run")).prompts
    assert [entry["prompt"] for entry in evaluation["by_prompt"]] == list(table.evaluation)
    assert np.mean([entry["reward"] for entry in evaluation["by_prompt"]]) == pytest.approx(
        evaluation["reward"]["value"]
    )
    assert evaluation["diversity"]["across_prompts_vendi_order2"] > 0
    run.summarize("judged-0")
    assert "Vendi score within prompts, order 2" in (run.folder / "report.html").read_text()


def test_the_mean_of_adapters_is_one_that_plain_diffusers_loads_and_a_run_goes_on_from(steps):
    """Of the configured rank, and near the mean of what the replicas' adapters do.

    Kills: adapters whose factors go by other names, or at another scale.
    """
    run = steps("run", {"run": {"epochs": 2, "replicas": 2}})
    run.prepare()
    facts = {}
    for call in whole_run([Leg(first_epoch=0, in_one_step=True, evaluated=True)], num_replicas=2):
        if call.step in ("train", "merge"):
            facts = call(run.at)
    base = run.folder / "base"
    merged = weights_of(run.config).load(base, run.folder / "policy-1", reference=False)[0]
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(run.folder / "policy-1")

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = {"timestep": torch.tensor([500, 500]), "encoder_hidden_states": torch.ones(2, 3, 16)}
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(noise, **asked).sample, merged(noise, **asked).sample)
    factors = [load_file(run.folder / f"replica-{replica}-policy-1" / LORA_FILE) for replica in range(2)]
    for name, up in load_file(run.folder / "policy-1" / LORA_FILE).items():
        if ".lora.up." in name:
            down = name.replace(".lora.up.", ".lora.down.")
            found = up @ load_file(run.folder / "policy-1" / LORA_FILE)[down]
            exact = sum(factor[name] @ factor[down] for factor in factors) / 2
            left_out = float((found - exact).square().sum() / exact.square().sum())
            assert left_out <= 1.01 * facts["adapter_left_out_fraction"] + 1e-9
    assert facts["adapter_left_out_fraction"] < 0.1
    (call,) = training(Leg(first_epoch=1, in_one_step=True), Trained(policy="policy-1", training_state="state-0"))
    call(run.at)


def test_gradients_that_move_no_weight_stop_the_run(steps):
    """Trap 8. The steps are lost: what is added to a weight is less than the weight's last bit, and B is 0 no more."""
    run = steps("run", {"update": {"learning_rate": 1e-2}})
    run.prepare()
    run.epoch(0)
    stuck = run.config.with_changes({"update": {"learning_rate": 1e-14, "weight_decay": 0.0}})
    file = run.folder / "run" / "config.yaml"
    with writing_folder(run.at("other"), producer={"step": "prepare"}) as folder:
        shutil.copytree(run.folder / "run", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        (folder / file.name).write_text(stuck.to_yaml())
    shutil.rmtree(run.folder / "run")
    (run.folder / "other").rename(run.folder / "run")

    with pytest.raises(NumericalError, match=r"did not change a single weight.*raise update\.learning_rate"):
        run.epoch(1)


def test_an_untrained_adapter_measures_as_the_base_does(steps):
    """The reference of an adapter is the base, on the fixed seeds, to the bit."""
    run = steps()
    run.prepare()
    run.train(0, 1)
    run.forget_training()
    run.judge(0)

    evaluation = json.loads((run.folder / "evaluation-0" / "evaluation.json").read_text())
    assert evaluation["reward_vs_base"]["value"] == 0
    assert evaluation["diversity"]["vendi_order2_ratio"] == {"value": 1, "low": 1, "high": 1}


def test_rewards_are_told_the_prompt_of_each_image(steps):
    """In score, in evaluation and in the selection of starts."""
    run = steps("run", {**SELECTED, "reward": {"function": "tests.hrf.colours:named_length"}})
    run.prepare()
    run.epoch(0)

    table = PromptTable.load(run.folder / "run" / "prompts")
    scores = json.loads((run.folder / "scores-0" / "scores.json").read_text())["rewards"]
    assert scores == [len(text) for text in table.texts_of(trajectories(run)["prompts"].tolist())]
    base = json.loads((run.folder / "baseline" / "baseline.json").read_text())
    assert base["rewards"] == [len(table.evaluation[i % 4]) for i in range(8)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"num_samples": 10}}, r"evaluation\.num_samples.*multiple of the 4 evaluation prompts"),
        ({"prompts": {"texts": TEXTS[:4]}}, r"prompts\.held_out_fraction.*at least 4 prompts"),
        ({"prompts": {"texts": ["a", "a", "b"]}}, r"prompts\.texts.*'a' twice"),
        ({"prompts": {"texts": [*TEXTS, "very long winded words here"]}}, r"at most 24 tokens"),
        ({"policy": {"lora": {"targets": ["to_w"]}}}, r"policy\.lora\.targets"),
        ({"prompts": None, "model": {"guidance_scale": 1.0}, "policy": {"lora": None}}, r"prompts.*text-to-image one"),
    ],
)
def test_what_cannot_work_with_this_model_is_refused_by_prepare(steps, changes, message):
    run = steps("run", changes)
    with pytest.raises(ConfigError, match=message):
        run.prepare()
    assert not (run.folder / "baseline").exists()
