"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward, Images, Numbers, Prompts, Reward, Samples
from hrf.rewards.family import RewardFamily, RewardRecord
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.registry import SingleRewardSettings
from hrf.storage.schema import Positive, Section


@dataclass(frozen=True, kw_only=True)
class NormalisedTerm:
    """One reward of the sum, checked itself: its mistakes carry its own name."""

    reward: Reward
    weight: float
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """score = sum over terms of weight (reward - mean) / std.

    Mean and deviation are numbers of the configuration, not of the batch: an image's score depends on no other image,
    and means the same in every epoch.
    """

    terms: Sequence[NormalisedTerm]

    def __call__(self, images: Images, prompts: Prompts = None) -> Numbers:
        """Score images [B, 3, H, W] in [0, 1], and their prompts: [B]."""
        return self._sum(len(images), (term.reward(images, prompts) for term in self.terms))

    def of_samples(self, samples: Samples, prompts: Prompts = None) -> Numbers:
        """Score finished samples [B, 3, H, W] in [-1, 1], and their prompts: [B]."""
        return self._sum(len(samples), (term.reward.of_samples(samples, prompts) for term in self.terms))

    def _sum(self, count: int, scores: Iterable[Numbers]) -> Numbers:
        import numpy as np

        total = np.zeros(count)
        for term, own in zip(self.terms, scores, strict=True):
            total += term.weight * (own - term.mean) / term.std
        return total


class Term(Section):
    """One reward of a weighted sum."""

    reward: SingleRewardSettings = JpegReward()
    weight: float = 1.0
    """How much it counts, in standard deviations; a negative one turns the reward around."""
    mean: float = 0.0
    """Subtracted from the reward first; only shifts the sum."""
    std: Positive = 1.0
    """The reward is divided by it; its standard deviation over the base model's images makes terms comparable."""


class WeightedSumReward(RewardFamily):
    """Sum of weight x (reward - mean) / std over several rewards."""

    name: Literal["weighted_sum"] = "weighted_sum"
    terms: tuple[Term, ...] = ()
    """At least two."""

    catalogue = (
        RewardRecord(
            name="weighted_sum",
            measures="sum of weight x (reward - mean) / std over other rewards",
            range="any finite number; about standard normal times the weights, if mean and std are the base's",
            direction="as the weights' signs say",
            needs_prompts=False,
            weights="its terms'",
            licence="its terms'",
            cost="its terms'",
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`: of the terms' rewards, which are checked themselves."""
        terms = [
            NormalisedTerm(
                reward=term.reward.build(path, folder=folder and folder / str(index), device=device),
                weight=term.weight,
                mean=term.mean,
                std=term.std,
            )
            for index, (term, path) in enumerate(self._terms(field))
        ]
        total = WeightedSum(terms=terms)
        return CheckedReward(
            name=" + ".join(f"{term.weight:g} {term.reward.name}" for term in terms),
            score=total,
            score_samples=total.of_samples,
            needs_prompts=any(term.reward.needs_prompts for term in terms),
            field=field,
        )

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        if len(self.terms) < 2:
            yield ConfigError(
                f"{path}.terms", expected="at least two terms", got=len(self.terms), fix="add one, or name the reward"
            )
        for index, term in enumerate(self.terms):
            if not term.weight:
                yield ConfigError(
                    f"{path}.terms[{index}].weight",
                    expected="a weight other than 0: the reward would have no effect",
                    got=term.weight,
                    fix="remove the term, or watch it as evaluation.held_out_reward",
                )
        for term, term_path in self._terms(path):
            yield from term.reward.problems(term_path)

    def leaves(self, path: str) -> Iterator[tuple[RewardFamily, str]]:
        """See `RewardFamily.leaves`."""
        for term, term_path in self._terms(path):
            yield from term.reward.leaves(term_path)

    def measured(self) -> dict[str, Any]:
        """See `RewardFamily.measured`."""
        terms = [{**term.model_dump(mode="json"), "reward": term.reward.measured()} for term in self.terms]
        return {**self.model_dump(mode="json"), "terms": terms}

    def input_digests(self, path: str) -> dict[str, str]:
        """See `RewardFamily.input_digests`."""
        digests: dict[str, str] = {}
        for term, term_path in self._terms(path):
            digests |= term.reward.input_digests(term_path)
        return digests

    def pack_classifiers(self, path: str, target: Path) -> Iterator[tuple[Path, str]]:
        """See `RewardFamily.pack_classifiers`: those of the terms lie by their numbers."""
        for index, (term, term_path) in enumerate(self._terms(path)):
            yield from term.reward.pack_classifiers(term_path, target / str(index))

    @classmethod
    def chosen(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.chosen`."""
        del settings
        return f" ({built_name})"

    def _terms(self, path: str) -> Iterator[tuple[Term, str]]:
        """The terms, with the paths of their rewards."""
        for index, term in enumerate(self.terms):
            yield term, f"{path}.terms[{index}].reward"
