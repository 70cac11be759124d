"""Runs that are scored by pretrained networks: what `prepare` packs and refuses, and what the steps make of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hrf.config.overrides import from_settings
from hrf.errors import ArtifactError, ConfigError
from hrf.evaluation.measured import Measured
from hrf.evaluation.samples import EvaluationStarts, evaluation_samples
from hrf.images import to_images
from hrf.networks.classifier import ImageClassifier
from hrf.policies.folders import load_policy
from hrf.rewards import build_reward
from hrf.steps.score import score
from hrf.storage.weights import digest_of
from tests.hrf import small_networks


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    ImageClassifier(("cat", "unrecognised"), image_size=8, channels=(4, 4, 4, 6)).save_pretrained(root / "classifier")
    return {
        "clip": small_networks.save_open_clip(root / "clip", embed_dim=768),
        "head": small_networks.save_head(root / "head.safetensors"),
        "dinov2": small_networks.save_dinov2(root / "dinov2"),
        "classifier": root / "classifier",
    }


def pinned(path) -> dict:
    return {"source": str(path), "sha256": digest_of(path)}


def aesthetic(networks) -> dict:
    return {"name": "aesthetic", "clip": pinned(networks["clip"]), "head": pinned(networks["head"]), "batch_size": 4}


def scored_by(networks) -> dict:
    classifier = {"name": "classifier", "label": "cat", "classifier": str(networks["classifier"])}
    terms = [{"reward": aesthetic(networks), "weight": 2.0, "std": 0.5}, {"reward": classifier, "weight": -1.0}]
    return {
        "reward": {"name": "weighted_sum", "terms": terms},
        "evaluation": {
            "features": "dinov2",
            "encoder": {"model": pinned(networks["dinov2"]), "batch_size": 4},
            "held_out_reward": aesthetic(networks),
        },
    }


def test_a_run_is_scored_and_measured_by_pretrained_networks(steps, networks):
    run = steps(changes=scored_by(networks))
    run.prepare()
    run.epoch(0)
    run.judge(0)

    images = to_images(load_file(run.folder / "samples-0" / "samples.safetensors")["samples"])
    alone = build_reward(run.config.reward.terms[0].reward)
    cats = build_reward(run.config.reward.terms[1].reward, networks["classifier"])
    expected = 2 * alone(images) / 0.5 - cats(images)
    scored = json.loads((run.folder / "scores-0" / "scores.json").read_text())
    np.testing.assert_allclose(scored["rewards"], expected, rtol=1e-12)
    base, starts = run.folder / "base", EvaluationStarts.load(run.folder / "baseline")
    images = to_images(evaluation_samples(load_policy(run.config, base, base), starts, run.config, None))
    measured = Measured.load(run.folder / "baseline" / "base")
    assert measured.features.shape == (8, 32)
    assert measured.held_out_rewards.tolist() == alone(images).tolist()


def test_the_networks_weights_are_not_copied_into_the_run(steps, networks):
    run = steps(changes=scored_by(networks))
    run.prepare()
    packed = {path.relative_to(run.folder / "run").as_posix() for path in (run.folder / "run").rglob("*.safetensors")}
    assert packed == {"classifiers/reward/1/model.safetensors"}


def test_prompts_beside_the_samples_reach_the_reward(steps, tmp_path, monkeypatch):
    (tmp_path / "prompt_rewards.py").write_text(
        "def length(images, prompts=None):\n"
        "    return [len(prompt) for prompt in prompts] if prompts else [0] * len(images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = steps(changes={"reward": {"name": "python", "function": "prompt_rewards:length"}})
    run.prepare()
    run.sample(0)
    score(run=run.at("run"), samples=run.at("samples-0"), epoch=0, replica=0, scores=run.at("scores-0"))
    assert json.loads((run.folder / "scores-0" / "scores.json").read_text())["rewards"] == [0.0] * 6

    samples, prompts = load_file(run.folder / "samples-0" / "samples.safetensors"), ["a", "ab", "", "abc", "a", "b"]
    with_prompts = write_samples(tmp_path / "with_prompts", samples, prompts)
    score(run=run.at("run"), samples=with_prompts, epoch=0, replica=0, scores=run.at("scores-1"))
    assert json.loads((run.folder / "scores-1" / "scores.json").read_text())["rewards"] == [1, 2, 0, 3, 1, 1]

    broken = write_samples(tmp_path / "broken", samples, ["a", 3])
    with pytest.raises(ArtifactError, match="no list of texts"):
        score(run=run.at("run"), samples=broken, epoch=0, replica=0, scores=run.at("scores-2"))


def write_samples(folder, samples: dict, prompts: list) -> str:
    from hrf.storage.folders import writing_folder

    with writing_folder(folder, producer={"step": "sample"}) as target:
        save_file(samples, target / "samples.safetensors")
        (target / "prompts.json").write_text(json.dumps(prompts))
    return str(folder)


def refused(steps, changes: dict) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        steps(changes=changes).prepare()
    return caught.value


@pytest.mark.parametrize("section", ["reward", "shaping.reward", "evaluation.held_out_reward"])
def test_prepare_refuses_a_reward_of_prompts_for_a_model_without_prompts(steps, networks, section):
    clip_score = {"name": "clip_score", "clip": pinned(networks["clip"])}
    error = refused(steps, from_settings([], {section: clip_score}))
    assert error.field == f"{section}.name"
    assert "unconditional" in error.expected


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_prepare_names_what_has_to_be_installed(steps, networks, monkeypatch, library):
    """A None in sys.modules is how Python itself says that a module cannot be imported."""
    monkeypatch.setitem(__import__("sys").modules, library, None)
    error = refused(steps, scored_by(networks))
    assert error.field == {"open_clip": "reward.terms[0].reward.name", "transformers": "evaluation.encoder"}[library]
    assert "pip install hrf-pipelines[reward]" in error.fix


def test_prepare_refuses_weights_that_are_not_the_pinned_ones(steps, networks):
    changes = {"reward": {**aesthetic(networks), "head": {**pinned(networks["head"]), "sha256": "0" * 64}}}
    with pytest.raises(ArtifactError, match=r"reward.head.sha256"):
        steps(changes=changes).prepare()
