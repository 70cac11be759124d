"""Rewards: images, and the prompts they were made from, to numbers; one file a family, a line each in `registry`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrf.rewards.base import CheckedReward, ImageError, Prompts, Reward, missing_prompts
from hrf.rewards.family import RewardFamily, union_of
from hrf.rewards.registry import SINGLE_FAMILIES
from hrf.rewards.weighted_sum import WeightedSumReward

__all__ = [
    "CATALOGUE",
    "DEFAULT_REWARD",
    "CheckedReward",
    "ImageError",
    "Prompts",
    "Reward",
    "RewardSettings",
    "build_reward",
    "family_of",
    "missing_prompts",
    "reward_unit",
    "reward_words",
]

_FAMILIES: tuple[type[RewardFamily], ...] = (*SINGLE_FAMILIES, WeightedSumReward)
_BY_NAME = {name: family for family in _FAMILIES for name in family.names()}

DEFAULT_REWARD: RewardFamily = SINGLE_FAMILIES[0]()

CATALOGUE = tuple(record for family in _FAMILIES for record in family.catalogue)
"""What there is to reward, one for each `reward.name`."""

if TYPE_CHECKING:
    RewardSettings = RewardFamily
else:
    RewardSettings = union_of(_FAMILIES)
"""Type of a field with the settings of any reward."""


def build_reward(
    settings: RewardFamily,
    classifier_folder: str | Path | None = None,
    *,
    field: str = "reward",
    device: str | None = None,
) -> Reward:
    """Make the reward that a configuration names. What it needs of pretrained weights is fetched and verified here.

    Args:
        settings: The `reward` section, `shaping.reward` or `evaluation.held_out_reward`.
        classifier_folder: Where `settings.pack_classifiers` has put its classifiers: the one of a `classifier` reward,
            or for the terms of a sum one folder each, named by their numbers.
        field: Path of the section, for messages.
        device: Where networks run, in place of the configured device.

    Raises:
        ConfigError: If a class, module, function, file or package does not exist, or a network does not fit.
        ArtifactError: If weights are not what they should be.
        StorageError: If weights cannot be fetched.
        RemoteError: If the server of a remote reward is not there, or is another one.
    """
    return settings.build(field, folder=Path(classifier_folder) if classifier_folder else None, device=device)


def family_of(name: object) -> type[RewardFamily] | None:
    """The family of a `reward.name`; None for what is none."""
    return _BY_NAME.get(name) if isinstance(name, str) else None


def reward_words(settings: Mapping[str, Any], built_name: str) -> str:
    """A recorded reward in one sentence, with its unit and its direction.

    Args:
        settings: The section `reward` as the run has recorded it; any field may be missing.
        built_name: What the run called the reward.
    """
    name = settings.get("name") or built_name
    family = family_of(name)
    return family.words({**settings, "name": name}, built_name) if family else f"{name}: larger is better"


def reward_unit(name: str) -> str:
    """Unit of a reward's numbers; empty for bare numbers."""
    family = family_of(name)
    return family.unit if family else ""
