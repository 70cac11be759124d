"""What a reward is, and the check around every reward.

A configuration has the families of rewards in it, so this starts without numpy, as they do: scoring imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from hrf.errors import ConfigError, NumericalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Images: TypeAlias = "NDArray[np.float32]"
"""[B, 3, H, W] in [0, 1]."""
Samples: TypeAlias = "NDArray[np.float32]"
"""[B, 3, H, W], finished, nominally in [-1, 1]."""
Numbers: TypeAlias = "NDArray[np.float64]"
"""[B], one for each image."""
Prompts = Sequence[str] | None
"""What each image was made from, one text per image; None for images of an unconditional model."""


class Reward(Protocol):
    """Images, and the prompts they were made from, to numbers, higher is better.

    Takes float32 [B, 3, H, W] in [0, 1] and returns float64 [B]. The reward of an image does not depend on the other
    images of the batch.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def needs_prompts(self) -> bool:
        """Whether it has nothing to say about images without prompts."""

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images."""

    def of_samples(self, samples: Samples, prompts: Prompts = None) -> Numbers:
        """Score finished samples, nominally in [-1, 1], by their images: what training and evaluation ask for."""


Scorer: TypeAlias = "Callable[[Images, Prompts], Any]"
"""(images [B, 3, H, W] in [0, 1], their prompts) to what converts to float64 [B]; unchecked."""


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
    score: Scorer
    """The scorer itself; whatever it returns must convert to float64 [B]."""
    needs_prompts: bool = False
    score_samples: Scorer | None = None
    """Scores finished samples, for which their images, which are rounded, won't do; None: `score` sees their images."""
    field: str = "reward"
    """Which reward of the configuration this is, for messages."""

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images, [B, 3, H, W] float32 in [0, 1], and their B prompts, to [B] float64.

        Raises:
            ConfigError: If the reward needs prompts and there are none.
            NumericalError: If the images are of another type, shape or range, there are more or fewer prompts than
                images, or a score is missing or not finite.
        """
        self._check_images(images)
        return self._scored(self.score, images, prompts)

    def of_samples(self, samples: Samples, prompts: Prompts = None) -> Numbers:
        """Score finished samples, [B, 3, H, W] float32 nominally in [-1, 1], and their B prompts, to [B] float64.

        Raises:
            ConfigError, NumericalError: As for images; also if a sample is far outside [-1, 1].
        """
        from hrf.images import to_images

        images = to_images(samples)
        self._check_images(images)
        if self.score_samples is None:
            return self._scored(self.score, images, prompts)
        return self._scored(self.score_samples, samples, prompts)

    def _scored(self, scorer: Scorer, pictures: Images, prompts: Prompts) -> Numbers:
        import numpy as np

        self._check_prompts(prompts, len(pictures))
        if not len(pictures):
            return np.empty(0)
        guarded = pictures.view()
        guarded.flags.writeable = False
        return self._checked_scores(scorer(guarded, prompts), len(pictures))

    def _check_prompts(self, prompts: Prompts, count: int) -> None:
        if prompts is None:
            if self.needs_prompts:
                raise missing_prompts(self.name, self.field)
            return
        # A single string is a sequence of strings, too.
        if isinstance(prompts, str) or len(prompts) != count:
            got = "one text" if isinstance(prompts, str) else f"{len(prompts)} prompts"
            raise self._error(f"needs a prompt per image, got {got} for {count} images", "input", "pass a list of them")

    def _check_images(self, images: Images) -> None:
        import numpy as np

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

    def _checked_scores(self, result: Any, count: int) -> Numbers:
        import numpy as np

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


def missing_prompts(name: str, field: str) -> ConfigError:
    """What to tell someone whose reward needs prompts, and whose model has none."""
    return ConfigError(
        f"{field}.name",
        expected="a reward of images alone, as the model is unconditional: its images have no prompts",
        got=name,
        fix="choose another reward, or a text-to-image model",
    )
