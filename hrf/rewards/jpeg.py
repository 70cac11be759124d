"""How well an image compresses as JPEG (DDPO, section 5.1), with Pillow's encoder.

The sizes, and so the rewards, depend on the encoder: another one is off by hundreds of bytes.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrf.images import to_uint8
from hrf.rewards.base import Prompts

_BYTES_PER_KB = 1000


@dataclass(frozen=True, kw_only=True)
class JpegSize:
    """Size of the JPEG file in kB (1000 bytes), times a sign."""

    sign: int
    """+1 rewards large files (incompressibility), -1 small ones (compressibility)."""
    quality: int = 95

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1]: [B], in kB."""
        del prompts
        # Pillow encodes outside the interpreter lock, so threads help; map keeps the order of the images.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            sizes = list(pool.map(self._size_bytes, to_uint8(images)))
        return self.sign * np.array(sizes, dtype=np.float64) / _BYTES_PER_KB

    def _size_bytes(self, picture: NDArray[np.uint8]) -> int:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="JPEG", quality=self.quality)
        return file.tell()


@dataclass(frozen=True, kw_only=True)
class LegacyJpegSize:
    """The same as the authors' published code has it, which takes samples in [-1, 1] for images in [0, 1].

    Everything below mid-grey turns black, and contrast doubles above. Only for comparing with numbers published from
    that code.
    """

    size: JpegSize

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1], made from samples: [B], in kB. Their rounding may move a byte by one."""
        return self.of_samples(np.float32(2) * images - np.float32(1), prompts)

    def of_samples(self, samples: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score samples [B, 3, H, W] in [-1, 1]: [B], in kB, of the bytes round(255 x) clipped to [0, 255]."""
        return self.size(np.clip(samples, 0, 1), prompts)
