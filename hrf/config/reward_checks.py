"""Rules between the fields of a reward."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hrf.config.inert import inert
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
    Weights,
    leaf_rewards,
)
from hrf.errors import ConfigError

_WEIGHTS_SOURCE = re.compile(
    r"hf:[\w.-]+/[\w.-]+(/[\w./-]+)?|s3://[a-z0-9][a-z0-9.-]+/.+|package:\w+/[\w./-]+|(?![a-z0-9+]{2,}:)\S.*"
)


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
            yield from weights_problems(reward.clip, f"{path}.clip")
            yield from weights_problems(reward.head, f"{path}.head")
        case ClipScoreReward():
            yield from weights_problems(reward.clip, f"{path}.clip")
        case PickScoreReward():
            yield from weights_problems(reward.model, f"{path}.model")
            if reward.processor is not None:
                yield from weights_problems(reward.processor, f"{path}.processor")
        case ImageClassifierReward():
            yield from weights_problems(reward.model, f"{path}.model")
            if not reward.labels or len(set(reward.labels)) < len(reward.labels):
                yield ConfigError(
                    f"{path}.labels",
                    expected="one or more different labels of the classifier",
                    got=list(reward.labels),
                    fix="write them as the id2label of its config.json spells them",
                )
        case OnnxClassifierReward():
            yield from weights_problems(reward.model, f"{path}.model")
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


def weights_problems(weights: Weights, path: str) -> Iterator[ConfigError]:
    """Everything that is wrong with a reference to weights at a path of the configuration."""
    source = weights.source
    on_hub = source.startswith("hf:")
    if not _WEIGHTS_SOURCE.fullmatch(source):
        yield ConfigError(
            f"{path}.source",
            expected="a local file or folder, s3://bucket/key, hf:owner/name[/file] or package:name/file",
            got=source,
            fix="say where the weights are",
        )
        return
    if on_hub and not re.fullmatch(r"[0-9a-f]{40}", weights.revision):
        yield ConfigError(
            f"{path}.revision",
            expected="a commit hash, 40 hex digits, for an hf: source",
            got=weights.revision,
            fix="copy it from the model's page, Files and versions, History: a branch could change between steps",
        )
    if not on_hub:
        yield from inert(weights, path, ("revision",), "except on hf: sources")
    if on_hub and source.count("/") == 1:
        yield from inert(weights, path, ("sha256",), "on a whole repository, whose revision pins every file")
    elif not re.fullmatch(r"[0-9a-f]{64}", weights.sha256) and (weights.sha256 or not on_hub):
        yield ConfigError(
            f"{path}.sha256",
            expected="the sha256 of the weights, 64 hex digits: a run must know what it was scored by",
            got=weights.sha256,
            fix="`hrf rewards digest FILE_OR_FOLDER` prints it",
        )
