"""The evaluation record: what it says of the base itself, of a better, a collapsed and a broken candidate."""

import colorsys
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from hrf.config import Evaluation, Monitors
from hrf.core.diversity import coverage_density, frechet_distance, vendi_order2_ratio_interval, vendi_score
from hrf.errors import ArtifactError, NumericalError
from hrf.evaluation.measure import Measured, evaluation_record, measure
from hrf.evaluation.measured import mode_entropy, mode_histogram
from hrf.evaluation.record import Estimate, EvaluationRecord, Fidelity, Interval, MonitorReading
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import build_embedder
from hrf.rewards import CheckedReward
from hrf.steps.numbers import evaluation_metrics
from tools.base_model.initial_weights import reinitialise

COUNT = 40
LABELS = ("cat", "dog", "unrecognised")
BRIGHTNESS = CheckedReward(name="brightness", score=lambda images, prompts: images.mean(axis=(1, 2, 3)))
REDNESS = CheckedReward(name="redness", score=lambda images, prompts: images[:, 0].mean(axis=(1, 2)))
SETTINGS = Evaluation(num_samples=COUNT)


def pictures(seed: int, count: int = COUNT) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    colours = generator.random((count, 3, 1, 1), dtype=np.float32)
    images = 0.7 * colours + 0.3 * generator.random((count, 3, 8, 8), dtype=np.float32)
    # So few bits that the way to samples and back is exact.
    return (np.rint(4096 * images) / 4096).astype(np.float32)


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    model = ImageClassifier(LABELS, image_size=8, channels=(4, 4, 4, 6)).eval()
    reinitialise(model, torch.Generator().manual_seed(1))
    return model


def measured(images: NDArray[np.float32], classifier: ImageClassifier, held_out: bool = True) -> Measured:
    return measure(
        2 * images - 1,
        reward=BRIGHTNESS,
        held_out_reward=REDNESS if held_out else None,
        embedder=build_embedder(SETTINGS, classifier),
        classifier=classifier,
    )


def record(candidate: Measured, base: Measured, **changes: Any) -> EvaluationRecord:
    arguments = {"settings": SETTINGS, "limits": Monitors(), "epoch": 3, "num_evaluations": 1234, **changes}
    return evaluation_record(candidate, base, **arguments)


def with_modes(source: Measured, classes: list[int]) -> Measured:
    return replace(source, probabilities=0.7 * np.eye(3)[classes] + 0.1)


def test_measurements_belong_to_their_image(classifier: ImageClassifier) -> None:
    images = pictures(0)
    whole, part = measured(images, classifier), measured(images[7:9], classifier)
    np.testing.assert_array_equal(whole.rewards[7:9], part.rewards)
    np.testing.assert_array_equal(whole.held_out_rewards[7:9], images[7:9, 0].mean(axis=(1, 2)))
    np.testing.assert_allclose(whole.features[7:9], part.features, rtol=1e-5)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1.0)
    assert (whole.labels, whole.reward_name, whole.held_out_reward_name) == (LABELS, "brightness", "redness")


def test_the_record_of_the_base_itself_shows_no_difference(classifier: ImageClassifier) -> None:
    base = measured(pictures(0), classifier)
    made = record(base, base)
    nothing = Estimate(value=0.0, low=0.0, high=0.0, standard_error=0.0)
    assert made.reward_vs_base == made.held_out_reward_vs_base == nothing
    assert made.diversity.vendi_order2_ratio == Interval(value=1.0, low=1.0, high=1.0)
    assert (made.fidelity.coverage, made.fidelity.density) == (1.0, 1.0)
    assert made.fidelity.classifier_frechet_distance == pytest.approx(0.0, abs=1e-9)
    assert {name: reading.change for name, reading in made.monitors.items()} == dict.fromkeys(
        Monitors.model_fields, 0.0
    )
    assert not any(reading.tripped for reading in made.monitors.values())


def test_the_record_holds_the_metrics_of_candidate_against_base(classifier: ImageClassifier) -> None:
    """Kills: candidate and base swapped, in any of the metrics that know the two apart."""
    base, candidate = measured(pictures(0), classifier), measured(np.minimum(pictures(0) + 0.1, 1), classifier)
    made = record(candidate, base)
    paired = stats.ttest_rel(candidate.rewards, base.rewards).confidence_interval(0.95)
    assert made.reward_vs_base.low == pytest.approx(paired.low)
    assert made.reward_vs_base.low > 0.0
    assert made.reward.name == "brightness"
    assert made.reward.value == pytest.approx(candidate.rewards.mean())
    assert made.reward.standard_error == pytest.approx(stats.sem(candidate.rewards))
    assert made.held_out_reward.value == pytest.approx(candidate.held_out_rewards.mean())
    assert made.held_out_reward_vs_base.value > 0.0
    features, base_features = torch.from_numpy(candidate.features), torch.from_numpy(base.features)
    ratio = vendi_order2_ratio_interval(features, base_features)
    assert made.diversity.vendi_order2_ratio == Interval(value=ratio.value, low=ratio.low, high=ratio.high)
    assert made.diversity.vendi_order1 == vendi_score(features)
    fidelity = made.fidelity
    assert (fidelity.coverage, fidelity.density) == coverage_density(features, base_features)
    assert fidelity.classifier_frechet_distance == frechet_distance(features, base_features)
    assert made.rewards == candidate.rewards.tolist()
    assert (made.epoch, made.num_samples, made.num_evaluations) == (3, COUNT, 1234)


def test_a_record_is_plain_json(classifier: ImageClassifier) -> None:
    made = record(measured(pictures(1), classifier), measured(pictures(0), classifier))
    assert EvaluationRecord.parse(json.loads(json.dumps(made.as_json(), allow_nan=False)), "here") == made
    assert list(made.as_json()["reward"]) == ["name", "value", "low", "high", "standard_error"]
    assert {"prompts", "by_prompt"}.isdisjoint(made.as_json())
    assert "across_prompts_vendi_order2" not in made.as_json()["diversity"]


def test_a_collapsed_candidate_shows_in_diversity_and_modes(classifier: ImageClassifier) -> None:
    base = measured(pictures(0), classifier)
    collapsed = measured(np.repeat(pictures(0)[:1], COUNT, axis=0), classifier)
    made = record(collapsed, base)
    assert made.diversity.vendi_order2.value == pytest.approx(1.0)
    assert made.diversity.mean_pairwise_distance == pytest.approx(0.0, abs=1e-12)
    assert made.diversity.vendi_order2_ratio.high < 1.0
    assert made.fidelity.coverage < 0.5
    assert max(made.modes.values()) == COUNT
    assert made.mode_entropy in (0.0, None)


def test_a_blackened_candidate_trips_the_monitors(classifier: ImageClassifier) -> None:
    images = pictures(0)
    made = record(measured(images * np.float32(0.05), classifier), measured(images, classifier))
    tripped = {name for name, reading in made.monitors.items() if reading.tripped}
    assert {"dark_pixel_fraction", "edge_density", "colour_entropy"} <= tripped


def test_a_tint_turns_the_hue_of_all_images_together(classifier: ImageClassifier) -> None:
    """Kills: the mean of each image's own hue; saturation, value and contrast stored in each other's place."""
    images = pictures(0)
    turned = images[:, [2, 0, 1]]  # what was red is green, and so on: 120 degrees
    base, candidate = measured(images, classifier), measured(turned, classifier)
    monitors = record(candidate, base, limits=Monitors(mean_hue=119)).monitors
    red, green, blue = images.astype(float).transpose(1, 0, 2, 3).reshape(3, -1)
    hues, saturations, _ = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in zip(red, green, blue, strict=True)]).T
    mean = stats.circmean(np.repeat(hues, np.rint(500 * saturations).astype(int)), high=1.0)
    assert monitors["mean_hue"].base == pytest.approx(360 * mean, abs=1.0)
    assert monitors["mean_hue"].change == pytest.approx(120.0)
    assert monitors["mean_hue"].tripped
    assert monitors["photographic_variance"].value != monitors["photographic_variance"].base  # luma changed
    assert np.ptp(candidate.exposures[:, :2] - base.exposures[:, :2]) < 1e-9


def test_a_candidate_that_goes_grey_has_no_hue_and_exceeds_any_limit_of_it(classifier: ImageClassifier) -> None:
    """Kills: grey as a hue of 0, or as no change of the base's."""
    base = measured(pictures(0), classifier)
    grey = measured(np.repeat(pictures(0)[:, :1], 3, axis=1), classifier)
    unlimited, limited = (record(grey, base, limits=Monitors(mean_hue=limit)) for limit in (None, 90.0))
    lost = {"value": None, "base": unlimited.monitors["mean_hue"].base, "change": None}
    assert unlimited.monitors["mean_hue"] == MonitorReading(**lost, limit=None, tripped=False)
    assert limited.monitors["mean_hue"] == MonitorReading(**lost, limit=90.0, tripped=True)
    assert {"mean_hue", "hue_shift"}.isdisjoint(evaluation_metrics(limited))
    assert not record(base, grey, limits=Monitors(mean_hue=90.0)).monitors["mean_hue"].tripped
    assert evaluation_metrics(record(base, base))["hue_shift"] == 0.0


def test_images_that_are_exposed_alike_lose_photographic_variance(classifier: ImageClassifier) -> None:
    base = measured(pictures(0), classifier)
    alike = measured(np.repeat(pictures(0)[:1], COUNT, axis=0), classifier)
    reading = record(alike, base, limits=Monitors(photographic_variance=0.9)).monitors["photographic_variance"]
    assert reading.change == pytest.approx(-1.0)
    assert reading.tripped


def test_modes_are_counted_and_nonsense_is_no_mode(classifier: ImageClassifier) -> None:
    """Kills: nonsense counted into the entropy; shares of all samples, not of the recognised; the wrong label last."""
    base = with_modes(measured(pictures(0), classifier), [0] * 20 + [1] * 20)
    candidate = with_modes(base, [0] * 15 + [1] * 5 + [2] * 20)
    made = record(candidate, base)
    assert made.modes == {"cat": 15, "dog": 5, "unrecognised": 20}
    assert made.mode_entropy == pytest.approx(stats.entropy([0.75, 0.25]))
    assert made.mean_confidence == pytest.approx(0.8)
    assert made.monitors["unrecognised_fraction"].change == 0.5
    assert made.monitors["unrecognised_fraction"].tripped
    assert mode_entropy(base) == pytest.approx(math.log(2))


def test_entropy_of_one_mode_is_zero_and_of_nothing_recognised_is_none(classifier: ImageClassifier) -> None:
    source = measured(pictures(0), classifier)
    assert mode_entropy(with_modes(source, [1] * COUNT)) == 0.0
    assert mode_entropy(with_modes(source, [2] * COUNT)) is None


def test_what_was_not_measured_is_none(classifier: ImageClassifier) -> None:
    settings = Evaluation(num_samples=8, features="pixels", classifier="")
    few = measure(
        2 * pictures(0, count=8) - 1,
        reward=BRIGHTNESS,
        held_out_reward=None,
        embedder=build_embedder(settings, None),
        classifier=None,
    )
    made = record(few, few, settings=settings, limits=Monitors(unrecognised_fraction=None))
    assert made.held_out_reward is made.held_out_reward_vs_base is None
    assert made.modes is made.mode_entropy is made.mean_confidence is None
    assert made.fidelity == Fidelity(
        coverage=1.0, density=1.0, classifier_frechet_distance=None, classifier_inception_score=None
    )
    assert made.diversity.features == "pixels"
    assert set(made.monitors) == set(Monitors.model_fields) - {"unrecognised_fraction"}
    assert mode_histogram(few) is None


def test_samples_on_which_a_metric_has_no_value_are_named(classifier: ImageClassifier) -> None:
    base = measured(pictures(0), classifier)
    features = base.features.copy()
    features[4] = 0.0
    with pytest.raises(NumericalError, match=r"sample 4 has features of length zero.*epoch=3, evaluation seed=0"):
        record(replace(base, features=features), base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_name": "beauty"}, "differ in reward_name"),
        ({"labels": ("dog", "cat", "unrecognised")}, "differ in labels"),
        ({"held_out_reward_name": None, "held_out_rewards": None}, "differ in held_out_reward_name"),
        ({"features": np.ones((COUNT, 2), dtype=np.float32)}, "differ in the shape"),
    ],
)
def test_candidate_and_base_must_be_measured_alike(
    classifier: ImageClassifier, changes: dict[str, Any], message: str
) -> None:
    base = measured(pictures(0), classifier)
    with pytest.raises(ValueError, match=message):
        record(replace(base, **changes), base)


def test_another_number_of_samples_than_the_settings_ask_for_is_refused(classifier: ImageClassifier) -> None:
    base = measured(pictures(0), classifier)
    with pytest.raises(ValueError, match="ask for 192 samples, 40 were measured"):
        record(base, base, settings=Evaluation())


@pytest.mark.parametrize("held_out", [True, False])
def test_measurements_survive_a_folder_bit_for_bit(classifier: ImageClassifier, tmp_path: Path, held_out: bool) -> None:
    original = measured(pictures(0), classifier, held_out)
    original.save(tmp_path)
    loaded = Measured.load(tmp_path)
    assert record(loaded, original) == record(original, original)
    names = (
        "rewards",
        "held_out_rewards",
        "features",
        "probabilities",
        "dark_pixel_fraction",
        "exposures",
        "hue_vectors",
    )
    for name in names:
        ours, theirs = getattr(original, name), getattr(loaded, name)
        if ours is None:
            assert theirs is None
        else:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_measurements_without_a_classifier_survive_a_folder(classifier: ImageClassifier, tmp_path: Path) -> None:
    replace(measured(pictures(0), classifier), probabilities=None, labels=None).save(tmp_path)
    assert Measured.load(tmp_path).labels is None


@pytest.mark.parametrize("damage", ["no tensors", "no names", "cut short", "other names", "other lengths"])
def test_a_damaged_folder_is_refused(classifier: ImageClassifier, tmp_path: Path, damage: str) -> None:
    whole = measured(pictures(0), classifier)
    whole.save(tmp_path)
    tensors, names = tmp_path / "measured.safetensors", tmp_path / "measured.json"
    match damage:
        case "no tensors":
            tensors.unlink()
        case "no names":
            names.unlink()
        case "cut short":
            tensors.write_bytes(tensors.read_bytes()[:-100])
        case "other names":
            names.write_text(json.dumps({"labels": None, "taste": 1}))
        case "other lengths":
            text = json.loads(names.read_text())
            names.write_text(json.dumps({**text, "labels": ["cat", "unrecognised"]}))
    with pytest.raises(ArtifactError, match="Fix: run the step"):
        Measured.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": np.zeros(COUNT - 1)},
        {"features": np.zeros(COUNT, dtype=np.float32)},
        {"held_out_reward_name": None},
        {"labels": None},
        {"labels": ("cat", "unrecognised")},
    ],
    ids=["lengths", "ranks", "nameless reward", "nameless classes", "too few names"],
)
def test_measurements_that_do_not_fit_together_are_refused(
    classifier: ImageClassifier, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"expected|come together|one label"):
        replace(measured(pictures(0), classifier), **changes)
