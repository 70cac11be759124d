"""The one conversion from samples to pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrf.errors import NumericalError
from hrf.images import grid, to_images, to_uint8


def flat(value: float) -> np.ndarray:
    return np.full((1, 3, 2, 2), value, dtype=np.float32)


@pytest.mark.parametrize(("sample", "image"), [(-1, 0), (0, 0.5), (1, 1), (0.5, 0.75), (1.2, 1), (-1.7, 0)])
def test_the_samplers_range_becomes_zero_to_one_and_overshoot_is_black_or_white(sample, image):
    images = to_images(flat(sample))
    assert images.dtype == np.float32
    assert (images == np.float32(image)).all()


def test_the_samples_are_left_as_they_are():
    samples = flat(1.5)
    to_images(samples)
    assert (samples == 1.5).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.5, 255])
def test_a_diverged_sample_is_named(value):
    samples = np.zeros((4, 3, 2, 2), dtype=np.float32)
    samples[2, 1, 0, 1] = value
    with pytest.raises(NumericalError, match="sample=2"):
        to_images(samples)


@pytest.mark.parametrize("samples", [flat(0).astype(np.float64), flat(0)[0], flat(0).astype(np.uint8)])
def test_only_batches_of_float32_are_converted(samples):
    with pytest.raises(NumericalError, match="float32"):
        to_images(samples)


@settings(deadline=None)
@given(st.integers(0, 255))
def test_bytes_survive_the_way_there_and_back(byte):
    """Kills truncation, which loses one level for many bytes."""
    image = flat(np.float32(byte) / np.float32(255))
    assert (to_uint8(image) == byte).all()


@pytest.mark.parametrize(("value", "byte"), [(0.4 / 255, 0), (0.6 / 255, 1), (254.6 / 255, 255), (0.5, 128)])
def test_bytes_are_rounded(value, byte):
    assert (to_uint8(flat(value)) == byte).all()


def test_channels_go_last():
    images = np.zeros((2, 3, 4, 5), dtype=np.float32)
    images[1, 2, 3, 4] = 1
    pixels = to_uint8(images)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels[1, 3, 4].tolist() == [0, 0, 255]
    assert pixels.sum() == 255


def test_a_grid_lays_images_out_row_by_row_on_white():
    images = np.zeros((3, 3, 2, 4), dtype=np.float32)
    for index in range(3):
        images[index, index] = 1
    sheet = np.array(grid(images, 2, gap=1))
    assert sheet.shape == (5, 9, 3)
    assert (sheet[:2, :4] == [255, 0, 0]).all()
    assert (sheet[:2, 5:] == [0, 255, 0]).all()
    assert (sheet[3:, :4] == [0, 0, 255]).all()
    assert (sheet[2] == 255).all()
    assert (sheet[:, 4] == 255).all()
    assert (sheet[3:, 5:] == 255).all()


def test_a_grid_is_no_wider_than_its_images():
    assert grid(flat(0), 6).size == (2, 2)


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (1, 0)])
def test_an_empty_grid_is_refused(count, columns):
    with pytest.raises(ValueError, match="at least one"):
        grid(np.zeros((count, 3, 2, 2), dtype=np.float32), columns)
