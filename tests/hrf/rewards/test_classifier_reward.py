"""The probability of a class, against the classifier called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrf.errors import ArtifactError, ConfigError
from hrf.networks.classifier import ImageClassifier
from hrf.rewards import build_reward
from hrf.rewards.classifier import ClassifierReward
from tools.base_model.initial_weights import reinitialise

LABELS = ("squares", "circles", "unrecognised")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    classifier = ImageClassifier(LABELS, image_size=16, channels=(4, 4, 8, 8))
    reinitialise(classifier, torch.Generator().manual_seed(0))
    target = tmp_path_factory.mktemp("classifier")
    classifier.save_pretrained(target)
    return target


def images(count: int = 5, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, size, size), dtype=np.float32)


def build(folder, label: str):
    return build_reward(ClassifierReward(label=label), folder)


def test_the_reward_is_the_softmax_of_the_logits(folder):
    logits = ImageClassifier.from_pretrained(folder)(torch.tensor(images())).detach().double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for index, label in enumerate(LABELS):
        # The reward computes in double precision, the oracle's logits are float32.
        np.testing.assert_allclose(build(folder, label)(images()), expected[:, index], rtol=1e-5)


def test_the_probabilities_of_all_classes_add_up_to_one(folder):
    total = sum(build(folder, label)(images()) for label in LABELS)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_batching_does_not_show(folder):
    reward = build(folder, "circles")
    single = np.concatenate([reward(image[None]) for image in images()])
    np.testing.assert_allclose(reward(images()), single, rtol=1e-12)


def test_many_images_are_scored_in_order(folder):
    """Kills a batch loop that drops or repeats the rest: 300 is more than one batch."""
    many = images(300)
    reward = build(folder, "circles")
    np.testing.assert_allclose(reward(many)[[0, 255, 256, 299]], reward(many[[0, 255, 256, 299]]), rtol=1e-12)


def test_the_name_tells_the_class(folder):
    assert build(folder, "circles").name == "classifier:circles"


def test_an_unknown_class_is_answered_with_the_classes(folder):
    with pytest.raises(ConfigError) as caught:
        build(folder, "triangles")
    assert caught.value.field == "reward.label"
    assert "squares, circles, unrecognised" in caught.value.expected


def test_images_of_another_size_are_a_mistake_in_the_configuration(folder):
    with pytest.raises(ConfigError, match="32 x 32") as caught:
        build(folder, "circles")(images(size=32))
    assert caught.value.field == "reward.classifier"


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ArtifactError):
        build(tmp_path, "circles")
    with pytest.raises(ConfigError, match="classifier"):
        build(None, "circles")
