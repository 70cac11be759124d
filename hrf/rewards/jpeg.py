"""How well an image compresses as JPEG (DDPO, section 5.1), with Pillow's encoder.

The sizes, and so the rewards, depend on the encoder: another one is off by hundreds of bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hrf.rewards.base import CheckedReward, Images, Numbers, Prompts, Samples
from hrf.rewards.family import RewardFamily, RewardRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BYTES_PER_KB = 1000


@dataclass(frozen=True, kw_only=True)
class JpegSize:
    """Size of the JPEG file in kB (1000 bytes), times a sign."""

    sign: int
    """+1 rewards large files (incompressibility), -1 small ones (compressibility)."""
    quality: int = 95

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1]: [B], in kB."""
        import numpy as np

        from hrf.images import to_uint8

        del prompts
        # Pillow encodes outside the interpreter lock, so threads help; map keeps the order of the images.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            sizes = list(pool.map(self._size_bytes, to_uint8(images)))
        return self.sign * np.array(sizes, dtype=np.float64) / _BYTES_PER_KB

    def _size_bytes(self, picture: NDArray[np.uint8]) -> int:
        from PIL import Image

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

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1], made from samples: [B], in kB. Their rounding may move a byte by one."""
        import numpy as np

        return self.of_samples(np.float32(2) * images - np.float32(1), prompts)

    def of_samples(self, samples: Samples, prompts: Prompts = None) -> Numbers:
        """Score samples [B, 3, H, W] in [-1, 1]: [B], in kB, of the bytes round(255 x) clipped to [0, 255]."""
        import numpy as np

        return self.size(np.clip(samples, 0, 1), prompts)


class JpegReward(RewardFamily):
    """Size of the image as a JPEG file."""

    name: Literal["jpeg_compressibility", "jpeg_incompressibility"] = "jpeg_compressibility"
    """Minus the size in kB, or the size."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality."""
    legacy_range: bool = False
    """Feed the encoder [-1, 1] images as the published code does, to compare with its numbers."""

    catalogue = (
        RewardRecord(
            name="jpeg_compressibility",
            measures="minus the size of the image as a JPEG, in kB (1000 bytes), by Pillow's encoder",
            range="(-inf, 0)",
            direction="smaller files",
            needs_prompts=False,
            weights="none",
            licence="MIT-CMU (Pillow)",
            cost="4 ms of a core at 512 x 512",
        ),
        RewardRecord(
            name="jpeg_incompressibility",
            measures="size of the image as a JPEG, in kB (1000 bytes), by Pillow's encoder",
            range="(0, inf)",
            direction="larger files",
            needs_prompts=False,
            weights="none",
            licence="MIT-CMU (Pillow)",
            cost="4 ms of a core at 512 x 512",
        ),
    )
    unit = "kB"

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        del folder, device
        size = JpegSize(sign=-1 if self.name == "jpeg_compressibility" else 1, quality=self.quality)
        if not self.legacy_range:
            return CheckedReward(name=self.name, score=size, field=field)
        legacy = LegacyJpegSize(size=size)
        return CheckedReward(name=self.name, score=legacy, score_samples=legacy.of_samples, field=field)

    @classmethod
    def words(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.words`; with the unit, and what a negative number stands for."""
        del built_name
        quality = f" of quality {settings['quality']}" if "quality" in settings else ""
        legacy = ", of images in the published code's wrong range" if settings.get("legacy_range") else ""
        encoded = f"the image as a JPEG{quality}, in kB (1000 bytes){legacy}"
        if settings["name"] == "jpeg_incompressibility":
            return f"JPEG incompressibility, the size of {encoded}: larger is better"
        return (
            f"JPEG compressibility, minus the size of {encoded}: −1.2 stands for 1.2 kB, so rewards are negative and a "
            "value nearer to zero is better"
        )
