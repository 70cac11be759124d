"""Pictures that a run's classifier, or its grid of pixels, can't take: refused by `prepare`, which knows both."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from hrf.errors import ConfigError
from hrf.networks.classifier import ImageClassifier
from tests.hrf.toys import small_unet

WITH_CLASSIFIER = {"features": "classifier", "classifier": "shipped"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of pictures of 16 x 16; the model's have 8 x 8."""
    folder = tmp_path_factory.mktemp("classifier")
    ImageClassifier(("cat", "unrecognised"), image_size=16, channels=(4, 4, 4, 6)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of pictures of 12 x 12, which no grid of 8 x 8 boxes divides."""
    folder = tmp_path_factory.mktemp("model") / "odd"
    DDPMPipeline(small_unet(size=12, kind=UNet2DModel), DDPMScheduler()).save_pretrained(folder)
    return str(folder)


def refused(run) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        run.prepare()
    assert not Path(run.at("run")).exists()
    assert not Path(run.at("baseline")).exists()
    return caught.value


def test_the_classifier_that_comes_along_is_for_pictures_of_its_own_size(steps) -> None:
    error = refused(steps(changes={"evaluation": WITH_CLASSIFIER}))
    assert (error.field, error.got) == ("evaluation.classifier", "one of 32 x 32 pictures")
    assert "8 x 8 pictures" in error.expected
    assert "gate.monitors.unrecognised_fraction: null" in error.fix


@pytest.mark.parametrize("place", ["reward", "shaping", "held out", "term"])
def test_a_rewards_classifier_is_for_pictures_of_the_models_size(steps, classifier: str, place: str) -> None:
    reward = {"name": "classifier", "label": "cat", "classifier": classifier}
    terms = [{"reward": {"name": "jpeg_compressibility"}, "weight": 1.0}, {"reward": reward, "weight": 1.0}]
    changes, field = {
        "reward": ({"reward": reward}, "reward"),
        "shaping": ({"shaping": {"reward": reward}}, "shaping.reward"),
        "held out": ({"evaluation": {"held_out_reward": reward}}, "evaluation.held_out_reward"),
        "term": ({"reward": {"name": "weighted_sum", "terms": terms}}, "reward.terms[1].reward"),
    }[place]
    error = refused(steps(changes=changes))
    assert (error.field, error.got) == (f"{field}.classifier", "one of 16 x 16 pictures")


def test_averages_over_a_grid_need_pictures_that_divide_into_it(steps, odd_model: str) -> None:
    error = refused(steps(changes={"model": {"source": odd_model}}))
    assert (error.field, error.got) == ("evaluation.features", "pixels")
    assert "12 x 12" in error.expected


def test_start_steps_are_chosen_by_such_averages_too(steps, odd_model: str, tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    # No classifier has sides of 12: the grid is what is looked at first.
    ImageClassifier(("cat", "unrecognised"), image_size=16, channels=(4, 4, 4, 6)).save_pretrained(folder)
    changes = {
        "model": {"source": odd_model},
        "evaluation": {"features": "classifier", "classifier": str(folder)},
        "starts": {"kind": "selected", "schedule": "uniform", "width": 0.0},
    }
    error = refused(steps(changes=changes))
    assert (error.field, error.got) == ("starts.kind", "selected")
