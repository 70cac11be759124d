"""Drift monitors: each moves with the defect it is there for, and trips in its own direction only."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import stats

from hrf.config import Monitors
from hrf.monitors import MONITORS, colour_entropy, dark_pixel_fraction, edge_density, read_monitor

MEASURES = (dark_pixel_fraction, edge_density, colour_entropy)


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
        ("unrecognised_fraction", 0.61, True),
        ("unrecognised_fraction", 0.59, False),
        ("unrecognised_fraction", 0.1, False),
    ],
)
def test_a_monitor_trips_beyond_its_limit_in_its_own_direction(name: str, value: float, tripped: bool) -> None:
    """Base 0.5, limit 0.1: a tenth of the base for edges, 0.1 for the others. Kills: a turned or missing direction."""
    reading = read_monitor(name, value=value, base=0.5, limit=0.1)
    assert reading["tripped"] is tripped


def test_a_change_is_signed_and_in_the_monitors_unit() -> None:
    absolute = read_monitor("colour_entropy", value=3.0, base=4.0, limit=0.5)
    relative = read_monitor("edge_density", value=0.3, base=0.4, limit=0.5)
    assert absolute == {"value": 3.0, "base": 4.0, "change": -1.0, "limit": 0.5, "tripped": True}
    assert relative["change"] == pytest.approx(-0.25)
    assert not relative["tripped"]


def test_a_monitor_without_a_limit_reports_and_never_trips() -> None:
    assert read_monitor("dark_pixel_fraction", value=1.0, base=0.0, limit=None)["tripped"] is False


@pytest.mark.parametrize("name", MONITORS)
def test_no_change_trips_nothing(name: str) -> None:
    for value in (0.0, 0.3):
        reading = read_monitor(name, value=value, base=value, limit=1e-9)
        assert (reading["change"], reading["tripped"]) == (0.0, False)


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
