"""From the sampler's range to pictures: the one place where samples become images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrf.errors import NumericalError

_IMPLAUSIBLE = 2.0
"""A finished sample this far from 0 is no picture in [-1, 1] but a diverged model, or bytes by mistake."""


def to_images(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map finished samples to images: clip((x + 1) / 2, 0, 1).

    Models that do not clamp their estimate overshoot [-1, 1] a little; as on any screen, that shows as black or white.

    Args:
        samples: [B, C, H, W] float32, nominally in [-1, 1].

    Returns:
        [B, C, H, W] float32 in [0, 1], a new array.

    Raises:
        NumericalError: For another type or rank, for NaN, and for values beyond 2 in size.
    """
    if samples.dtype != np.float32 or samples.ndim != 4:
        raise NumericalError(
            f"samples must be float32 [B, C, H, W], got {samples.dtype} {list(samples.shape)}",
            where="to_images",
            fix="convert the finished samples, and nothing else, to float32",
        )
    bad = ~(np.abs(samples) <= _IMPLAUSIBLE).all(axis=(1, 2, 3))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        worst = float(np.abs(samples[index]).max())
        raise NumericalError(
            f"a finished sample is far outside [-1, 1] or not finite (largest size {worst:.4g})",
            where=f"sample={index}",
            fix="lower update.learning_rate: the policy has diverged",
        )
    images: NDArray[np.float32] = np.clip((samples + np.float32(1)) / np.float32(2), 0, 1)
    return images


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round images in [0, 1] to bytes, round(255 x), and put the channels last: [B, C, H, W] -> [B, H, W, C]."""
    pixels: NDArray[np.uint8] = np.rint(images * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def grid(images: NDArray[np.float32], columns: int, *, gap: int = 2) -> Image.Image:
    """Lay images out row by row on white.

    Args:
        images: [B, 3, H, W] in [0, 1], at least one.
        columns: Images per row.
        gap: Pixels between neighbours.

    Raises:
        ValueError: If there is no image or no column.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"a grid needs at least one image and one column, got {len(images)} and {columns}")
    pixels = to_uint8(images)
    _, height, width, _ = pixels.shape
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for index, picture in enumerate(pixels):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(picture), (column * (width + gap), row * (height + gap)))
    return sheet
