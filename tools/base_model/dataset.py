"""The training pictures: six CC0 drawing styles, each picture a function of a seed string.

Every picture is drawn as vector graphics, rasterised at 128 x 128 and reduced to 32 x 32. The same seed gives the same
bytes for the same versions of the drawing packages, so the data set is described by its arguments and never stored.
"""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from dicebear import Style

IMAGE_SIZE = 32
"""Height and width of a finished picture, in pixels."""

DRAWING_SIZE = 128
"""Height and width of the raster that a finished picture is reduced from, in pixels."""


@dataclass(frozen=True, kw_only=True)
class DrawingStyle:
    """One mode of the data set."""

    name: str
    """The style's name in the package of definitions; also the classifier's label."""
    background: str | None = None
    """Background colour (hex, no #) for the styles that have none of their own."""
    resample: Image.Resampling = Image.Resampling.LANCZOS
    """Filter for the reduction from 128 to 32 pixels."""
    mirrors: bool = False
    """Whether a mirror image is as likely a drawing as the original (no side light, no one-sided part)."""
    weight: float = 1.0
    """Relative frequency in the training batches of the diffusion model."""


STYLES: tuple[DrawingStyle, ...] = (
    # Lanczos would ring around the hard pixels of pixel art; the box filter keeps them.
    DrawingStyle(name="pixel-art", background="b6e3f4", resample=Image.Resampling.BOX),
    DrawingStyle(name="planets"),
    # Short trainings draw too few landscapes and marbles, both rich in soft gradients: they are shown more often.
    DrawingStyle(name="landscape", mirrors=True, weight=1.3),
    DrawingStyle(name="sprouts"),
    DrawingStyle(name="critters"),
    DrawingStyle(name="marbles", background="eeeeee", mirrors=True, weight=1.3),
)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Pictures with the index of their style."""

    images: NDArray[np.uint8]
    """[N, 32, 32, 3], red-green-blue, 0 to 255."""
    labels: NDArray[np.int64]
    """[N], an index into ``STYLES``."""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)


def style_definition(name: str) -> dict[str, Any]:
    """Read a style's definition.

    Args:
        name: Name of the style.

    Returns:
        The parsed JSON; its ``meta`` field holds the creator, the source and the licence.

    Raises:
        ImportError: The drawing packages are not installed.
    """
    try:
        folder = resources.files("dicebear_styles")
    except ModuleNotFoundError as error:
        raise ImportError("drawing the data set needs the extra: pip install 'hrf-pipelines[base-model]'") from error
    definition: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return definition


@functools.cache
def _parsed_style(name: str) -> Style:
    from dicebear import Style

    return Style(style_definition(name))


def draw(style: DrawingStyle, seed: str) -> NDArray[np.uint8]:
    """Draw one picture.

    Args:
        style: What to draw.
        seed: Any string; it decides every choice within the style.

    Returns:
        [32, 32, 3] red-green-blue bytes.

    Raises:
        ImportError: The drawing packages are not installed.
    """
    parsed = _parsed_style(style.name)
    import resvg_py
    from dicebear import Avatar

    options: dict[str, Any] = {"seed": seed}
    if style.background is not None:
        options["backgroundColor"] = [f"#{style.background}"]
    svg = Avatar(parsed, options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWING_SIZE, height=DRAWING_SIZE)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return np.asarray(drawing.resize((IMAGE_SIZE, IMAGE_SIZE), style.resample), dtype=np.uint8)


def _draw_many(job: tuple[DrawingStyle, tuple[str, ...]]) -> NDArray[np.uint8]:
    style, seeds = job
    return np.stack([draw(style, seed) for seed in seeds])


def render(*, images_per_style: int, seed: int, split: str = "train", num_workers: int = 1) -> LabelledImages:
    """Draw the same number of pictures of every style.

    Args:
        images_per_style: How many of each of the six styles.
        seed: Seed of the whole set; picture i of a style depends on it, on ``split`` and on i alone.
        split: Name mixed into the seeds, so that "train" and "test" are drawn apart.
        num_workers: Processes to draw with. The result does not depend on it.

    Returns:
        6 x ``images_per_style`` pictures, style after style.

    Raises:
        ValueError: A count is less than 1.
        ImportError: The drawing packages are not installed.
    """
    if images_per_style < 1 or num_workers < 1:
        raise ValueError(f"need at least 1 image per style and 1 worker, got {images_per_style} and {num_workers}")
    chunk = 50
    jobs = [
        (style, tuple(f"{split}-{seed}-{index}" for index in range(start, min(start + chunk, images_per_style))))
        for style in STYLES
        for start in range(0, images_per_style, chunk)
    ]
    if num_workers == 1:
        parts = [_draw_many(job) for job in jobs]
    else:
        # Spawned, not forked: the caller may already run torch's threads.
        with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_draw_many, jobs))
    labels = np.repeat(np.arange(len(STYLES), dtype=np.int64), images_per_style)
    return LabelledImages(images=np.concatenate(parts), labels=labels)


def without_copies_of(candidates: LabelledImages, known: LabelledImages) -> LabelledImages:
    """Drop the pictures that occur, byte for byte, in another set.

    Two seeds can lead to the same choices; a held-out picture that is also a training picture would measure nothing.

    Args:
        candidates: The set to filter.
        known: The set that must not be repeated.

    Returns:
        The candidates that are not in ``known``, in order.
    """
    seen = {image.tobytes() for image in known.images}
    keep = np.array([image.tobytes() not in seen for image in candidates.images], dtype=bool)
    return LabelledImages(images=candidates.images[keep], labels=candidates.labels[keep])


def credits() -> list[Mapping[str, str]]:
    """Say who made each style and under which licence.

    Returns:
        One mapping a style, in the order of ``STYLES``: ``style``, ``creator``, ``source``, ``source_url``,
        ``licence`` and ``licence_url``.

    Raises:
        ImportError: The drawing packages are not installed.
    """
    rows: list[Mapping[str, str]] = []
    for style in STYLES:
        meta = style_definition(style.name)["meta"]
        rows.append(
            {
                "style": style.name,
                "creator": meta["creator"]["name"],
                "source": meta["source"]["name"],
                "source_url": meta["source"]["url"],
                "licence": meta["license"]["name"],
                "licence_url": meta["license"]["url"],
            }
        )
    return rows
