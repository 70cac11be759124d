"""`hrf rewards fit-direction` on small networks, and the runs that may use what it writes."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.images import to_images
from hrf.policies.folders import load_policy
from hrf.policies.kinds.stable_diffusion import StableDiffusion
from hrf.policies.prompts import resolve_prompts
from hrf.rewards import build_reward
from hrf.seeds import Purpose, stream
from hrf.storage.folders import read_manifest
from hrf.storage.weights import digest_of
from hrf.storage.yaml_text import dump_yaml, parse_yaml
from hrf.trainer.rollout import Batch, denoise
from hrf_pipelines.cli.main import app
from tests.hrf import small_networks
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.steps.conftest import StepByStep

TEXTS = [*tiny.PROMPTS, "a wise owl", "a big elk", "a sad yak", "a mad ram"]
NUM_SAMPLES = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the networks, and with a configuration `run.yaml`."""
    folder = tmp_path_factory.mktemp("directions")
    tiny.save(folder / "sd")
    pair = small_networks.save_clip_pair(folder / "pair")
    plain = {"name": "pickscore", "model": {"source": str(pair), "sha256": digest_of(pair)}, "batch_size": 4}
    values = {
        "model": {"source": str(folder / "sd"), "guidance_scale": 2.0, "batch_size": 3},
        "prompts": {"texts": TEXTS},
        "policy": {"lora": {"rank": 2, "alpha": 4}},
        "sampler": {"steps": 4},
        "rollout": {"roots": 3, "branches": 2},
        "update": {"minibatch": 3},
        "evaluation": {"num_samples": 8, "features": "pixels", "classifier": ""},
        "gate": {"monitors": {"unrecognised_fraction": None}},
        "reward": plain,
        "run": {"epochs": 1},
    }
    (folder / "run.yaml").write_text(dump_yaml(values), encoding="utf-8")
    return folder


def fit(place, output, *options):
    arguments = ["rewards", "fit-direction", str(place / "run.yaml"), "-o", str(output), *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def direction(place):
    said = fit(place, place / "direction", "--num-samples", str(NUM_SAMPLES))
    assert said.exit_code == 0, said.output
    return said.stdout


def config_of(place, changes=None) -> Config:
    return Config.from_mapping(parse_yaml((place / "run.yaml").read_text(), origin="run")).with_changes(changes or {})


def guided(place, direction) -> dict:
    """The section that the command prints."""
    return parse_yaml(direction[direction.index("reward:") :], origin="printed")


def test_the_losses_are_those_of_the_rewards_themselves_on_the_same_pictures(place, direction):
    """Pictures drawn in one go and scored by the configured rewards. Kills: evaluation prompts; noise of evaluation; a
    loss of the scaled score or with its sign turned; pictures and prompts paired otherwise; training weights."""
    config, about = config_of(place), json.loads((place / "direction" / "about.json").read_text())
    prompts = resolve_prompts(config.prompts, seed=config.evaluation.seed).training
    (place / "embedded").mkdir()
    StableDiffusion().embed_prompts(place / "sd", prompts, negative="").save(place / "embedded")
    policy = load_policy(config, place / "sd", place / "sd", prompts=place / "embedded")
    streams = [stream(config.run.seed, Purpose.TEXT_DIRECTION, index) for index in range(NUM_SAMPLES)]
    numbers = torch.arange(NUM_SAMPLES) % len(prompts)
    samples = denoise(policy, Batch.from_noise(policy, streams, numbers), batch_size=3)
    shown, texts = to_images(policy.decode(samples).cpu().numpy()), [prompts[n] for n in numbers]
    corrected = config.with_changes(guided(place, direction)).reward
    for reward, loss in ((config.reward, "loss_before"), (corrected, "loss_after")):
        # 80 is the small model's scale.
        assert -build_reward(reward)(shown, texts).mean() / 80 == pytest.approx(about[loss], abs=1e-6)
    assert about["loss_after"] < about["loss_before"] - 0.01


def test_it_tells_the_losses_the_norm_and_how_near_the_closed_form_is(place, direction):
    about = json.loads((place / "direction" / "about.json").read_text())
    assert about["norm"] == pytest.approx(0.2)
    assert 0.9 < about["closed_form_cosine"] <= 1
    assert f"{about['loss_before']:.4f} -> {about['loss_after']:.4f}" in direction
    assert f"cosine {about['closed_form_cosine']:.4f}" in direction


def test_the_same_command_gives_the_same_bytes(place, direction):
    said = fit(place, place / "again", "--num-samples", str(NUM_SAMPLES), "--json")
    assert json.loads(said.stdout)["sha256"] == digest_of(place / "direction") == digest_of(place / "again")


def test_a_run_on_the_same_base_and_prompts_is_prepared_and_others_are_refused(place, direction, tmp_path, storage_uri):
    """Kills: a digest of the base that depends on who fetched it; the check left out of `prepare`."""

    def prepare(name: str, changes: dict) -> None:
        StepByStep(tmp_path / name, storage_uri, config_of(place, changes)).prepare(name)

    plain = config_of(place).to_mapping()["reward"]
    prepare("same", {**guided(place, direction), "run": {"seed": 5}, "evaluation": {"held_out_reward": plain}})
    tiny.save(tmp_path / "other", seed=1)
    other = {"model": {"source": str(tmp_path / "other")}, "prompts": {"texts": [*TEXTS, "a red hen"]}}
    with pytest.raises(ConfigError, match="the run's own base and prompts: ") as caught:
        prepare("other", {**other, "evaluation": {"held_out_reward": guided(place, direction)["reward"]}})
    assert caught.value.field == "evaluation.held_out_reward.direction"


def test_the_folder_says_who_wrote_it(place, direction):
    assert read_manifest(place / "direction").producer["step"] == "fit-direction"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-samples", "5"), "at least 6, a picture for each"),
        (("--norm", "1"), "between 0 and 1"),
        (("--weight", "0.5"), "more than 0.5"),
        (("--learning-rate", "0"), "more than 0"),
        (("--set", "reward.name=jpeg_compressibility"), "clip_score or pickscore"),
        (("--set", "prompts=null", "--set", "policy.lora=null", "--set", "model.guidance_scale=1"), "unconditional"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(place, tmp_path, options, message):
    said = fit(place, tmp_path / "direction", *options)
    assert said.exit_code == 3, said.output
    assert message in " ".join(said.output.replace("│", " ").split())
    assert not (tmp_path / "direction").exists()


def test_a_folder_that_is_there_is_not_replaced(place, tmp_path):
    (tmp_path / "mine").write_text("")
    said = fit(place, tmp_path)
    assert said.exit_code == 3
    assert "not there yet" in said.output
    assert (tmp_path / "mine").exists()
