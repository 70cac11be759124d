"""How trajectories, training state and the prefix pool lie in their folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrf.storage.folders import read_folder
from hrf.storage.names import ABOUT_FILE, STATE_FILE
from hrf.trainer.prompt_statistics import PromptStatistics
from hrf.trainer.rollout import Trajectories
from hrf.trainer.starts import PrefixPool
from hrf.trainer.update import Updater

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_trajectories(trajectories: Trajectories, record: dict[str, Any], folder: Path) -> None:
    """Write an epoch's trajectories, and the numbers that `update` reports about their sampling."""
    tensors = {name: value for name, value in asdict(trajectories).items() if value is not None}
    num_trained = tensors.pop("num_trained_steps")
    save_file(tensors, folder / "trajectories.safetensors")
    about = {"num_trained_steps": num_trained, **record}
    (folder / ABOUT_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")


def load_trajectories(path: str) -> tuple[Trajectories, dict[str, Any]]:
    """Read and verify a trajectories folder; returns them and the record of their sampling."""
    folder = read_folder(path)
    about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    tensors = load_file(folder / "trajectories.safetensors")
    return Trajectories(**tensors, num_trained_steps=about.pop("num_trained_steps")), about


def save_training_state(
    updater: Updater,
    folder: Path,
    num_evaluations: int,
    rate_scale: float,
    statistics: PromptStatistics | None = None,
) -> None:
    """Write the optimizer's moments by parameter name, and the rest as JSON.

    The rest are the counters, the factor of the configured learning rate, and what is kept of prompts' rewards. JSON
    keeps a float64 to the last bit.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in updater.policy.denoiser.named_parameters():
        moments = updater.optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment].contiguous() for moment in _MOMENTS if moment in moments}
    save_file(tensors, folder / "moments.safetensors")
    state: dict[str, Any] = {
        "num_updates": updater.num_updates,
        "num_evaluations": num_evaluations,
        "rate_scale": rate_scale,
    }
    if statistics is not None:
        state["prompt_rewards"] = statistics.state()
    (folder / STATE_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")


def load_training_state(path: str, denoiser: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read and verify a training state folder into the optimizer; returns the rest. A fresh one has no moments."""
    folder = read_folder(path)
    counters: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    file = folder / "moments.safetensors"
    if file.is_file():
        tensors = load_file(file)
        for name, parameter in denoiser.named_parameters():
            if f"step/{name}" in tensors:
                optimizer.state[parameter] = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
                for moment in _MOMENTS[1:]:
                    optimizer.state[parameter][moment] = optimizer.state[parameter][moment].to(parameter.device)
    return counters


def save_prefix_pool(pool: PrefixPool, folder: Path) -> None:
    """Write a split policy's pool of prefix states."""
    tensors = {"states": pool.states} if pool.prompts is None else {"states": pool.states, "prompts": pool.prompts}
    save_file(tensors, folder / "prefix_pool.safetensors")


def load_prefix_pool(folder: Path, switch_step: int) -> PrefixPool | None:
    """Read the pool from a verified baseline folder; None if the run has none."""
    file = folder / "prefix_pool.safetensors"
    return PrefixPool(**load_file(file), step=switch_step) if file.is_file() else None
