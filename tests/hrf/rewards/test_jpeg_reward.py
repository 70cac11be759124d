"""The JPEG rewards against Pillow called by hand."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hrf.images import to_images
from hrf.rewards import build_reward
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.weighted_sum import Term, WeightedSumReward


def random_images(count: int = 6, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, size, size), dtype=np.float32)


def file_size_kb(pixels: np.ndarray, quality: int = 95) -> float:
    """Of one [H, W, 3] uint8 picture."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=quality)
    return len(file.getvalue()) / 1000


def pixels_of(image: np.ndarray) -> np.ndarray:
    """Rounded in double precision, pixel by pixel."""
    return np.moveaxis(np.floor(image.astype(np.float64) * 255 + 0.5), 0, -1).astype(np.uint8)


COMPRESS = build_reward(JpegReward(name="jpeg_compressibility"))
EXPAND = build_reward(JpegReward(name="jpeg_incompressibility"))


@pytest.mark.parametrize("quality", [95, 60])
def test_the_reward_is_the_file_size_in_thousands_of_bytes(quality):
    images = random_images()
    expected = [file_size_kb(pixels_of(image), quality) for image in images]
    reward = build_reward(JpegReward(name="jpeg_incompressibility", quality=quality))
    assert reward(images).tolist() == expected
    assert reward(images).dtype == np.float64


def test_compressibility_is_the_negative_of_incompressibility():
    images = random_images()
    assert (COMPRESS(images) == -EXPAND(images)).all()
    assert (COMPRESS(images) < 0).all()


def test_a_flat_image_compresses_better_than_noise():
    images = random_images(2)
    images[0] = 0.3
    flat, noise = COMPRESS(images)
    assert flat > noise


def test_bytes_are_rounded_not_truncated():
    """Around a whole byte, rounding gives a flat image and truncation a speckled, larger one."""
    fuzz = np.random.default_rng(1).uniform(-0.4, 0.4, (1, 3, 16, 16))
    images = ((100 + fuzz) / 255).astype(np.float32)
    truncated = np.moveaxis((100 + fuzz[0]).astype(np.uint8), 0, -1)
    reward = build_reward(JpegReward(name="jpeg_incompressibility", quality=100))
    assert reward(images)[0] == file_size_kb(np.full((16, 16, 3), 100, dtype=np.uint8), 100)
    assert reward(images)[0] < file_size_kb(truncated, 100)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), split=st.integers(0, 6))
def test_neither_order_nor_batching_nor_threads_change_a_reward(order, split):
    images = random_images()
    expected = EXPAND(images)
    assert (EXPAND(images[list(order)]) == expected[list(order)]).all()
    assert np.concatenate([EXPAND(images[:split]), EXPAND(images[split:])]).tolist() == expected.tolist()


def test_the_legacy_switch_turns_everything_below_mid_grey_black():
    legacy = build_reward(JpegReward(name="jpeg_incompressibility", legacy_range=True))
    images = random_images(3)
    images[0] *= 0.49
    # The published code: bytes of 255 x for samples x in [-1, 1].
    samples = 2 * images.astype(np.float64) - 1
    pixels = np.moveaxis(np.clip(np.floor(samples * 255 + 0.5), 0, 255), 1, -1).astype(np.uint8)
    assert legacy(images).tolist() == [file_size_kb(picture) for picture in pixels]
    assert (pixels[0] == 0).all()
    assert legacy(images)[0] == file_size_kb(np.zeros((32, 32, 3), dtype=np.uint8))
    assert EXPAND(images)[0] > legacy(images)[0]


def near_ties(count: int = 200, size: int = 32) -> np.ndarray:
    """Samples in [-1, 1] whose bytes stand or fall with the last bits of the numbers."""
    generator = np.random.default_rng(2)
    bytes_ = generator.integers(0, 255, (count, 3, size, size)) + 0.5
    samples = (bytes_ / 255).astype(np.float32)
    samples = np.nextafter(samples, generator.choice(np.float32([-2, 2]), samples.shape))
    return np.where(generator.random(samples.shape) < 0.3, -samples, samples)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_legacy_switch_gives_the_published_bytes_of_every_sample(weighted):
    """The published code's own arithmetic: (x * 255).round().clamp(0, 255) of float32 samples. Kills: the way through
    images in [0, 1], which rounds away what decides on a byte."""
    settings = JpegReward(name="jpeg_incompressibility", legacy_range=True)
    if weighted:
        settings = WeightedSumReward(terms=(Term(reward=settings),))
    samples = near_ties()
    published = (torch.from_numpy(samples) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    expected = [file_size_kb(np.moveaxis(picture, 0, -1)) for picture in published]
    legacy = build_reward(settings)

    assert legacy.of_samples(samples).tolist() == expected
    assert legacy(to_images(samples)).tolist() != expected


def test_the_reward_is_named_after_the_configuration_and_can_be_sent_to_another_process():
    assert COMPRESS.name == "jpeg_compressibility"
    again = pickle.loads(pickle.dumps(COMPRESS))  # noqa: S301 (made here)
    assert (again(random_images()) == COMPRESS(random_images())).all()
