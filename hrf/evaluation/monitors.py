"""Drift monitors: plain image statistics that move when a policy games its reward instead of serving it.

Black frames, flat colour and high-frequency noise all please some reward. A candidate that drifts this far from the
base is not promoted, however high its reward.

What limits have to tell apart, measured on 600 pictures of the shipped model's data set:

* the quarter of each style that JPEG compresses best: edges -16%, colour entropy -0.2 bits, dark pixels -0.002;
* a blur of 1 pixel: edges -37%, of 1.5 pixels: -73%; noise of 0.05: edges +46%, of 0.1: +200%;
* half the brightness: dark pixels +0.14, entropy -0.4 bits;
* a third of the pictures black: dark pixels +0.33, entropy -0.8 bits.

Hue and photographic variance have no limit by default. Under JPEG's reward the hue moves early: in its first four
epochs `avatars-ddpo` turned it by 13, 12, 20 and 21 degrees, with edges down by 3 to 12% and photographic variance the
same within 1%. But the hues of the shipped model's pictures nearly cancel out (the mean vector is 0.06 long): two
halves of the base's own 192 differ by 42 degrees and by 6% in photographic variance (standard deviations over splits).
That turn may be chance, and a limit beyond chance would be none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrf.evaluation.record import MonitorReading

NO_HUE = 1e-6
"""A mean hue vector shorter than this, of 1, points nowhere: rounding would decide on its angle (ours)."""

DARK_LUMA = 0.1
"""A pixel below this luma, of 1, counts as dark (ours)."""

EDGE_GRADIENT = 0.1
"""A pixel whose luma changes by more than this to its neighbours lies on an edge (ours)."""

COLOUR_LEVELS = 8
"""Levels per channel of the colour histogram: 512 colours (ours)."""

Images = NDArray[np.float32]
"""[n, 3, H, W] in [0, 1]; what is given anything else raises a ValueError."""
PerImage = NDArray[np.float64]
"""[n], a number for each image."""

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """How a statistic is compared with the base's.

    Attributes:
        direction: Which change counts: an `increase`, a `decrease`, or `either`.
        change: `absolute` is the difference, in the statistic's own unit; `relative` is a fraction of the base's value;
            `circular` is the shorter way round, in degrees, of a statistic that may have no value.
    """

    direction: Literal["increase", "decrease", "either"]
    change: Literal["absolute", "relative", "circular"]


MONITORS: Mapping[str, Monitor] = {
    "dark_pixel_fraction": Monitor(direction="increase", change="absolute"),
    "edge_density": Monitor(direction="either", change="relative"),
    "colour_entropy": Monitor(direction="decrease", change="absolute"),
    "mean_hue": Monitor(direction="either", change="circular"),
    "photographic_variance": Monitor(direction="decrease", change="relative"),
    "unrecognised_fraction": Monitor(direction="increase", change="absolute"),
}
"""By the names that the configuration and the evaluation record use."""


def read_monitor(name: str, *, value: float | None, base: float | None, limit: float | None) -> MonitorReading:
    """Compare a candidate's statistic with the base's.

    Args:
        name: A key of `MONITORS`.
        value: The candidate's, over all its images; None where a circular one has no value.
        base: The base's on the same seeds; None as above.
        limit: Largest allowed change in the monitor's direction, > 0; None only reports.

    Returns:
        `change` keeps its sign (positive = the candidate has more, or its hue is turned from red towards green) and
        is None where there is nothing to compare. `tripped` says whether it exceeds the limit in the direction that
        counts. A candidate that has lost a statistic which the base has, as grey pictures have no hue, exceeds any
        limit.

    Raises:
        ValueError: An unknown name, a number that is not finite, none where one is needed, or a relative change from
            zero.
    """
    monitor = MONITORS.get(name)
    if monitor is None:
        raise ValueError(f"unknown monitor {name!r}, expected one of {', '.join(MONITORS)}")
    for statistic in (value, base):
        if not (monitor.change == "circular" if statistic is None else math.isfinite(statistic)):
            raise ValueError(f"{name}: expected finite statistics, got {value} against {base}")
    if value is None or base is None:
        lost = base is not None
        return MonitorReading(value=value, base=base, change=None, limit=limit, tripped=limit is not None and lost)
    change = value - base
    if monitor.change == "circular":
        change = math.remainder(change, 360.0)
    elif monitor.change == "relative" and change:
        if not base:
            raise ValueError(f"{name}: the base's value is 0, so a relative change to {value} has no size")
        change /= base
    drift = {"increase": change, "decrease": -change, "either": abs(change)}[monitor.direction]
    tripped = limit is not None and drift > limit
    return MonitorReading(value=value, base=base, change=change, limit=limit, tripped=tripped)


def dark_pixel_fraction(images: Images) -> PerImage:
    """Share of pixels whose luma (ITU-R BT.601) is below `DARK_LUMA`, per image."""
    share: PerImage = (_luma(images) < DARK_LUMA).mean(axis=(1, 2))
    return share


def edge_density(images: Images) -> PerImage:
    """Share of pixels that lie on an edge, per image.

        |(Y[i, j+1] - Y[i, j], Y[i+1, j] - Y[i, j])| > `EDGE_GRADIENT`,   Y the luma

    It falls with blur and flat colour and rises with noise.

    Args:
        images: [n, 3, H, W] in [0, 1], H and W at least 2. It depends on the size of the images.
    """
    luma = _luma(images)
    if min(luma.shape[1:]) < 2:
        raise ValueError(f"expected images of at least 2 x 2 pixels, got {images.shape}")
    across = luma[:, :-1, 1:] - luma[:, :-1, :-1]
    down = luma[:, 1:, :-1] - luma[:, :-1, :-1]
    share: PerImage = (np.hypot(across, down) > EDGE_GRADIENT).mean(axis=(1, 2))
    return share


def colour_entropy(images: Images) -> PerImage:
    """Shannon entropy of the colours of an image, in bits, per image.

    Colours are counted in a histogram of `COLOUR_LEVELS` equal levels per channel: 0 for one flat colour, at most 9.
    """
    _check(images)
    count, _, height, width = images.shape
    levels = np.minimum((images * COLOUR_LEVELS).astype(np.int64), COLOUR_LEVELS - 1)
    colours = (levels[:, 0] * COLOUR_LEVELS + levels[:, 1]) * COLOUR_LEVELS + levels[:, 2]
    num_colours = COLOUR_LEVELS**3
    # One histogram for all images: image i counts in its own range of 512 bins.
    bins = colours.reshape(count, -1) + num_colours * np.arange(count)[:, None]
    shares = np.bincount(bins.ravel(), minlength=count * num_colours).reshape(count, num_colours) / (height * width)
    entropy: PerImage = -(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))).sum(axis=1)
    return entropy + 0.0


def hue_vectors(images: Images) -> NDArray[np.float64]:
    """Mean over an image's pixels of the unit vector of their hue, weighted by their saturation (both of HSV).

        mean s (cos h, sin h),   s = (max - min) / max of a pixel's channels, 0 for black

    Neither h nor s changes when a picture is lit more or less (its colours multiplied by one number).

    Returns:
        [n, 2], in the unit disc; 0 for grey, which has no hue.
    """
    hue, saturation, _ = _hsv(images)
    mean = (saturation * np.exp(1j * hue)).mean(axis=(1, 2))
    return np.stack([mean.real, mean.imag], axis=1)


def mean_hue(vectors: NDArray[np.float64]) -> float | None:
    """Circular mean of the hue of a set of images, in degrees: 0 is red, 120 green, 240 blue.

    Args:
        vectors: [n, 2] of `hue_vectors`; images of one size, so that each pixel counts alike.

    Returns:
        In [0, 360); None where the mean vector is shorter than `NO_HUE`: grey images, or colours that cancel out. The
        shorter it is, the less it takes to turn it.
    """
    across, up = vectors.mean(axis=0)
    if math.hypot(across, up) < NO_HUE:
        return None
    # The second remainder: a tiny negative angle rounds to 360 in the first.
    return math.degrees(math.atan2(up, across)) % 360.0 % 360.0


def saturation_value_contrast(images: Images) -> NDArray[np.float64]:
    """How an image is exposed, in three numbers: what `photographic_variance` compares images by.

    Returns:
        [n, 3]: mean saturation and mean value (both of HSV), and the standard deviation (over n) of the pixels' luma
        (ITU-R BT.601). In [0, 1], the last one in [0, 0.5].
    """
    _, saturation, value = _hsv(images)
    return np.stack(
        [saturation.mean(axis=(1, 2)), value.mean(axis=(1, 2)), _luma(images).std(axis=(1, 2))],
        axis=1,
    )


def photographic_variance(exposures: NDArray[np.float64]) -> float:
    """How much images differ in saturation, brightness and contrast: PVS, after D2-Align (arXiv 2512.24146).

        std(mean saturation) + std(mean value) + std(contrast),   std over the images, divided by their number

    Args:
        exposures: [n, 3] of `saturation_value_contrast`.

    Returns:
        0 where all images are exposed alike, at most 1.25. All of a run's images go in, whatever their prompts.
    """
    return float(exposures.std(axis=0).sum())


def _hsv(images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Hue in radians (any where there is no saturation), saturation and value of each pixel: three of [n, H, W]."""
    _check(images)
    red, green, blue = np.moveaxis(images.astype(np.float64), 1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    coloured = np.where(chroma > 0, chroma, 1.0)
    sixths = np.select(
        [value == red, value == green],
        [(green - blue) / coloured, 2.0 + (blue - red) / coloured],
        4.0 + (red - green) / coloured,
    )
    return sixths * (math.pi / 3), chroma / np.where(value > 0, value, 1.0), value


def _luma(images: Images) -> NDArray[np.float64]:
    _check(images)
    luma: NDArray[np.float64] = np.einsum("nchw,c->nhw", images.astype(np.float64), _LUMA)
    return luma


def _check(images: Images) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"expected images of shape [n, 3, H, W], got {images.shape}")
    # Written so that NaN fails, too.
    if not (images.min() >= 0.0 and images.max() <= 1.0):
        raise ValueError(f"expected images in [0, 1], got [{images.min()}, {images.max()}]")
