"""Drift monitors: each moves with the defect it is there for, and trips in its own direction only."""

import cmath
import colorsys
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import stats

from hrf.config import Monitors
from hrf.evaluation.monitors import (
    MONITORS,
    colour_entropy,
    dark_pixel_fraction,
    edge_density,
    hue_vectors,
    mean_hue,
    photographic_variance,
    read_monitor,
    saturation_value_contrast,
)
from hrf.evaluation.record import MonitorReading

MEASURES = (dark_pixel_fraction, edge_density, colour_entropy, hue_vectors, saturation_value_contrast)


def pictures(count: int = 4, size: int = 32) -> NDArray[np.float32]:
    """Smooth coloured pictures with a few hard shapes: neither flat nor noise."""
    generator = np.random.default_rng(0)
    images = np.empty((count, 3, size, size), dtype=np.float32)
    rows, columns = np.mgrid[:size, :size] / size
    for index in range(count):
        slopes = generator.random((3, 2))
        images[index] = 0.3 + 0.3 * (slopes[:, :1, None] * rows + slopes[:, 1:, None] * columns)
        top, left = generator.integers(4, 12, 2)
        images[index, :, top : top + 12, left : left + 12] = generator.random((3, 1, 1))
    return images


def flat(colour: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.broadcast_to(np.array(colour, dtype=np.float32)[None, :, None, None], (1, 3, 8, 8)).copy()


def test_dark_pixels_are_counted_by_their_luma() -> None:
    """Kills: the channels averaged; blue and red swapped; a pixel at the threshold's other side counted."""
    assert dark_pixel_fraction(flat((0.0, 0.0, 0.8))) == 1.0  # luma 0.091
    assert dark_pixel_fraction(flat((0.0, 0.0, 0.9))) == 0.0  # luma 0.103
    assert dark_pixel_fraction(flat((0.3, 0.0, 0.0))) == 1.0  # luma 0.090
    assert dark_pixel_fraction(flat((0.0, 0.2, 0.0))) == 0.0  # luma 0.117
    half = flat((1.0, 1.0, 1.0))
    half[:, :, :4] = 0.0
    assert dark_pixel_fraction(half) == 0.5


def test_edge_density_counts_steps_of_luma_in_both_directions() -> None:
    """Kills: one direction left out; the border counted; gradients added in place of their length."""
    upright, level = flat((0.2, 0.2, 0.2)), flat((0.2, 0.2, 0.2))
    upright[:, :, :, 4:] = 0.6
    level[:, :, 4:, :] = 0.6
    assert edge_density(upright) == edge_density(level) == pytest.approx(7 / 49)
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32) * 0.08, (1, 3, 8, 8))
    assert edge_density(ramp) == 0.0
    # 0.08 a pixel both ways is a gradient of 0.113.
    assert edge_density((ramp + ramp.swapaxes(2, 3)) / 1.2) == 0.0
    assert edge_density((ramp + ramp.swapaxes(2, 3)) / 1.12) == 1.0


def test_colour_entropy_agrees_with_scipy_image_by_image() -> None:
    """Kills: natural logarithms; one histogram for all images; a level beyond the last for pure white."""
    images = pictures()
    images[0, :, :4] = 1.0
    levels = np.minimum((images * 8).astype(int), 7).transpose(0, 2, 3, 1).reshape(len(images), -1, 3)
    expected = [stats.entropy(np.unique(pixels, axis=0, return_counts=True)[1], base=2) for pixels in levels]
    np.testing.assert_allclose(colour_entropy(images), expected)


def test_colour_entropy_runs_from_one_colour_to_all() -> None:
    assert colour_entropy(flat((1.0, 1.0, 1.0))) == 0.0
    levels = np.stack(np.meshgrid(*[(np.arange(8) + 0.5) / 8] * 3, indexing="ij")).reshape(1, 3, 16, 32)
    assert colour_entropy(levels.astype(np.float32)) == pytest.approx(9.0)


def two_halves(first: tuple[float, float, float], second: tuple[float, float, float]) -> NDArray[np.float32]:
    picture = flat(first)
    picture[:, :, 4:] = flat(second)[:, :, 4:]
    return picture


def of_hue(degrees: float, saturation: float = 1.0, value: float = 1.0) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(degrees % 360 / 360, saturation, value)


def hue_of(images: NDArray[np.float32]) -> float | None:
    return mean_hue(hue_vectors(images))


def turn(value: float | None, base: float | None) -> float:
    change = read_monitor("mean_hue", value=value, base=base, limit=None).change
    assert change is not None
    return change


def test_hue_and_saturation_are_those_of_colorsys_pixel_by_pixel() -> None:
    """Pixels of few levels, so that channels tie, and black, white and grey ones are among them.

    Kills: a sector of the colour wheel in another's place, red's negative half left out, the weights left out.
    """
    images = (np.random.default_rng(3).integers(0, 4, (6, 3, 16, 16)) / 3).astype(np.float32)
    for vector, exposure, image in zip(hue_vectors(images), saturation_value_contrast(images), images, strict=True):
        pixels = [colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in image.reshape(3, -1).T]
        expected = sum(cmath.rect(saturation, math.tau * hue) for hue, saturation, _ in pixels) / len(pixels)
        assert complex(*vector) == pytest.approx(expected, abs=1e-6)
        luma = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in image.reshape(3, -1).T.tolist()]
        assert exposure[0] == pytest.approx(np.mean([saturation for _, saturation, _ in pixels]), abs=1e-6)
        assert exposure[1] == pytest.approx(np.mean([value for _, _, value in pixels]), abs=1e-6)
        assert exposure[2] == pytest.approx(np.std(luma), abs=1e-6)


@pytest.mark.parametrize("degrees", [0, 30, 60, 119, 180, 240, 299, 359])
def test_one_colour_has_its_own_hue(degrees: float) -> None:
    found = hue_of(flat(of_hue(degrees, 0.4, 0.7)))
    assert turn(found, degrees) == pytest.approx(0.0, abs=1e-4)


def test_hues_are_averaged_on_the_circle_and_weighted_by_saturation() -> None:
    """Kills: the arithmetic mean of angles (180 for the first); no weights (the second would be at 45)."""
    assert turn(hue_of(two_halves(of_hue(350), of_hue(20))), 5.0) == pytest.approx(0.0, abs=1e-4)
    images = np.concatenate([flat(of_hue(350)), flat(of_hue(20))])
    assert turn(hue_of(images), 5.0) == pytest.approx(0.0, abs=1e-4)
    pale = hue_of(two_halves(of_hue(0, 0.2), of_hue(90, 0.6)))
    assert pale == pytest.approx(math.degrees(math.atan2(0.6, 0.2)), abs=1e-3)
    assert hue_of(two_halves(of_hue(77), (0.5, 0.5, 0.5))) == pytest.approx(77, abs=1e-3)


def test_a_turn_takes_the_shorter_way_round() -> None:
    """Kills: wrap-around ignored, which makes 2 degrees 358."""
    assert turn(1.0, 359.0) == pytest.approx(2.0)
    assert turn(359.0, 1.0) == pytest.approx(-2.0)
    assert turn(190.0, 350.0) == pytest.approx(-160.0)
    reading = read_monitor("mean_hue", value=359.0, base=1.0, limit=2.5)
    assert reading.tripped is False
    assert read_monitor("mean_hue", value=358.0, base=1.0, limit=2.5).tripped is True
    assert read_monitor("mean_hue", value=4.0, base=1.0, limit=2.5).tripped is True


@pytest.mark.parametrize(
    "images",
    [flat((0.5, 0.5, 0.5)), flat((0.0, 0.0, 0.0)), two_halves(of_hue(10, 0.5), of_hue(190, 0.5))],
    ids=["grey", "black", "colours that cancel out"],
)
def test_what_has_no_hue_has_none_and_not_zero(images: NDArray[np.float32]) -> None:
    assert hue_of(images) is None


def test_a_statistic_that_is_missing_is_nothing_to_compare_and_lost_hue_exceeds_every_limit() -> None:
    missing = read_monitor("mean_hue", value=None, base=None, limit=1.0)
    assert missing == MonitorReading(value=None, base=None, change=None, limit=1.0, tripped=False)
    assert read_monitor("mean_hue", value=30.0, base=None, limit=1.0).tripped is False
    assert read_monitor("mean_hue", value=None, base=30.0, limit=179.0).tripped is True
    assert read_monitor("mean_hue", value=None, base=30.0, limit=None).tripped is False
    for name in set(MONITORS) - {"mean_hue"}:
        with pytest.raises(ValueError, match="expected finite statistics"):
            read_monitor(name, value=None, base=0.5, limit=None)


@given(light=st.floats(0.05, 1.0), seed=st.integers(0, 2**32 - 1))
def test_hue_does_not_depend_on_light_nor_on_the_order_of_images(light: float, seed: int) -> None:
    images = pictures(6)
    shuffled = np.random.default_rng(seed).permutation(images * np.float32(light))
    assert turn(hue_of(shuffled), hue_of(images)) == pytest.approx(0.0, abs=1e-3)


@given(st.permutations(range(6)))
def test_photographic_variance_does_not_depend_on_the_order_of_images(order: list[int]) -> None:
    exposures = saturation_value_contrast(pictures(6))
    assert photographic_variance(exposures[order]) == pytest.approx(photographic_variance(exposures))


def test_photographic_variance_in_closed_form() -> None:
    """Kills: a variance in place of a deviation; a term left out; the deviation of all pixels, not of images."""

    def variance(*images: NDArray[np.float32]) -> float:
        return photographic_variance(saturation_value_contrast(np.concatenate(images)))

    grey, black, white = (flat((level,) * 3) for level in (0.5, 0.0, 1.0))
    assert variance(grey, grey) == variance(grey) == 0.0
    # Grey has neither saturation nor contrast: half the difference of the values.
    assert variance(black, white) == pytest.approx(0.5)
    assert variance(black, white, black, white) == pytest.approx(0.5)
    # Equal saturation and contrast on average, half in white and half in black: the same picture twice has none.
    halves = two_halves((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert variance(halves, halves) == 0.0
    # A flat grey beside halves of black and white: values 0.5 and 0.5, contrasts 0 and 0.5.
    assert variance(grey, halves) == pytest.approx(0.25)
    # Red beside white: saturations 1 and 0, values 1 and 1, no contrast.
    assert variance(flat((1.0, 0.0, 0.0)), white) == pytest.approx(0.5)
    # Red halved with white (saturation 0.5, luma 0.299 and 1) beside white.
    mixed = two_halves((1.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert variance(mixed, white) == pytest.approx(0.25 + (1 - 0.299) / 4)


def test_each_defect_moves_its_monitor_the_way_that_counts() -> None:
    images = pictures()
    noisy = np.clip(images + 0.2 * np.random.default_rng(1).normal(size=images.shape), 0, 1).astype(np.float32)
    blurred = np.stack([blur(image) for image in images])
    assert dark_pixel_fraction(images * 0.1).mean() > dark_pixel_fraction(images).mean() + 0.5
    assert edge_density(noisy).mean() > 2 * edge_density(images).mean()
    assert edge_density(blurred).mean() < edge_density(images).mean() / 2
    posterised = np.round(images)
    assert colour_entropy(posterised).mean() < colour_entropy(images).mean() - 0.5


def blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = Image.fromarray(np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8))
    softened = np.asarray(picture.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)
    return softened.transpose(2, 0, 1) / np.float32(255)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 3, 8, 8), dtype=np.float32),
        np.zeros((3, 8, 8), dtype=np.float32),
        np.zeros((2, 8, 8, 3), dtype=np.float32),
        np.full((1, 3, 8, 8), 1.01, dtype=np.float32),
        np.full((1, 3, 8, 8), -0.01, dtype=np.float32),
        np.full((1, 3, 8, 8), np.nan, dtype=np.float32),
    ],
    ids=["none", "one", "channels last", "above 1", "below 0", "nan"],
)
def test_what_is_no_set_of_images_is_refused(measure: object, images: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="expected images"):
        measure(images)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "value", "tripped"),
    [
        ("dark_pixel_fraction", 0.61, True),
        ("dark_pixel_fraction", 0.59, False),
        ("dark_pixel_fraction", 0.1, False),
        ("edge_density", 0.56, True),
        ("edge_density", 0.54, False),
        ("edge_density", 0.46, False),
        ("edge_density", 0.44, True),
        ("colour_entropy", 0.39, True),
        ("colour_entropy", 0.41, False),
        ("colour_entropy", 0.9, False),
        ("photographic_variance", 0.44, True),
        ("photographic_variance", 0.46, False),
        ("photographic_variance", 0.9, False),
        ("mean_hue", 0.61, True),
        ("mean_hue", 0.59, False),
        ("mean_hue", 359.9, True),
        ("unrecognised_fraction", 0.61, True),
        ("unrecognised_fraction", 0.59, False),
        ("unrecognised_fraction", 0.1, False),
    ],
)
def test_a_monitor_trips_beyond_its_limit_in_its_own_direction(name: str, value: float, tripped: bool) -> None:
    """Base 0.5, limit 0.1: a tenth of the base where the change is relative. Kills: a turned or missing direction."""
    reading = read_monitor(name, value=value, base=0.5, limit=0.1)
    assert reading.tripped is tripped


def test_a_change_is_signed_and_in_the_monitors_unit() -> None:
    absolute = read_monitor("colour_entropy", value=3.0, base=4.0, limit=0.5)
    relative = read_monitor("edge_density", value=0.3, base=0.4, limit=0.5)
    assert absolute == MonitorReading(value=3.0, base=4.0, change=-1.0, limit=0.5, tripped=True)
    assert relative.change == pytest.approx(-0.25)
    assert not relative.tripped


def test_a_monitor_without_a_limit_reports_and_never_trips() -> None:
    assert read_monitor("dark_pixel_fraction", value=1.0, base=0.0, limit=None).tripped is False


@pytest.mark.parametrize("name", MONITORS)
def test_no_change_trips_nothing(name: str) -> None:
    for value in (0.0, 0.3):
        reading = read_monitor(name, value=value, base=value, limit=1e-9)
        assert (reading.change, reading.tripped) == (0.0, False)


def test_a_relative_change_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no size"):
        read_monitor("edge_density", value=0.1, base=0.0, limit=0.5)


def test_statistics_that_are_not_finite_and_unknown_monitors_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        read_monitor("edge_density", value=float("nan"), base=0.1, limit=0.5)
    with pytest.raises(ValueError, match="unknown monitor 'sharpness'"):
        read_monitor("sharpness", value=0.1, base=0.1, limit=0.5)


def test_the_configuration_has_a_limit_for_every_monitor_and_for_nothing_else() -> None:
    assert set(Monitors.model_fields) == set(MONITORS)
