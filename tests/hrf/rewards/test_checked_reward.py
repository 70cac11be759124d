"""The border around every reward."""

from __future__ import annotations

import numpy as np
import pytest

from hrf.errors import ConfigError, NumericalError
from hrf.rewards import CheckedReward

BRIGHTNESS = CheckedReward(name="brightness", score=lambda images, prompts: images.mean(axis=(1, 2, 3)))


def images(count: int = 3) -> np.ndarray:
    return np.full((count, 3, 4, 4), 0.5, dtype=np.float32)


def test_scores_come_out_as_float64_one_per_image():
    scores = BRIGHTNESS(images())
    assert scores.dtype == np.float64
    assert scores.tolist() == [0.5] * 3
    assert BRIGHTNESS(images(0)).shape == (0,)


@pytest.mark.parametrize("value", [-1.0, -1e-6, 1.0001, 255.0, np.nan, np.inf])
def test_a_value_outside_zero_to_one_is_refused_and_its_image_named(value):
    bad = images()
    bad[1, 0, 2, 3] = value
    with pytest.raises(NumericalError, match=r"\[0, 1\].*image=1.*to_images"):
        BRIGHTNESS(bad)


def test_the_ends_of_the_range_belong_to_it():
    edge = images(2)
    edge[0], edge[1] = 0, 1
    assert BRIGHTNESS(edge).tolist() == [0, 1]


@pytest.mark.parametrize(
    "bad",
    [images().astype(np.float64), images().astype(np.uint8), images()[0], images()[:, :1], images().tolist()],
    ids=["float64", "bytes", "no batch", "grey", "list"],
)
def test_another_type_or_shape_is_refused(bad):
    with pytest.raises(NumericalError, match="brightness"):
        BRIGHTNESS(bad)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ([1.0, 2.0], r"must be \[3\], got \[2\]"),
        (np.ones((3, 1)), r"must be \[3\], got \[3, 1\]"),
        (1.0, r"must be \[3\], got \[\]"),
        (None, r"must be \[3\]|no numbers"),
        (["a", "b", "c"], "no numbers"),
        ([1.0, np.nan, 2.0], "nan.*image=1"),
        ([1.0, 2.0, -np.inf], "-inf.*image=2"),
    ],
)
def test_missing_or_infinite_scores_are_refused(result, problem):
    reward = CheckedReward(name="odd", score=lambda images, prompts: result)
    with pytest.raises(NumericalError, match=problem):
        reward(images())


def test_a_reward_cannot_change_the_images_it_is_shown():
    def vandal(shown, prompts):
        shown[:] = 0
        return np.zeros(len(shown))

    mine = images()
    with pytest.raises(ValueError, match="read-only"):
        CheckedReward(name="vandal", score=vandal)(mine)
    assert (mine == 0.5).all()
    mine[0] = 0


LENGTH = CheckedReward(
    name="length", score=lambda images, prompts: [len(prompt) for prompt in prompts], needs_prompts=True
)


def test_prompts_reach_the_scorer_in_the_order_of_the_images():
    assert LENGTH(images(), ["a", "abc", "ab"]).tolist() == [1, 3, 2]


@pytest.mark.parametrize("prompts", [[], ["a"], ["a"] * 4, "abc"])
def test_there_is_one_prompt_per_image(prompts):
    """A text of three letters is three strings to Python."""
    with pytest.raises(NumericalError, match="a prompt per image"):
        LENGTH(images(), prompts)


def test_a_reward_that_needs_prompts_says_so_where_there_are_none():
    with pytest.raises(ConfigError, match="no prompts") as caught:
        LENGTH(images())
    assert caught.value.field == "reward.name"
    assert LENGTH.needs_prompts
    assert not BRIGHTNESS.needs_prompts
