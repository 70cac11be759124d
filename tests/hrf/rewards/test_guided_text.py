"""The corrected cosine rewards against their formula in numpy, and the runs that a direction is not for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.rewards import build_reward, reward_words
from hrf.rewards.clip_score import ClipScoreReward
from hrf.rewards.direction import DirectionRecord, TextDirection, prompts_digest
from hrf.rewards.guided_text import GuidedTextReward
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.pickscore import PickScoreReward
from hrf.rewards.weighted_sum import Term, WeightedSumReward
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf.small_networks import images

PROMPTS = ["a red cat", "two dogs in the rain", "a red cat", "", "one long prompt " * 20]
VECTOR = 0.3 * torch.nn.functional.normalize(torch.arange(24, dtype=torch.float64) % 5 - 2, dim=0)
ABOUT = {
    "base": "b" * 64,
    "prompts": prompts_digest(PROMPTS),
    "num_samples": 4,
    "seed": 0,
    "weight": 1.5,
    "max_norm": 0.3,
    "steps": 1,
    "learning_rate": 0.1,
    "norm": 0.3,
    "loss_before": 0.0,
    "loss_after": 0.0,
    "closed_form_cosine": 1.0,
}


def weights(folder) -> PinnedWeights:
    return PinnedWeights(source=str(folder), sha256=digest_of(folder))


@pytest.fixture
def plain(networks, request):
    """The score that is corrected."""
    if request.param == "clip_score":
        return ClipScoreReward(clip=weights(networks["clip"]), batch_size=4)
    return PickScoreReward(model=weights(networks["pair"]), batch_size=4)


BOTH = pytest.mark.parametrize("plain", ["clip_score", "pickscore"], indirect=True)
ONE = pytest.mark.parametrize("plain", ["clip_score"], indirect=True)


@pytest.fixture
def guided(tmp_path):
    """Makes the settings of a corrected score, with a direction that was fitted for it."""

    def make(plain, vector=VECTOR, *, weight: float = 1.5, encoder=None) -> GuidedTextReward:
        record = DirectionRecord(encoder=encoder or plain.encoder_pins(), **ABOUT)
        TextDirection(vector=vector, record=record).save(tmp_path / "direction", {"step": "fit-direction"})
        return GuidedTextReward(reward=plain, direction=weights(tmp_path / "direction"), weight=weight)

    return make


@BOTH
def test_the_score_is_the_formulas_on_the_scale_of_the_score_that_is_corrected(plain, guided):
    """Kills: the scale left out; w, b or a prompt exchanged; images led, too."""
    shown, cosine, b = images(5), plain.cosine("reward", device=None), VECTOR.numpy()

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    u, e = (part.double().numpy() for part in (cosine.encoder.embed_images(shown), cosine.encoder.embed_texts(PROMPTS)))
    towards, away = unit(e + b), unit(e - b)
    expected = cosine.scale * (u * unit(away + 2.5 * (towards - away))).sum(axis=1)
    reward = build_reward(guided(plain, weight=2.5))
    np.testing.assert_allclose(reward(shown, PROMPTS), expected, rtol=1e-9)
    assert np.abs(expected - build_reward(plain)(shown, PROMPTS)).max() > 0.01 * cosine.scale
    assert reward.name == f"guided_text:{plain.name}"


@BOTH
@pytest.mark.parametrize("weight", [0.75, 3.0])
def test_without_a_direction_it_is_the_plain_score(plain, guided, weight):
    """Embeddings have length 1 to float32's rounding, 80 times for PickScore."""
    reward = build_reward(guided(plain, torch.zeros_like(VECTOR), weight=weight))
    np.testing.assert_allclose(reward(images(5), PROMPTS), build_reward(plain)(images(5), PROMPTS), atol=2e-5)


@ONE
def test_a_score_is_the_same_bits_in_any_company(plain, guided):
    reward, shown = build_reward(guided(plain)), images(5)
    single = [reward(image[None], [prompt])[0] for image, prompt in zip(shown, PROMPTS, strict=True)]
    assert reward(shown, PROMPTS).tolist() == single


@ONE
def test_a_direction_of_another_encoder_is_refused_before_the_encoder_is_loaded(plain, guided):
    """Kills: the check left out; one of the encoder's kind alone."""
    settings = guided(plain, encoder={"clip_score.clip": "0" * 64})
    with pytest.raises(ConfigError, match=r"hrf rewards fit-direction") as caught:
        build_reward(settings)
    assert caught.value.field == "reward.direction"
    assert plain.clip.sha256 in caught.value.expected
    assert "0" * 64 in caught.value.got


def test_the_pins_of_an_encoder_name_all_that_its_embeddings_depend_on():
    hub, local = {"source": "hf:a/b", "revision": "1" * 40}, {"source": "x", "sha256": "2" * 64}
    reward = PickScoreReward(model=PinnedWeights(**hub), processor=PinnedWeights(**local))
    assert reward.encoder_pins() == {"pickscore.model": "1" * 40, "pickscore.processor": "2" * 64}


@ONE
@pytest.mark.parametrize("other", ["base", "prompts"])
def test_another_base_and_other_prompts_are_refused_by_name(plain, guided, other):
    """Kills: either left out; the order of the prompts taken for a difference."""
    settings, own = guided(plain), {"base": "b" * 64, "prompts": PROMPTS[::-1]}
    settings.check_fitted("reward", **own)
    with pytest.raises(ConfigError, match=f"the run's own {other}: {other}") as caught:
        settings.check_fitted("reward", **{**own, other: ["a red cat"] if other == "prompts" else "c" * 64})
    assert caught.value.field == "reward.direction"


@ONE
def test_it_can_be_a_term_and_is_asked_there_for_what_it_was_fitted(plain, guided):
    term = guided(plain)
    total = WeightedSumReward(terms=(Term(reward=term, weight=3.0), Term(reward=JpegReward())))
    shown, jpeg = images(5), build_reward(JpegReward())
    np.testing.assert_allclose(
        build_reward(total)(shown, PROMPTS), 3 * build_reward(term)(shown, PROMPTS) + jpeg(shown)
    )
    leaves = {path: section for section, path in total.leaves("reward")}
    assert leaves == {
        "reward.terms[0].reward": term,
        "reward.terms[0].reward.reward": plain,
        "reward.terms[1].reward": JpegReward(),
    }


@ONE
def test_a_damaged_direction_is_refused(plain, guided, tmp_path):
    settings = guided(plain)
    file = tmp_path / "direction" / "direction.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="its sha256 is"):
        build_reward(settings)
    # Pinned as it is now, it is still not what was written.
    with pytest.raises(ArtifactError, match="the manifest says"):
        build_reward(settings.model_copy(update={"direction": weights(tmp_path / "direction")}))


@ONE
def test_without_prompts_there_is_no_score(plain, guided):
    with pytest.raises(ConfigError, match="unconditional"):
        build_reward(guided(plain))(images(2))


def test_what_is_no_cosine_is_refused_with_what_is_one():
    with pytest.raises(ConfigError, match="one of clip_score, pickscore") as caught:
        Config.from_mapping({"reward": {"name": "guided_text", "reward": {"name": "aesthetic"}}})
    assert caught.value.field == "reward.reward.name"


def test_a_report_says_which_score_is_corrected():
    words = reward_words({"name": "guided_text", "reward": {"name": "pickscore"}}, "guided_text:pickscore")
    assert words.endswith("base's pictures (pickscore): larger is better")
