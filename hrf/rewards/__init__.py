"""Rewards: image -> number, one file a family; the only place with scorer libraries."""

from __future__ import annotations

from pathlib import Path

from hrf.config.rewards import Reward as RewardConfig
from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward, ImageError, Prompts, Reward

__all__ = ["CheckedReward", "ImageError", "Prompts", "Reward", "build_reward"]


def build_reward(
    settings: RewardConfig, classifier_folder: str | Path | None = None, *, field: str = "reward"
) -> Reward:
    """Make the reward that a configuration names.

    Args:
        settings: The `reward` section, or `evaluation.held_out_reward`.
        classifier_folder: Where the classifier of a `classifier` reward lies.
        field: Path of the section, for messages.

    Raises:
        ConfigError: If a class, module or function does not exist.
        ArtifactError: If the folder holds no classifier.
        RemoteError: If the server of a remote reward is not there, or is another one.
    """
    match settings.name:
        case "jpeg_compressibility" | "jpeg_incompressibility":
            from hrf.rewards.jpeg import JpegSize

            sign = -1 if settings.name == "jpeg_compressibility" else 1
            score = JpegSize(sign=sign, quality=settings.quality, legacy_range=settings.legacy_range)
            return CheckedReward(name=settings.name, score=score)
        case "classifier":
            from hrf.rewards.classifier import load_class_probability

            if classifier_folder is None:
                raise ConfigError(
                    f"{field}.classifier", expected="a folder with a classifier", got=None, fix="name one, or `shipped`"
                )
            probability = load_class_probability(classifier_folder, settings.label, field=field)
            return CheckedReward(name=f"classifier:{settings.label}", score=probability)
        case "python":
            from hrf.rewards.python import load_user_function

            function = load_user_function(settings.function, field=field)
            return CheckedReward(
                name=settings.function, score=function, needs_prompts=function.needs_prompts, field=field
            )
        case "remote":
            from hrf.rewards.remote import connect

            return connect(settings, field=field)
