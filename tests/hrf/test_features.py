"""Image features: what they are, and that a row belongs to its own image."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hrf.classifier import ImageClassifier, reinitialise
from hrf.config import Evaluation
from hrf.features import CLASSIFIER_BATCH, build_embedder, classifier_features, embed, pixel_features


@pytest.fixture
def classifier() -> ImageClassifier:
    model = ImageClassifier(("cat", "dog", "unrecognised"), image_size=8, channels=(4, 4, 4, 6)).eval()
    reinitialise(model, torch.Generator().manual_seed(0))
    return model


def pictures(count: int, size: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, 3, size, size), dtype=np.float32)


def test_pixel_features_are_box_means_less_mid_grey() -> None:
    """Kills: rows and columns of boxes swapped; a stride in place of a mean; no centring."""
    images = pictures(2, size=32)
    features = pixel_features(images).reshape(2, 3, 8, 8)
    for row, column in ((0, 0), (2, 5), (7, 7)):
        box = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_allclose(features[:, :, row, column], box.mean(axis=(2, 3)) - 0.5, rtol=1e-5, atol=1e-7)


def test_pixel_features_take_pictures_that_are_not_square() -> None:
    assert pixel_features(np.zeros((1, 3, 16, 24), dtype=np.float32)).shape == (1, 192)


@pytest.mark.parametrize("shape", [(2, 3, 12, 16), (2, 3, 16, 12), (2, 1, 16, 16), (3, 16, 16)])
def test_pixel_features_refuse_what_does_not_divide_into_boxes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        pixel_features(np.zeros(shape, dtype=np.float32))


def test_classifier_features_are_what_its_last_layer_reads(classifier: ImageClassifier) -> None:
    images = pictures(5)
    features = classifier_features(images, classifier)
    assert features.shape == (5, 6)
    torch.testing.assert_close(classifier.head(features), classifier(torch.from_numpy(images)))


def test_an_image_has_the_same_features_in_any_company(classifier: ImageClassifier) -> None:
    images = pictures(CLASSIFIER_BATCH + 3)
    together = classifier_features(images, classifier)
    torch.testing.assert_close(together[-3:], classifier_features(images[-3:], classifier))


def test_the_settings_choose_the_features(classifier: ImageClassifier) -> None:
    images = pictures(3)
    from_pixels = embed(images, Evaluation(features="pixels"), None)
    from_classifier = embed(images, Evaluation(features="classifier"), classifier)
    torch.testing.assert_close(from_pixels, pixel_features(images))
    torch.testing.assert_close(from_classifier, classifier_features(images, classifier))


def test_classifier_features_without_a_classifier_are_refused() -> None:
    with pytest.raises(ValueError, match="need a classifier"):
        build_embedder(Evaluation(features="classifier"), None)
