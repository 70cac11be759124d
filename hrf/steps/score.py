"""Score: the reward of every branch's finished image."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hrf.distributed.ranks import ALONE, Ranks, this_rank
from hrf.errors import ArtifactError, NumericalError
from hrf.rewards import ImageError, Prompts, Reward, build_reward
from hrf.steps.context import RunContext, step
from hrf.steps.processes import in_processes
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import PROMPTS_FILE
from hrf.storage.secrets import SCORING_SECRETS


@step("score", when_stopped={"scores": ""}, secrets=SCORING_SECRETS)
@in_processes
def score(*, run: str, samples: str, epoch: int, scores: str) -> dict[str, Any]:
    """Reward an epoch's samples.

    Args:
        run: Folder of the run.
        samples: Folder of the finished samples, with their prompts where the model has any.
        epoch: From 0.
        scores: Output folder: the rewards.

    Returns:
        Mean, spread and extremes of the rewards.

    Raises:
        NumericalError: If a reward is not finite; it names epoch, root and branch.
    """
    context, ranks = RunContext.read(run), this_rank()
    reward = build_reward(context.config.reward, context.classifier("reward"))
    folder = read_folder(samples)
    loaded, prompts = load_file(folder / "samples.safetensors"), read_prompts(folder)
    began = time.perf_counter()
    rewards = reward_samples(reward, loaded["samples"], loaded["groups"], epoch, prompts, ranks)
    record = {"name": reward.name, "seconds": time.perf_counter() - began, "rewards": rewards.tolist()}
    ranks.wait_for_all()
    if ranks.is_first:
        with writing_folder(scores, producer=context.producer("score", epoch)) as target:
            (target / "scores.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_min": float(rewards.min()),
        "reward_max": float(rewards.max()),
        "seconds": record["seconds"],
    }


def reward_samples(
    reward: Reward,
    samples: NDArray[np.float32],
    groups: NDArray[np.int64],
    epoch: int,
    prompts: Prompts = None,
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:
    """Rewards of samples in [-1, 1], one per branch. Ranks share the samples between them, and all get all rewards.

    Raises:
        NumericalError: If an image or its reward is out of range; it names the branch, whose seed finds it again.
    """
    own = ranks.part(len(samples))
    try:
        rewards = reward.of_samples(samples[own], None if prompts is None else prompts[own])
    except ImageError as error:
        where = branch_name(groups, own.start + error.image, epoch)
        raise NumericalError(error.problem, where=where, fix=error.fix) from error
    return ranks.concatenate_array(rewards)


def read_prompts(folder: Path) -> Sequence[str] | None:
    """The prompts beside an epoch's samples, one per sample; None where there are none.

    Raises:
        ArtifactError: If the file is no list of texts.
    """
    file = folder / PROMPTS_FILE
    if not file.is_file():
        return None
    prompts = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ArtifactError(file, problem="no list of texts", producer="sample", fix="run the epoch's sampling again")
    return prompts


def write_prompts(texts: Sequence[str], folder: Path) -> None:
    """Write the prompts of an epoch's samples beside them."""
    (folder / PROMPTS_FILE).write_text(json.dumps(list(texts), ensure_ascii=False) + "\n", encoding="utf-8")


def branch_name(groups: NDArray[np.int64], index: int, epoch: int) -> str:
    """The coordinates of a branch's seed: epoch, root, and its number among the root's branches."""
    root = int(groups[index])
    return f"epoch={epoch}, root={root}, branch={int((groups[:index] == root).sum())}"
