"""What a reward is, and the check around every reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hrf.errors import NumericalError


class Reward(Protocol):
    """Images to numbers, higher is better.

    Takes float32 [B, 3, H, W] in [0, 1] and returns float64 [B]. The reward of an image does not depend on the other
    images of the batch.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score images."""


class ImageError(NumericalError):
    """An image, or the score of one, that is out of range.

    Attributes:
        image: Its index in the batch; the caller knows which seed that was.
    """

    def __init__(self, problem: str, *, image: int, fix: str) -> None:
        self.image = image
        super().__init__(problem, where=f"image={image}", fix=fix)


@dataclass(frozen=True, kw_only=True)
class CheckedReward:
    """A reward that refuses what no reward should see, and what no reward should say.

    A scorer that is fed the sampler's [-1, 1] still returns plausible numbers, and so does an average over NaN: neither
    would ever be noticed further on.
    """

    name: str
    score: Callable[[NDArray[np.float32]], Any]
    """The scorer itself; whatever it returns must convert to float64 [B]."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score images, [B, 3, H, W] float32 in [0, 1], to [B] float64.

        Raises:
            NumericalError: If the images are of another type, shape or range, or a score is missing or not finite.
        """
        self._check_images(images)
        guarded = images.view()
        guarded.flags.writeable = False
        return self._checked_scores(self.score(guarded), len(images))

    def _check_images(self, images: NDArray[np.float32]) -> None:
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            kind = getattr(images, "dtype", type(images).__name__)
            raise self._error(
                f"images must be a float32 array, got {kind}", "input", "convert with hrf.images.to_images"
            )
        if images.ndim != 4 or images.shape[1] != 3:
            raise self._error(
                f"images must be [B, 3, H, W], got {list(images.shape)}", "input", "put the channels second"
            )
        # Written so that NaN fails, too.
        bad = ~((images >= 0) & (images <= 1)).all(axis=(1, 2, 3))
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            low, high = float(images[index].min()), float(images[index].max())
            raise ImageError(
                f"reward {self.name!r}: images must lie in [0, 1], got [{low:.4g}, {high:.4g}]",
                image=index,
                fix="convert samples in [-1, 1] with hrf.images.to_images",
            )

    def _checked_scores(self, result: Any, count: int) -> NDArray[np.float64]:
        try:
            scores = np.array(result, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._error(f"scores are no numbers: {error}", "output", "return one number per image") from error
        if scores.shape != (count,):
            raise self._error(
                f"scores must be [{count}], got {list(scores.shape)}", "output", "return one number per image"
            )
        bad = ~np.isfinite(scores)
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            raise ImageError(
                f"reward {self.name!r}: a score is {scores[index]}",
                image=index,
                fix="look at that image; mend the reward",
            )
        return scores

    def _error(self, problem: str, where: str, fix: str) -> NumericalError:
        return NumericalError(f"reward {self.name!r}: {problem}", where=where, fix=fix)
