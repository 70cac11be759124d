"""How episodes, rewards, training state and the prefix pool lie in their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrf.distributed.sharding import collect, placed_as
from hrf.errors import ArtifactError
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import ABOUT_FILE, PROMPTS_FILE, STATE_FILE
from hrf.trainer.episodes import Episodes, Finished, Scores
from hrf.trainer.record import Sampling
from hrf.trainer.rollout import Trajectories
from hrf.trainer.starts import PrefixPool
from hrf.trainer.trainer import Trainer

_TRAJECTORIES_FILE = "trajectories.safetensors"
_SAMPLES_FILE = "samples.safetensors"
_SCORES_FILE = "scores.json"
_MOMENTS_FILE = "moments.safetensors"
_POOL_FILE = "prefix_pool.safetensors"
_PARTS = ("shaping", "distances")
"""Of scores, beside the rewards."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_episodes(episodes: Episodes, trajectories: str, samples: str, producer: Mapping[str, Any]) -> None:
    """Write an epoch's episodes into two folders: what `update` learns from, and what `score` looks at."""
    with writing_folder(trajectories, producer=producer) as folder:
        save_trajectories(episodes.trajectories, episodes.sampling, folder)
    with writing_folder(samples, producer=producer) as folder:
        finished = episodes.finished
        save_file({"samples": finished.samples, "groups": finished.groups}, folder / _SAMPLES_FILE)
        if finished.prompts is not None:
            text = json.dumps(list(finished.prompts), ensure_ascii=False)
            (folder / PROMPTS_FILE).write_text(text + "\n", encoding="utf-8")


def load_episodes(trajectories: str, samples: str) -> Episodes:
    """Read and verify both folders of an epoch's episodes, or of a shard of them."""
    recorded, sampling = load_trajectories(trajectories)
    return Episodes(trajectories=recorded, finished=load_finished(samples), sampling=sampling)


def save_trajectories(trajectories: Trajectories, sampling: Sampling, folder: Path) -> None:
    """Write an epoch's trajectories, and what its sampling was."""
    tensors = {name: value for name, value in asdict(trajectories).items() if value is not None}
    num_trained = tensors.pop("num_trained_steps")
    save_file(tensors, folder / _TRAJECTORIES_FILE)
    _write(folder / ABOUT_FILE, {"num_trained_steps": num_trained, **sampling.as_json()})


def load_trajectories(path: str) -> tuple[Trajectories, Sampling]:
    """Read and verify a trajectories folder."""
    folder = read_folder(path)
    file = folder / ABOUT_FILE
    about = _read(file)
    num_trained = about.pop("num_trained_steps")
    trajectories = Trajectories(**load_file(folder / _TRAJECTORIES_FILE), num_trained_steps=num_trained)
    return trajectories, Sampling.parse(about, str(file))


def load_finished(path: str) -> Finished:
    """Read and verify a samples folder.

    Raises:
        ArtifactError: If it is damaged, or its prompts are no list of texts.
    """
    folder = read_folder(path)
    prompts, file = None, folder / PROMPTS_FILE
    if file.is_file():
        prompts = _read(file)
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            fix = "run the epoch's sampling again"
            raise ArtifactError(file, problem="no list of texts", producer="sample", fix=fix)
    return Finished(**load_file(folder / _SAMPLES_FILE), prompts=prompts)


def save_scores(scores: Scores, name: str, folder: Path) -> None:
    """Write an epoch's rewards with the name of what gave them, and what else advantages are made of, if any."""
    record = {"name": name, "seconds": scores.seconds, "rewards": scores.rewards.tolist()}
    for part in _PARTS:
        if (numbers := getattr(scores, part)) is not None:
            record[part] = numbers.tolist()
    _write(folder / _SCORES_FILE, record)


def load_scores(path: str) -> Scores:
    """Read and verify a scores folder."""
    record = _read(read_folder(path) / _SCORES_FILE)
    parts = {part: np.asarray(record[part]) for part in _PARTS if part in record}
    return Scores(rewards=np.asarray(record["rewards"]), seconds=float(record["seconds"]), **parts)


def save_fresh_state(folder: Path) -> None:
    """Write the training state from before the first update."""
    _write(folder / STATE_FILE, {"num_updates": 0, "num_evaluations": 0, "rate_scale": 1.0})


def moments_of(trainer: Trainer) -> dict[str, Tensor]:
    """The optimizer's moments by their names in a file, on the first rank; all ranks must ask."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainer.policy.denoiser.named_parameters():
        moments = trainer.updater.optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment] for moment in _MOMENTS if moment in moments}
    return collect(tensors, trainer.ranks)


def save_training_state(trainer: Trainer, moments: Mapping[str, Tensor], folder: Path) -> None:
    """Write the optimizer's moments as `moments_of` names them, and the rest as JSON.

    The rest are the counters, the factor of the configured learning rate, and the latest rewards of each prompt. JSON
    keeps a float64 to the last bit.
    """
    updater = trainer.updater
    save_file({name: value.contiguous() for name, value in moments.items()}, folder / _MOMENTS_FILE)
    state: dict[str, Any] = {
        "num_updates": updater.num_updates,
        "num_evaluations": trainer.num_evaluations,
        "rate_scale": updater.rate_scale,
    }
    if trainer.statistics is not None:
        state["prompt_rewards"] = trainer.statistics.state()
    _write(folder / STATE_FILE, state)


def load_training_state(path: str, trainer: Trainer) -> None:
    """Read and verify a training state folder into a trainer. A fresh one has no moments."""
    folder, updater = read_folder(path), trainer.updater
    state = _read(folder / STATE_FILE)
    updater.num_updates, updater.rate_scale = state["num_updates"], state["rate_scale"]
    trainer.num_evaluations = state["num_evaluations"]
    if trainer.statistics is not None:
        trainer.statistics.restore(state.get("prompt_rewards", {}))
    file = folder / _MOMENTS_FILE
    if file.is_file():
        tensors = load_file(file)
        for name, parameter in trainer.policy.denoiser.named_parameters():
            if f"step/{name}" in tensors:
                moments = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
                # The count of steps stays in memory, as AdamW keeps it.
                on_device = {moment: placed_as(moments[moment], parameter) for moment in _MOMENTS[1:]}
                updater.optimizer.state[parameter] = {**moments, **on_device}


def save_prefix_pool(pool: PrefixPool, folder: Path) -> None:
    """Write a split policy's pool of prefix states."""
    tensors = {"states": pool.states} if pool.prompts is None else {"states": pool.states, "prompts": pool.prompts}
    save_file(tensors, folder / _POOL_FILE)


def load_prefix_pool(folder: Path, switch_step: int) -> PrefixPool | None:
    """Read the pool from a verified baseline folder; None if the run has none."""
    file = folder / _POOL_FILE
    return PrefixPool(**load_file(file), step=switch_step) if file.is_file() else None


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value) + "\n", encoding="utf-8")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
