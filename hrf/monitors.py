"""Drift monitors: plain image statistics that move when a policy games its reward instead of serving it.

Black frames, flat colour and high-frequency noise all please some reward. A candidate that drifts this far from the
base is not promoted, however high its reward.

What limits have to tell apart, measured on 600 pictures of the shipped model's data set:

* the quarter of each style that JPEG compresses best: edges -16%, colour entropy -0.2 bits, dark pixels -0.002;
* a blur of 1 pixel: edges -37%, of 1.5 pixels: -73%; noise of 0.05: edges +46%, of 0.1: +200%;
* half the brightness: dark pixels +0.14, entropy -0.4 bits;
* a third of the pictures black: dark pixels +0.33, entropy -0.8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

DARK_LUMA = 0.1
"""A pixel below this luma, of 1, counts as dark (ours)."""

EDGE_GRADIENT = 0.1
"""A pixel whose luma changes by more than this to its neighbours lies on an edge (ours)."""

COLOUR_LEVELS = 8
"""Levels per channel of the colour histogram: 512 colours (ours)."""

Images = NDArray[np.float32]
PerImage = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])


class MonitorReading(TypedDict):
    """One monitor's line in an evaluation record."""

    value: float
    base: float
    change: float
    limit: float | None
    tripped: bool


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """How a statistic is compared with the base's.

    Attributes:
        direction: Which change counts: an `increase`, a `decrease`, or `either`.
        relative: Whether the change is a fraction of the base's value; otherwise it is in the statistic's own unit.
    """

    direction: Literal["increase", "decrease", "either"]
    relative: bool


MONITORS: Mapping[str, Monitor] = {
    "dark_pixel_fraction": Monitor(direction="increase", relative=False),
    "edge_density": Monitor(direction="either", relative=True),
    "colour_entropy": Monitor(direction="decrease", relative=False),
    "unrecognised_fraction": Monitor(direction="increase", relative=False),
}
"""By the names that the configuration and the evaluation record use."""


def read_monitor(name: str, *, value: float, base: float, limit: float | None) -> MonitorReading:
    """Compare a candidate's statistic with the base's.

    Args:
        name: A key of `MONITORS`.
        value: The candidate's mean.
        base: The base's mean on the same seeds.
        limit: Largest allowed change in the monitor's direction, > 0; None only reports.

    Returns:
        `change` keeps its sign (positive = the candidate has more); `tripped` says whether it exceeds the limit in the
        direction that counts.

    Raises:
        ValueError: An unknown name, a number that is not finite, or a relative change from zero.
    """
    monitor = MONITORS.get(name)
    if monitor is None:
        raise ValueError(f"unknown monitor {name!r}, expected one of {', '.join(MONITORS)}")
    if not (math.isfinite(value) and math.isfinite(base)):
        raise ValueError(f"{name}: expected finite statistics, got {value} against {base}")
    change = value - base
    if monitor.relative and change:
        if not base:
            raise ValueError(f"{name}: the base's value is 0, so a relative change to {value} has no size")
        change /= base
    drift = {"increase": change, "decrease": -change, "either": abs(change)}[monitor.direction]
    return {
        "value": value,
        "base": base,
        "change": change,
        "limit": limit,
        "tripped": limit is not None and drift > limit,
    }


def dark_pixel_fraction(images: Images) -> PerImage:
    """Share of pixels whose luma (ITU-R BT.601) is below `DARK_LUMA`, per image.

    Args:
        images: [n, 3, H, W] in [0, 1].

    Returns:
        [n] in [0, 1].

    Raises:
        ValueError: Images of another shape, or outside [0, 1].
    """
    share: PerImage = (_luma(images) < DARK_LUMA).mean(axis=(1, 2))
    return share


def edge_density(images: Images) -> PerImage:
    """Share of pixels that lie on an edge, per image.

        |(Y[i, j+1] - Y[i, j], Y[i+1, j] - Y[i, j])| > `EDGE_GRADIENT`,   Y the luma

    It falls with blur and flat colour and rises with noise.

    Args:
        images: [n, 3, H, W] in [0, 1], H and W at least 2. It depends on the size of the images.

    Returns:
        [n] in [0, 1], over the (H-1) x (W-1) pixels that have both neighbours.

    Raises:
        ValueError: Images of another shape, or outside [0, 1].
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

    Args:
        images: [n, 3, H, W] in [0, 1].

    Returns:
        [n] in bits.

    Raises:
        ValueError: Images of another shape, or outside [0, 1].
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
