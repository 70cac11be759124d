"""Rules between the fields of a reward."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hrf.config.rewards import (
    AestheticReward,
    ClassifierReward,
    ClipScoreReward,
    ImageClassifierReward,
    OnnxClassifierReward,
    PickScoreReward,
    PythonReward,
    RemoteReward,
    Reward,
    Thresholded,
    WeightedSumReward,
    leaf_rewards,
)
from hrf.errors import ConfigError
from hrf.storage.schema import inert


def reward_problems(reward: Reward, path: str) -> Iterator[ConfigError]:
    """Everything that is wrong with a reward at a path of the configuration whose single values are all right."""
    if isinstance(reward, WeightedSumReward):
        if len(reward.terms) < 2:
            yield ConfigError(
                f"{path}.terms", expected="at least two terms", got=len(reward.terms), fix="add one, or name the reward"
            )
        for index, term in enumerate(reward.terms):
            if not term.weight:
                yield ConfigError(
                    f"{path}.terms[{index}].weight",
                    expected="a weight other than 0: the reward would have no effect",
                    got=term.weight,
                    fix="remove the term, or watch it as evaluation.held_out_reward",
                )
    for single, at in leaf_rewards(reward, path):
        yield from _single_reward(single, at)


def _single_reward(reward: Reward, path: str) -> Iterator[ConfigError]:
    if isinstance(reward, Thresholded) and reward.threshold is None:
        yield from inert(reward, path, ("below",), f"without a threshold ({path}.threshold)")
    match reward:
        case ClassifierReward() if not reward.label or not reward.classifier:
            missing = "label" if not reward.label else "classifier"
            expected = "a class of the classifier" if missing == "label" else "'shipped' or a folder"
            yield ConfigError(f"{path}.{missing}", expected=expected, got="", fix=f"set {path}.{missing}")
        case PythonReward() if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", reward.function):
            yield ConfigError(
                f"{path}.function",
                expected="module:function, such as my_package.rewards:redness",
                got=reward.function,
                fix=f"set {path}.function",
            )
        case AestheticReward():
            yield from reward.clip.problems(f"{path}.clip")
            yield from reward.head.problems(f"{path}.head")
        case ClipScoreReward():
            yield from reward.clip.problems(f"{path}.clip")
        case PickScoreReward():
            yield from reward.model.problems(f"{path}.model")
            if reward.processor is not None:
                yield from reward.processor.problems(f"{path}.processor")
        case ImageClassifierReward():
            yield from reward.model.problems(f"{path}.model")
            if not reward.labels or len(set(reward.labels)) < len(reward.labels):
                yield ConfigError(
                    f"{path}.labels",
                    expected="one or more different labels of the classifier",
                    got=list(reward.labels),
                    fix="write them as the id2label of its config.json spells them",
                )
        case OnnxClassifierReward():
            yield from reward.model.problems(f"{path}.model")
            left, top, right, bottom = reward.crop
            if left >= right or top >= bottom:
                yield ConfigError(
                    f"{path}.crop",
                    expected="[left, top, right, bottom] with left < right and top < bottom",
                    got=list(reward.crop),
                    fix="correct the order; [0, 0, 1, 1] is the whole image",
                )
            start, stop = reward.classes
            if start >= stop:
                yield ConfigError(
                    f"{path}.classes",
                    expected="[i, j] with i < j, the classes i..j-1",
                    got=list(reward.classes),
                    fix="write the first class and the one after the last",
                )
        case RemoteReward():
            yield from _remote(reward, path)


def _remote(reward: RemoteReward, path: str) -> Iterator[ConfigError]:
    # No user, query or fragment: a secret in them would be in every record of the run.
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[\w.~/-]*)?", reward.url):
        yield ConfigError(
            f"{path}.url",
            expected="http(s)://HOST[:PORT][/PATH], without user, query and fragment",
            got=reward.url.partition("@")[2] or reward.url,
            fix=f"set {path}.url to the server's address; a token belongs in HRF_REWARD_TOKEN",
        )
    if not reward.scorer:
        yield ConfigError(
            f"{path}.scorer",
            expected="the name of the reward that the server has",
            got="",
            fix="copy it from the server's GET /health: another server at that address would go unnoticed",
        )
