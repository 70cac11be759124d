"""Image features: what they are, and that a row belongs to its own image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hrf.config import Evaluation
from hrf.errors import ArtifactError
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import CLASSIFIER_BATCH, build_embedder, classifier_features, pixel_features
from hrf.networks.settings import Encoder
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf import small_networks
from tools.base_model.initial_weights import reinitialise


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
    from_pixels = build_embedder(Evaluation(features="pixels"), None)(images)
    from_classifier = build_embedder(Evaluation(features="classifier"), classifier)(images)
    torch.testing.assert_close(from_pixels, pixel_features(images))
    torch.testing.assert_close(from_classifier, classifier_features(images, classifier))


def test_classifier_features_without_a_classifier_are_refused() -> None:
    with pytest.raises(ValueError, match="need a classifier"):
        build_embedder(Evaluation(features="classifier"), None)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": small_networks.save_open_clip(root / "clip"),
        "dinov2": small_networks.save_dinov2(root / "dinov2"),
    }


def with_encoder(features: str, folder: Path) -> Evaluation:
    model = PinnedWeights(source=str(folder), sha256=digest_of(folder))
    return Evaluation(features=features, encoder=Encoder(model=model, batch_size=4))


def prepared(images: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    pixels = np.floor(images.astype(np.float64) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return torch.stack([transform(Image.fromarray(picture)) for picture in pixels])


def test_clip_features_are_open_clips_unit_image_embeddings(encoders: dict[str, Path]) -> None:
    images = small_networks.images(5)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{encoders['clip']}")
    with torch.no_grad():
        expected = model.eval().encode_image(prepared(images, preprocess))
    expected = expected / expected.norm(dim=1, keepdim=True)
    # Calls of another size round differently.
    torch.testing.assert_close(
        build_embedder(with_encoder("clip", encoders["clip"]), None)(images), expected, atol=1e-6, rtol=1e-4
    )


def test_dinov2_features_are_its_class_token_after_the_last_norm(encoders: dict[str, Path]) -> None:
    """Kills: the mean over patches, the token before the norm."""
    images, folder = small_networks.images(5), encoders["dinov2"]
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        shown = prepared(images, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0])
        expected = model(shown).pooler_output
    features = build_embedder(with_encoder("dinov2", folder), None)(images)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features", ["clip", "dinov2"])
def test_an_encoders_row_is_the_same_bits_in_any_company(encoders: dict[str, Path], features: str) -> None:
    images, settings = small_networks.images(6), with_encoder(features, encoders[features])
    embedder = build_embedder(settings, None)
    whole = embedder(images)
    assert torch.equal(whole, torch.cat([embedder(image[None]) for image in images]))
    assert torch.equal(whole, embedder(images[::-1].copy()).flip(0))


def test_an_encoder_of_another_kind_is_refused(encoders: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match=r"open_clip_config.json: there is no such file"):
        build_embedder(with_encoder("clip", encoders["dinov2"]), None)
    with pytest.raises(ArtifactError, match=r"no model.safetensors here"):
        build_embedder(with_encoder("dinov2", encoders["clip"]), None)
