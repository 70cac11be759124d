"""A cosine reward with its text embeddings corrected by one fitted direction (D2-Align, arXiv 2512.24146)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward, Images
from hrf.rewards.clip_score import ClipScoreReward
from hrf.rewards.direction import HUB_FILES, TextDirection, prompts_digest
from hrf.rewards.family import REWARD_EXTRA, RewardFamily, RewardRecord, union_of
from hrf.rewards.pickscore import PickScoreReward
from hrf.rewards.text_image import CosineReward, PairEncoder
from hrf.storage.weights import PinnedWeights, weights_folder

if TYPE_CHECKING:
    from torch import Tensor

_COSINES: tuple[type[CosineReward], ...] = (ClipScoreReward, PickScoreReward)

if TYPE_CHECKING:
    CosineSettings = CosineReward
else:
    CosineSettings = union_of(_COSINES)


@dataclass(frozen=True, kw_only=True)
class GuidedEncoder:
    """An encoder whose texts are corrected: see `hrf.core.text_direction.guided_texts`."""

    plain: PairEncoder
    direction: Tensor
    """b, [D] float64."""
    weight: float

    def embed_images(self, images: Images) -> Tensor:
        """[n, D], of length 1."""
        return self.plain.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[n, D] float64, of length 1."""
        from hrf.core.text_direction import guided_texts

        return guided_texts(self.plain.embed_texts(texts).double(), self.direction, self.weight)


class GuidedTextReward(RewardFamily):
    """A cosine reward whose text embeddings are led along a direction that `hrf rewards fit-direction` has fitted."""

    name: Literal["guided_text"] = "guided_text"
    reward: CosineSettings = ClipScoreReward()
    """`clip_score` or `pickscore`, with its fields: the score that is corrected, on its own scale."""
    direction: PinnedWeights = PinnedWeights()
    """The folder that `hrf rewards fit-direction` wrote, for the same encoder, base model and training prompts."""
    weight: Annotated[float, Field(gt=0.5)] = 1.5
    """w of e- + w (e+ - e-): at 0.5 and below, the direction would have no effect or the opposite one."""

    catalogue = (
        RewardRecord(
            name="guided_text",
            measures="CLIP score or PickScore, the prompt led along a direction fitted to the base's pictures",
            range="as the score that it corrects",
            direction="closer to the prompt, corrected",
            needs_prompts=True,
            weights="those of the score that it corrects, and a folder that `hrf rewards fit-direction` writes",
            licence="as the score that it corrects",
            cost="as the score that it corrects",
            extra=REWARD_EXTRA,
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`.

        Raises:
            ConfigError: Also if the direction was fitted for another encoder.
        """
        del folder
        # The small files first: a mistake in them need not wait for the large ones.
        direction = self._fetch(field)
        direction.refuse_others(f"{field}.direction", encoder=self.reward.encoder_pins())
        plain = self.reward.cosine(f"{field}.reward", device=device)
        encoder = GuidedEncoder(plain=plain.encoder, direction=direction.vector, weight=self.weight)
        name = f"guided_text:{self.reward.name}"
        return CheckedReward(name=name, score=replace(plain, encoder=encoder), needs_prompts=True, field=field)

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        yield from super().problems(path)
        yield from self.reward.problems(f"{path}.reward")

    def leaves(self, path: str) -> Iterator[tuple[RewardFamily, str]]:
        """See `RewardFamily.leaves`: both have weights of their own."""
        yield self, path
        yield self.reward, f"{path}.reward"

    def check_fitted(self, path: str, *, base: str, prompts: Sequence[str]) -> None:
        """See `RewardFamily.check_fitted`."""
        self._fetch(path).refuse_others(f"{path}.direction", base=base, prompts=prompts_digest(prompts))

    @classmethod
    def chosen(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.chosen`."""
        return f" ({settings.get('reward', {}).get('name', built_name)})"

    def _fetch(self, field: str) -> TextDirection:
        return TextDirection.load(weights_folder(self.direction, f"{field}.direction", HUB_FILES))


def corrected_by(settings: RewardFamily, field: str) -> tuple[CosineReward, str]:
    """The cosine reward to fit a direction for, with its path: a configuration's own, or the one that is corrected.

    Raises:
        ConfigError: If the configuration has another reward.
    """
    if isinstance(settings, GuidedTextReward):
        return settings.reward, f"{field}.reward"
    if not isinstance(settings, CosineReward):
        raise ConfigError(
            f"{field}.name",
            expected="a reward that is a cosine of image and prompt, "
            + " or ".join(name for family in _COSINES for name in family.names()),
            got=settings.name,
            fix="fit the direction for one of them: no other reward has a text embedding to correct",
        )
    return settings, field
