"""Every reward states what it is, and the statements that can be checked are."""

from __future__ import annotations

import re
from importlib.metadata import metadata, requires

import pytest

from hrf.rewards import CATALOGUE, reward_words
from hrf.rewards.registry import SINGLE_FAMILIES
from hrf.rewards.weighted_sum import WeightedSumReward


@pytest.mark.parametrize("family", [*SINGLE_FAMILIES, WeightedSumReward], ids=lambda family: family.__name__)
def test_every_reward_has_a_record_and_every_record_a_reward(family):
    assert [record.name for record in family.catalogue] == list(family.names())
    assert set(family.catalogue) <= set(CATALOGUE)


@pytest.mark.parametrize("record", CATALOGUE, ids=lambda record: record.name)
def test_a_record_leaves_nothing_open(record):
    for field in ("measures", "range", "direction", "weights", "licence", "cost"):
        assert getattr(record, field), field


def test_the_extra_that_rewards_name_is_one_of_the_package():
    extras = {record.extra for record in CATALOGUE if record.extra}
    assert extras == {"hrf-pipelines[reward]"}
    assert "reward" in metadata("hrf-pipelines").get_all("Provides-Extra")
    # The extra `reward` brings `model` along.
    needed = [line for line in requires("hrf-pipelines") if re.search(r"extra == ['\"](reward|model)['\"]", line)]
    for library in ("torchvision", "open_clip_torch", "transformers", "onnxruntime"):
        assert any(line.startswith(library) for line in needed), library


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"name": "aesthetic"}, "LAION's aesthetic predictor"),
        ({"name": "image_classifier", "labels": ["60-69", "70+"]}, "of transformers (60-69, 70+): larger is better"),
        ({"name": "onnx_classifier", "classes": [50, 81]}, "(50 to 80): larger is better"),
        ({"name": "weighted_sum"}, "(jpeg_compressibility): larger is better"),
    ],
)
def test_the_report_says_what_the_reward_measures(reward, words):
    assert words in reward_words(reward, "jpeg_compressibility")
