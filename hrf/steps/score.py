"""Score: the reward of every branch's finished image."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hrf.checkpoint import read_folder, writing_folder
from hrf.errors import NumericalError
from hrf.images import to_images
from hrf.rewards import ImageError, Reward, build_reward
from hrf.steps.context import Run, step


@step("score")
def score(*, run: str, samples: str, epoch: int, scores: str) -> dict[str, Any]:
    """Reward an epoch's samples.

    Args:
        run: Folder of the run.
        samples: Folder of the finished samples.
        epoch: From 0.
        scores: Output folder: the rewards.

    Returns:
        Mean, spread and extremes of the rewards.

    Raises:
        NumericalError: If a reward is not finite; it names epoch, root and branch.
    """
    context = Run.read(run)
    reward = build_reward(context.config.reward, context.classifier("reward"))
    loaded = load_file(read_folder(samples) / "samples.safetensors")
    began = time.perf_counter()
    rewards = reward_samples(reward, loaded["samples"], loaded["groups"], epoch)
    record = {"name": reward.name, "seconds": time.perf_counter() - began, "rewards": rewards.tolist()}
    with writing_folder(scores, producer=context.producer("score", epoch)) as folder:
        (folder / "scores.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_min": float(rewards.min()),
        "reward_max": float(rewards.max()),
        "seconds": record["seconds"],
    }


def reward_samples(
    reward: Reward, samples: NDArray[np.float32], groups: NDArray[np.int64], epoch: int
) -> NDArray[np.float64]:
    """Rewards of samples in [-1, 1], one per branch.

    Raises:
        NumericalError: If an image or its reward is out of range; it names the branch, whose seed finds it again.
    """
    try:
        return reward(to_images(samples))
    except ImageError as error:
        raise NumericalError(error.problem, where=branch_name(groups, error.image, epoch), fix=error.fix) from error


def branch_name(groups: NDArray[np.int64], index: int, epoch: int) -> str:
    """The coordinates of a branch's seed: epoch, root, and its number among the root's branches."""
    root = int(groups[index])
    return f"epoch={epoch}, root={root}, branch={int((groups[:index] == root).sum())}"
