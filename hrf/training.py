"""One epoch of training on objects: draw starts, roll out, and what that costs. No files, no names of algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.config import Config
from hrf.core.objective import group_advantages
from hrf.features import pixel_features
from hrf.images import to_images
from hrf.policies.diffusion import DiffusionPolicy
from hrf.rewards import Reward
from hrf.rollout import OnAdvance, Trajectories, denoise, draw_noise, rollout
from hrf.seeds import Purpose, stream
from hrf.starts import (
    WHOLE,
    FreshStarts,
    NoiseStarts,
    PrefixPool,
    RenoisedStarts,
    SelectedSteps,
    Shard,
    StartDistribution,
    Starts,
    uniform_steps,
)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What one epoch's sampling made."""

    starts: Starts
    trajectories: Trajectories
    samples: Tensor
    """[B, C, H, W] finished, on the CPU."""
    num_evaluations: int
    """Denoiser evaluations for starts and rollout."""
    seconds: float

    def record(self) -> dict[str, Any]:
        """What an epoch's `update.json` tells of its sampling."""
        window = self.starts.window
        return {
            "window": [window.start, window.stop] if window else None,
            "mean_start_step": float(self.starts.steps.float().mean()),
            "num_evaluations": self.num_evaluations,
            "seconds": self.seconds,
        }


def sample_episodes(
    policy: DiffusionPolicy,
    distribution: StartDistribution,
    config: Config,
    *,
    run_seed: int,
    epoch: int,
    shard: Shard = WHOLE,
    on_advance: OnAdvance | None = None,
) -> Episodes:
    """Draw the starts of an epoch, or of a shard of it, and denoise every branch to the end."""
    began = time.perf_counter()
    starts = distribution.draw(policy, run_seed=run_seed, epoch=epoch, shard=shard, on_advance=on_advance)
    trajectories, samples = rollout(
        policy,
        starts.states,
        starts.steps,
        starts.groups,
        starts.streams,
        batch_size=config.model.batch_size,
        reduction=config.update.log_prob_reduction,
        on_advance=on_advance,
    )
    tails = int((policy.schedule.num_steps - starts.steps).sum())
    return Episodes(
        starts=starts,
        trajectories=trajectories,
        samples=samples.cpu(),
        num_evaluations=starts.num_evaluations + tails,
        seconds=time.perf_counter() - began,
    )


def advantages_of(rewards: NDArray[np.float64], trajectories: Trajectories, config: Config) -> Tensor:
    """Group advantages of the branches, [B] float32."""
    values = torch.as_tensor(rewards, dtype=torch.float64)
    return group_advantages(values, trajectories.groups, delta=config.update.advantage_delta).float()


def build_starts(
    config: Config, policy: DiffusionPolicy, *, reward: Callable[[], Reward], pool: PrefixPool | None
) -> StartDistribution:
    """The start distribution that a configuration names; the one place where DDPO, HRF and HRF-D part.

    Args:
        config: Its `starts`, `rollout`, `policy` and `reward` parts.
        policy: Whose schedule says which steps are trained.
        reward: Makes the reward; called only where starts are selected by it.
        pool: Prefix states of a split policy, if there is a pool.
    """
    fresh = FreshStarts(batch_size=config.model.batch_size, pool=pool)
    windows = config.window_schedule(policy.schedule.num_trained_steps)
    if windows is None:
        return NoiseStarts(num_episodes=config.rollout.roots * config.rollout.branches, fresh=fresh)
    return RenoisedStarts(
        num_roots=config.rollout.roots,
        num_branches=config.rollout.branches,
        window_of=windows.window,
        choose_steps=build_selection(config, reward()) if config.starts.kind == "selected" else uniform_steps,
        fresh=fresh,
    )


def build_selection(config: Config, reward: Reward) -> SelectedSteps:
    """HRF-D's choice of start steps, as `starts.selection` describes it."""
    selection = config.starts.selection
    exhaustive = selection.rule == "exhaustive"
    return SelectedSteps(
        score=lambda samples, prompts: torch.as_tensor(reward(to_images(samples.cpu().numpy()), prompts)),
        embed=lambda samples: pixel_features(to_images(samples.cpu().numpy())),
        num_branches=selection.branches,
        stride=selection.stride,
        beta=selection.beta,
        coarse_stride=1 if exhaustive else selection.coarse_stride // selection.stride,
        one_step=selection.preview_steps == 1,
        batch_size=config.model.batch_size,
    )


def draw_prefix_pool(policy: DiffusionPolicy, config: Config, *, run_seed: int, on_advance: OnAdvance | None) -> Tensor:
    """States at the switch step from noise, by the reference: [prefix_pool, C, H, W]."""
    count = config.policy.prefix_pool
    # Epochs draw from the pool with one coordinate, its states are made with two: the streams never meet.
    streams = [stream(run_seed, Purpose.PREFIX_POOL, 0, index) for index in range(count)]
    return denoise(
        policy,
        draw_noise(streams, policy.sample_shape, policy.device),
        torch.zeros(count, dtype=torch.int64),
        streams,
        batch_size=config.model.batch_size,
        stop_step=policy.switch_step,
        on_advance=on_advance,
    ).cpu()


@dataclass(frozen=True, kw_only=True)
class EvaluationStarts:
    """The fixed seeds' states from which a candidate has to be denoised: noise, or a split policy's switch step."""

    states: Tensor
    """[n, C, H, W]."""
    step: int


def evaluation_starts(policy: DiffusionPolicy, config: Config, on_advance: OnAdvance | None) -> EvaluationStarts:
    """Noise of the fixed seeds, taken through the reference's steps where the policy is split.

    Base, incumbent and candidate share them, so that differences are paired per seed.
    """
    evaluation = config.evaluation
    streams = [stream(evaluation.seed, Purpose.EVALUATION, index) for index in range(evaluation.num_samples)]
    sampler = policy.with_schedule(policy.schedule.with_eta(evaluation.eta))
    states = denoise(
        sampler,
        draw_noise(streams, policy.sample_shape, policy.device),
        torch.zeros(len(streams), dtype=torch.int64),
        streams,
        batch_size=config.model.batch_size,
        stop_step=policy.switch_step,
        on_advance=on_advance,
    )
    return EvaluationStarts(states=states.cpu(), step=policy.switch_step)


def evaluation_samples(
    policy: DiffusionPolicy, starts: EvaluationStarts, config: Config, on_advance: OnAdvance | None
) -> NDArray[np.float32]:
    """Finished samples of the fixed seeds, [n, C, H, W] in [-1, 1]; the step noise, too, is each seed's own.

    A base measured for a split policy and one measured for another have the same noise, and so the same pictures.
    """
    evaluation = config.evaluation
    count = len(starts.states)
    sampler = policy.with_schedule(policy.schedule.with_eta(evaluation.eta))
    streams = [stream(evaluation.seed, Purpose.EVALUATION, index) for index in range(count)]
    # The first state and the steps before the start have used up the beginning of each stream.
    for _ in range(1 + sum(step < starts.step for step in sampler.schedule.stochastic_steps)):
        draw_noise(streams, policy.sample_shape, policy.device)
    samples = denoise(
        sampler,
        starts.states.to(policy.device),
        torch.full((count,), starts.step),
        streams,
        batch_size=config.model.batch_size,
        on_advance=on_advance,
    )
    result: NDArray[np.float32] = samples.cpu().numpy()
    return result
