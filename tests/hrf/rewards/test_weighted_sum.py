"""Several rewards as one."""

from __future__ import annotations

import numpy as np
import pytest

from hrf.config import Config
from hrf.errors import ConfigError, NumericalError
from hrf.rewards import build_reward
from hrf.rewards.clip_score import ClipScoreReward
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.python import PythonReward
from hrf.rewards.weighted_sum import Term, WeightedSumReward
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf.small_networks import images

SOURCE = """
def redness(images):
    return images[:, 0].mean(axis=(1, 2))
def lengths(images, prompts):
    return [len(prompt) for prompt in prompts]
def infinite(images):
    return [float("inf")] * len(images)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "sum_rewards.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def function(name: str, **numbers) -> Term:
    return Term(reward=PythonReward(function=f"sum_rewards:{name}"), **numbers)


JPEG = Term(reward=JpegReward(), weight=2.0, mean=-3.0, std=0.5)


def test_terms_are_normalised_weighted_and_added(functions):
    """Kills: multiplying by the deviation, adding the mean, weights left out."""
    shown = images(4)
    reward = build_reward(WeightedSumReward(terms=(JPEG, function("redness", weight=-1.0, mean=0.5, std=0.1))))
    jpeg, red = build_reward(JpegReward())(shown), shown[:, 0].mean(axis=(1, 2)).astype(np.float64)
    np.testing.assert_allclose(reward(shown), 2 * (jpeg + 3) / 0.5 - (red - 0.5) / 0.1, rtol=1e-12)
    assert reward.name == "2 jpeg_compressibility + -1 sum_rewards:redness"


def test_the_normalisation_is_a_number_and_no_statistic_of_the_batch(functions):
    shown = images(5)
    reward = build_reward(WeightedSumReward(terms=(JPEG, function("redness"))))
    assert [reward(image[None])[0] for image in shown] == reward(shown).tolist()


def test_a_sum_needs_prompts_if_a_term_does(functions):
    alone = build_reward(WeightedSumReward(terms=(JPEG, function("redness"))))
    both = build_reward(WeightedSumReward(terms=(JPEG, function("lengths"))))
    assert (alone.needs_prompts, both.needs_prompts) == (False, True)
    np.testing.assert_allclose(both(images(2), ["a", "abc"]) - 4 * build_reward(JpegReward())(images(2)), [13, 15])
    with pytest.raises(ConfigError, match="unconditional"):
        both(images(2))


def test_a_terms_mistake_carries_its_name(functions):
    reward = build_reward(WeightedSumReward(terms=(JPEG, function("infinite"))))
    with pytest.raises(NumericalError, match="'sum_rewards:infinite': a score is inf"):
        reward(images(1))
    with pytest.raises(ConfigError) as caught:
        build_reward(WeightedSumReward(terms=(JPEG, function("gone"))))
    assert caught.value.field == "reward.terms[1].reward.function"


def test_networks_can_be_terms(networks):
    clip = ClipScoreReward(clip=PinnedWeights(source=str(networks["clip"]), sha256=digest_of(networks["clip"])))
    reward = build_reward(WeightedSumReward(terms=(Term(reward=clip, weight=3.0), JPEG)))
    alone, jpeg = build_reward(clip), build_reward(JpegReward())
    shown, prompts = images(2), ["a cat", "a dog"]
    np.testing.assert_allclose(reward(shown, prompts), 3 * alone(shown, prompts) + 4 * (jpeg(shown) + 3))


def test_a_sum_of_less_than_two_and_a_weight_of_zero_are_refused():
    jpeg = {"reward": {"name": "jpeg_compressibility"}}
    with pytest.raises(ConfigError, match="at least two") as caught:
        Config.from_mapping({"reward": {"name": "weighted_sum", "terms": [jpeg]}})
    assert caught.value.field == "reward.terms"
    with pytest.raises(ConfigError, match="no effect") as caught:
        Config.from_mapping({"reward": {"name": "weighted_sum", "terms": [jpeg, {**jpeg, "weight": 0.0}]}})
    assert caught.value.field == "reward.terms[1].weight"
