"""Pictures that belong to no style: what a sampler that drifts, collapses or breaks may make.

They teach the classifier its last class, "unrecognised". Each kind is one function of a generator and of real pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.base_model.dataset import IMAGE_SIZE, LabelledImages

Floats = NDArray[np.floating[Any]]
"""[N, 32, 32, 3] in [0, 1] unless said otherwise; values outside are clipped at the end."""


def flat(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """One colour, at most a trace of noise."""
    del real
    colours = _colours(count, rng)
    noise = rng.normal(size=(count, IMAGE_SIZE, IMAGE_SIZE, 3)) * rng.uniform(0, 0.03, (count, 1, 1, 1))
    return colours + noise


def gradient(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """One colour fading into another, along a line or from a point."""
    del real
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, IMAGE_SIZE)] * 2, indexing="ij")
    angles = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    ramp = (rows * np.sin(angles) + columns * np.cos(angles)) / 2.8 + 0.5
    centres = rng.uniform(-0.7, 0.7, (2, count, 1, 1))
    disc = np.exp(-((rows - centres[0]) ** 2 + (columns - centres[1]) ** 2) / rng.uniform(0.2, 1.5, (count, 1, 1)))
    share = np.where(rng.random((count, 1, 1)) < 0.6, ramp, disc)[..., None]
    return (1 - share) * _colours(count, rng) + share * _colours(count, rng)


def pixel_noise(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Independent noise in every pixel around one colour."""
    del real
    noise = rng.normal(size=(count, IMAGE_SIZE, IMAGE_SIZE, 3)) * rng.uniform(0.05, 0.6, (count, 1, 1, 1))
    return _colours(count, rng) + noise


def smooth_noise(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Blobs: noise on a coarse grid of 2 to 8 cells a side, enlarged smoothly."""
    del real
    fields = []
    for _ in range(count):
        cells = int(rng.integers(2, 9))
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        fields.append(np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)))
    return np.stack(fields) / 255


def pattern(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Stripes and checks of two colours."""
    del real
    period = rng.integers(2, 17, (2, count, 1, 1))
    across = np.arange(IMAGE_SIZE)[None, None, :] // period[0] % 2
    down = np.arange(IMAGE_SIZE)[None, :, None] // period[1] % 2
    kind = rng.integers(0, 3, (count, 1, 1))
    across, down = np.broadcast_arrays(across, down)
    share = np.select([kind == 0, kind == 1], [across, down], across ^ down)[..., None]
    return (1 - share) * _colours(count, rng) + share * _colours(count, rng)


def noisy(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures that were only partly denoised."""
    signal = rng.uniform(0.2, 0.85, (count, 1, 1, 1))
    noise = rng.normal(size=(count, IMAGE_SIZE, IMAGE_SIZE, 3))
    return 0.5 + signal * (_pick(real, count, rng) - 0.5) + np.sqrt(1 - signal**2) * noise / 2


def blur(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures blurred so strongly (standard deviation 3 to 7 pixels of 32) that no drawing is left."""
    blurred = []
    for image in (_pick(real, count, rng) * 255).astype(np.uint8):
        soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 7))))
        blurred.append(np.asarray(soft))
    return np.stack(blurred) / 255


def mixture(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Two pictures of different styles over each other, 35% to 65%."""
    first, second = _pairs(real, count, rng)
    share = rng.uniform(0.35, 0.65, (count, 1, 1, 1))
    return share * first + (1 - share) * second


def collage(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Half of a picture beside, or above, half of one of another style."""
    first, second = _pairs(real, count, rng)
    cut = rng.integers(12, 21, (count, 1, 1))
    position = np.arange(IMAGE_SIZE)
    along_rows = rng.random((count, 1, 1)) < 0.5
    taken = np.where(along_rows, position[None, :, None] < cut, position[None, None, :] < cut)
    return np.where(taken[..., None], first, second)


def shuffled(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures cut into 16 squares that are put together in another order."""
    images = _pick(real, count, rng)
    side = IMAGE_SIZE // 4
    tiles = images.reshape(count, 4, side, 4, side, 3).swapaxes(2, 3).reshape(count, 16, side, side, 3)
    tiles = np.stack([one[rng.permutation(16)] for one in tiles])
    return tiles.reshape(count, 4, 4, side, side, 3).swapaxes(2, 3).reshape(images.shape)


def colour_cast(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures drowned, 65% to 85%, in one colour."""
    share = rng.uniform(0.65, 0.85, (count, 1, 1, 1))
    return (1 - share) * _pick(real, count, rng) + share * _colours(count, rng)


def low_contrast(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures faded, 75% to 95%, into a grey."""
    share = rng.uniform(0.75, 0.95, (count, 1, 1, 1))
    return (1 - share) * _pick(real, count, rng) + share * rng.uniform(0, 1, (count, 1, 1, 1))


def dark(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Pictures at 2% to 12% of their brightness."""
    return _pick(real, count, rng) * rng.uniform(0.02, 0.12, (count, 1, 1, 1))


def overdriven(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    """Blurred pictures whose contrast is then raised until most pixels saturate, as too large steps do."""
    soft = blur(real, count, rng)
    gain = rng.uniform(4, 12, (count, 1, 1, 1))
    return 0.5 + gain * (soft - rng.uniform(0.3, 0.7, (count, 1, 1, 3)))


OutlierKind = Callable[[LabelledImages, int, np.random.Generator], Floats]

KINDS: MappingProxyType[str, OutlierKind] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            flat,
            gradient,
            pixel_noise,
            smooth_noise,
            pattern,
            noisy,
            blur,
            mixture,
            collage,
            shuffled,
            colour_cast,
            low_contrast,
            dark,
            overdriven,
        )
    }
)
"""Every kind of outlier, by name."""


def make(kind: str, real: LabelledImages, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make outliers of one kind.

    Args:
        kind: A key of ``KINDS``.
        real: Pictures to spoil; some kinds do without.
        count: N, at least 1.
        rng: Source of all choices.

    Returns:
        [N, 32, 32, 3] bytes.

    Raises:
        KeyError: No such kind.
    """
    values = KINDS[kind](real, count, rng)
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


def make_all(real: LabelledImages, count_per_kind: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make the same number of outliers of every kind.

    Args:
        real: Pictures to spoil.
        count_per_kind: How many of each.
        rng: Source of all choices.

    Returns:
        [len(KINDS) * count_per_kind, 32, 32, 3] bytes, kind after kind.
    """
    return np.concatenate([make(kind, real, count_per_kind, rng) for kind in KINDS])


def _colours(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0, 1, (count, 1, 1, 3))


def _pick(real: LabelledImages, count: int, rng: np.random.Generator) -> Floats:
    return real.images[rng.integers(0, len(real), count)] / 255


def _pairs(real: LabelledImages, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    first = rng.integers(0, len(real), count)
    second = rng.integers(0, len(real), count)
    while (same := real.labels[first] == real.labels[second]).any():
        second[same] = rng.integers(0, len(real), int(same.sum()))
    return real.images[first] / 255, real.images[second] / 255
