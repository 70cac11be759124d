"""Grids of samples as data URIs, within a byte budget."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hrf.errors import ArtifactError

# Pixels of a small grid are enlarged this much at most, so that 32-pixel samples can be looked at.
LARGEST_ENLARGEMENT = 3
SHARP_BELOW_WIDTH = 500


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image inside the page.

    Attributes:
        uri: `data:` URI.
        alt: What it shows.
        caption: Shown beneath it.
        width: Of the original, in pixels.
        height: Of the original, in pixels.
        display_width: Largest width on the page, in CSS pixels.
        is_sharp: Whether pixels stay square when enlarged.
        note: Says so if the picture had to be made smaller.
    """

    uri: str
    alt: str
    caption: str
    width: int
    height: int
    display_width: int
    is_sharp: bool
    note: str = ""


def _shrunk(image: Image.Image, at_most_bytes: int) -> tuple[bytes, str]:
    """Encode as WebP, at three quarters of the size again and again until it fits."""
    reduced = image.convert("RGB")
    while True:
        stream = io.BytesIO()
        reduced.save(stream, "WEBP", quality=90, method=2)
        if len(stream.getvalue()) <= at_most_bytes or min(reduced.size) <= 16:
            return stream.getvalue(), f"Re-encoded at {reduced.width}×{reduced.height} pixels to keep the page small."
        reduced = reduced.resize((max(1, reduced.width * 3 // 4), max(1, reduced.height * 3 // 4)))


def embed(path: Path | None, *, alt: str, caption: str, at_most_bytes: int) -> Picture | None:
    """Make a picture of a PNG file; one that is too large is made smaller, with losses and a note that says so.

    Returns:
        The picture, or None without a file.

    Raises:
        ArtifactError: The file is not an image.
    """
    if path is None:
        return None
    content, kind, note = path.read_bytes(), "png", ""
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            image.load()
            if len(content) > at_most_bytes:
                (content, note), kind = _shrunk(image, at_most_bytes), "webp"
    except (UnidentifiedImageError, OSError) as error:
        raise ArtifactError(
            path, problem=f"it is not an image: {error}", fix="run the step that wrote it again"
        ) from error
    is_sharp = width <= SHARP_BELOW_WIDTH
    return Picture(
        uri=f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}",
        alt=alt,
        caption=caption,
        width=width,
        height=height,
        display_width=width * (LARGEST_ENLARGEMENT if is_sharp else 1),
        is_sharp=is_sharp,
        note=note,
    )
