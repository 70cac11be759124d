"""Rewards: images, and the prompts they were made from, to numbers; one file a family.

Libraries of pretrained networks are the business of `hrf.networks`.
"""

from __future__ import annotations

from pathlib import Path

from hrf.config.rewards import ClassifierReward, JpegReward, PythonReward, RemoteReward, WeightedSumReward
from hrf.config.rewards import Reward as RewardConfig
from hrf.errors import ConfigError
from hrf.rewards.base import CheckedReward, ImageError, Prompts, Reward, missing_prompts

__all__ = ["CheckedReward", "ImageError", "Prompts", "Reward", "build_reward", "missing_prompts"]


def build_reward(
    settings: RewardConfig,
    classifier_folder: str | Path | None = None,
    *,
    field: str = "reward",
    device: str | None = None,
) -> Reward:
    """Make the reward that a configuration names. What it needs of pretrained weights is fetched and verified here.

    Args:
        settings: The `reward` section, or `evaluation.held_out_reward`.
        classifier_folder: Where the classifiers of `classifier` rewards lie: one of its own, or for the terms of a sum
            one folder each, named by their numbers.
        field: Path of the section, for messages.
        device: Where networks run, in place of the configured device.

    Raises:
        ConfigError: If a class, module, function, file or package does not exist, or a network does not fit.
        ArtifactError: If weights are not what they should be.
        StorageError: If weights cannot be fetched.
        RemoteError: If the server of a remote reward is not there, or is another one.
    """
    match settings:
        case JpegReward():
            from hrf.rewards.jpeg import JpegSize, LegacyJpegSize

            size = JpegSize(sign=-1 if settings.name == "jpeg_compressibility" else 1, quality=settings.quality)
            if settings.legacy_range:
                legacy = LegacyJpegSize(size=size)
                return CheckedReward(name=settings.name, score=legacy, score_samples=legacy.of_samples, field=field)
            return CheckedReward(name=settings.name, score=size, field=field)
        case ClassifierReward():
            from hrf.rewards.classifier import load_class_probability

            if classifier_folder is None:
                raise ConfigError(
                    f"{field}.classifier", expected="a folder with a classifier", got=None, fix="name one, or `shipped`"
                )
            probability = load_class_probability(classifier_folder, settings.label, field=field)
            return CheckedReward(name=f"classifier:{settings.label}", score=probability, field=field)
        case PythonReward():
            from hrf.rewards.python import load_user_function

            function = load_user_function(settings.function, field=field)
            return CheckedReward(
                name=settings.function, score=function, needs_prompts=function.needs_prompts, field=field
            )
        case RemoteReward():
            from hrf.rewards.remote import connect

            return connect(settings, field=field)
        case WeightedSumReward():
            from hrf.rewards.weighted_sum import NormalisedTerm, WeightedSum

            terms = []
            for index, term in enumerate(settings.terms):
                folder = Path(classifier_folder) / str(index) if classifier_folder else None
                own = build_reward(term.reward, folder, field=f"{field}.terms[{index}].reward", device=device)
                terms.append(NormalisedTerm(reward=own, weight=term.weight, mean=term.mean, std=term.std))
            total = WeightedSum(terms=terms)
            return CheckedReward(
                name=" + ".join(f"{term.weight:g} {term.reward.name}" for term in terms),
                score=total,
                score_samples=total.of_samples,
                needs_prompts=any(term.reward.needs_prompts for term in terms),
                field=field,
            )
        case _:
            from hrf.rewards.networks import build_network_reward

            return build_network_reward(settings, field=field, device=device)
