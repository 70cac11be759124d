"""Update: train the policy on an epoch's trajectories and rewards."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.config import Config
from hrf.distributed.progress import emit
from hrf.distributed.ranks import this_rank
from hrf.errors import NumericalError
from hrf.planning.cost import pool_evaluations, update_evaluations
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_policy, weights_of
from hrf.steps.context import TRAINED, RunContext, advance_reporter, step
from hrf.steps.history import copy_updates, update_file, write_record
from hrf.steps.numbers import update_metrics
from hrf.steps.processes import in_processes
from hrf.steps.tracking import track
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import POLICY_FILE
from hrf.trainer.rollout import Trajectories
from hrf.trainer.state import load_training_state, load_trajectories, save_training_state
from hrf.trainer.trainer import advantages_of, build_statistics
from hrf.trainer.update import UpdateMetrics, Updater, build_optimizer, weight_sums


@step("update", when_stopped=TRAINED)
@in_processes
def update(
    *,
    run: str,
    base: str,
    policy: str,
    training_state: str,
    trajectories: str,
    scores: str,
    epoch: int,
    new_policy: str,
    new_training_state: str,
) -> dict[str, Any]:
    """Make one epoch's updates.

    Args:
        run: Folder of the run.
        base: Folder of the base model.
        policy: Folder of the policy that sampled.
        training_state: Folder of the optimizer's state and the counters.
        trajectories: Folder of the epoch's trajectories.
        scores: Folder of their rewards.
        epoch: From 0.
        new_policy: Output folder: the updated policy, with the record of this epoch.
        new_training_state: Output folder.

    Returns:
        The last update's metrics.
    """
    context = RunContext.read(run)
    tails, sampled = load_trajectories(trajectories)
    scored = json.loads((read_folder(scores) / "scores.json").read_text(encoding="utf-8"))
    session = TrainingSession(context, base, policy, training_state)
    record = session.learn(tails, np.asarray(scored["rewards"]), sampled, float(scored["seconds"]), epoch)
    this_rank().wait_for_all()
    if this_rank().is_first:
        session.save(new_policy, new_training_state, "update", {epoch: record})
        track(context, policy=new_policy)
    return update_metrics(record)


class TrainingSession:
    """A policy with its optimizer and counters, read from folders, trained in memory, and written back."""

    def __init__(self, context: RunContext, base: str, policy: str, training_state: str) -> None:
        self._context = context
        self._base = read_folder(base)
        self._origin = folder = read_folder(policy)
        config: Config = context.config
        self.policy: DiffusionPolicy = load_policy(
            config, self._base, folder, prompts=context.prompts_folder, reference=config.update.kl_weight > 0
        )
        self._weights = weights_of(config)
        self._about = json.loads((folder / POLICY_FILE).read_text(encoding="utf-8"))
        optimizer = build_optimizer(self.policy.denoiser, config.update)
        counters = load_training_state(training_state, self.policy.denoiser, optimizer)
        self._num_evaluations, self._rate_scale = counters["num_evaluations"], counters["rate_scale"]
        self._statistics = build_statistics(config, counters.get("prompt_rewards"))
        self._texts = context.prompts.texts if context.prompts else ()
        self._updater = Updater(
            self.policy,
            optimizer,
            config.update.model_copy(update={"learning_rate": config.update.learning_rate * self._rate_scale}),
            num_updates=counters["num_updates"],
            average=self._load_average(folder) if config.update.ema_decay > 0 else None,
            ranks=this_rank(),
        )

    def _load_average(self, folder: Path) -> dict[str, Tensor]:
        """The moving average, where the weights are: every update moves it towards all of them."""
        average = self._weights.load_average(self.policy.denoiser, folder)
        return {name: value.to(self.policy.device) for name, value in average.items()}

    def learn(
        self,
        trajectories: Trajectories,
        rewards: NDArray[np.float64],
        sampled: dict[str, Any],
        score_seconds: float,
        epoch: int,
    ) -> dict[str, Any]:
        """Make an epoch's updates; returns the record of the epoch."""
        config = self._context.config
        began = time.perf_counter()
        num_pairs = int(trajectories.tail_lengths.sum())
        before = weight_sums(self.policy.denoiser)
        updates, norms = self._updater.run(
            trajectories,
            advantages_of(rewards, trajectories, config, statistics=self._statistics, texts=self._texts),
            run_seed=self._context.run_seed,
            epoch=epoch,
            on_advance=advance_reporter("update", epoch, num_pairs * config.update.inner_epochs),
        )
        self._check_learning(before, updates, epoch)
        seconds = time.perf_counter() - began
        once = pool_evaluations(config) if epoch == 0 else 0
        self._num_evaluations += once + sampled["num_evaluations"] + update_evaluations(num_pairs, config)
        record = {
            "epoch": epoch,
            "window": sampled["window"],
            "mean_start_step": sampled["mean_start_step"],
            "num_evaluations": self._num_evaluations,
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "seconds": {"sample": sampled["seconds"], "score": score_seconds, "update": seconds},
            "updates": [asdict(metrics) for metrics in updates],
            "grad_norm_by_step": {str(step): norm for step, norm in norms.items()},
        }
        emit("epoch-trained", epoch=epoch, reward_mean=record["reward_mean"], window=sampled["window"])
        return record

    def _check_learning(self, before: Tensor, updates: Sequence[UpdateMetrics], epoch: int) -> None:
        """Refuse to go on where gradients leave the weights that sample as they were.

        Raises:
            NumericalError: If they do, or if the weights of several ranks have parted.
        """
        after = weight_sums(self.policy.denoiser)
        if not self._updater.ranks.all_have(after):
            raise NumericalError(
                "the processes of this step have come to different weights",
                where=f"epoch={epoch}",
                fix="run them on GPUs of one kind, or set model.num_processes to 1",
            )
        largest = max(metrics.grad_norm for metrics in updates)
        if largest > 0 and torch.equal(before, after):
            raise NumericalError(
                f"gradients of norm {largest:g} did not change a single weight",
                where=f"epoch={epoch}",
                fix="raise update.learning_rate: its steps are lost in the weights' own rounding",
            )

    def save(
        self, policy: str | Path, training_state: str | Path, step_name: str, records: Mapping[int, dict[str, Any]]
    ) -> None:
        """Write the policy folder, with the records of the epochs since it was read, and the training state folder."""
        producer = self._context.producer(step_name, max(records))
        with writing_folder(policy, producer=producer) as folder:
            denoiser, average = self.policy.denoiser, self._updater.average
            save_policy(folder, denoiser, self._base, self._about, average, self._weights)
            copy_updates(self._origin, folder)
            for epoch, record in records.items():
                write_record(update_file(folder, epoch), record)
        with writing_folder(training_state, producer=producer) as folder:
            save_training_state(self._updater, folder, self._num_evaluations, self._rate_scale, self._statistics)
