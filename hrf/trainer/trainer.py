"""One epoch of training on objects: draw starts, roll out, and what that costs. No files, no names of algorithms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.config import Config
from hrf.core.objective import group_advantages
from hrf.core.window import Window
from hrf.distributed.ranks import ALONE, Ranks
from hrf.images import to_images
from hrf.networks.features import pixel_features
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.prompts import PromptTable
from hrf.rewards import Reward
from hrf.seeds import Purpose, stream
from hrf.trainer.prompt_statistics import PromptStatistics
from hrf.trainer.rollout import OnAdvance, Trajectories, denoise, draw_noise, rollout
from hrf.trainer.selection import SelectedSteps
from hrf.trainer.starts import (
    WHOLE,
    FreshStarts,
    NoiseStarts,
    PrefixPool,
    RenoisedStarts,
    Shard,
    StartDistribution,
    draw_prompts,
    uniform_steps,
)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What one epoch's sampling made."""

    window: Window | None
    """The epoch's window; None for starts from noise."""
    trajectories: Trajectories
    samples: Tensor
    """[B, 3, H, W] finished and decoded, nominally in [-1, 1], on the CPU."""
    num_evaluations: int
    """Denoiser evaluations for starts and rollout."""
    seconds: float

    def record(self) -> dict[str, Any]:
        """What an epoch's `update.json` tells of its sampling."""
        window = self.window
        return {
            "window": [window.start, window.stop] if window else None,
            "mean_start_step": float(self.trajectories.start_steps.float().mean()),
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
    ranks: Ranks = ALONE,
    on_advance: OnAdvance | None = None,
) -> Episodes:
    """Draw the starts of an epoch, or of a shard of it, and denoise every branch to the end.

    Ranks share the roots (or episodes) between them, and all get what one process would have made, bit for bit.
    """
    began = time.perf_counter()
    own = shard.divided(ranks)
    starts = distribution.draw(policy, run_seed=run_seed, epoch=epoch, shard=own, on_advance=on_advance)
    acting = acting_policy(policy, config)
    trajectories, samples = rollout(
        acting,
        starts.states,
        starts.steps,
        starts.groups,
        starts.streams,
        batch_size=config.model.batch_size,
        total=config.rollout.roots * config.rollout.branches,
        reduction=config.update.log_prob_reduction,
        prompts=starts.prompts,
        on_advance=on_advance,
    )
    tails = int((policy.schedule.num_steps - starts.steps).sum()) * acting.forwards
    spent = torch.tensor([starts.num_evaluations + tails])
    return Episodes(
        window=starts.window,
        trajectories=_of_all(trajectories, ranks),
        samples=ranks.concatenate(policy.decode(samples).cpu()),
        num_evaluations=int(ranks.concatenate(spent).sum()),
        seconds=time.perf_counter() - began,
    )


def _of_all(trajectories: Trajectories, ranks: Ranks) -> Trajectories:
    """The trajectories of all ranks, one after another."""
    joined: dict[str, Any] = {
        name: ranks.concatenate(value) for name, value in vars(trajectories).items() if isinstance(value, Tensor)
    }
    return replace(trajectories, **joined)


def acting_policy(policy: DiffusionPolicy, config: Config) -> DiffusionPolicy:
    """The policy that episodes are rolled out and trained with: both must ask the denoiser the same question."""
    return policy if config.update.guidance else policy.unguided()


def advantages_of(
    rewards: NDArray[np.float64],
    trajectories: Trajectories,
    config: Config,
    *,
    statistics: PromptStatistics | None = None,
    texts: Sequence[str] = (),
) -> Tensor:
    """Advantages of the branches, [B] float32: within groups, or by `statistics` of each prompt where there are some.

    Args:
        rewards: [B].
        trajectories: Their groups and prompts.
        config: Its `update` part.
        statistics: Of noise starts with prompts; takes the rewards in.
        texts: Of the prompts, by index.
    """
    values = torch.as_tensor(rewards, dtype=torch.float64)
    if statistics is not None and trajectories.prompts is not None:
        return statistics.advantages(values, [texts[prompt] for prompt in trajectories.prompts.tolist()]).float()
    update = config.update
    return group_advantages(
        values, trajectories.groups, delta=update.advantage_delta, spread=update.advantage_spread
    ).float()


def build_statistics(config: Config, kept: Mapping[str, Sequence[float]] | None) -> PromptStatistics | None:
    """Statistics of each prompt, for episodes that are no branches of a root; None for all others.

    Args:
        config: Its `starts` and `prompts` parts.
        kept: As a training state has them.
    """
    prompts = config.prompts
    if prompts is None or config.starts.kind != "noise":
        return None
    return PromptStatistics(
        buffer=prompts.statistics_buffer,
        min_count=prompts.statistics_min_count,
        delta=config.update.advantage_delta,
        spread=config.update.advantage_spread,
        kept=kept,
    )


def build_starts(
    config: Config,
    policy: DiffusionPolicy,
    *,
    reward: Callable[[], Reward],
    pool: PrefixPool | None,
    prompts: PromptTable | None = None,
) -> StartDistribution:
    """The start distribution that a configuration names; the one place where DDPO, HRF and HRF-D part.

    Args:
        config: Its `starts`, `rollout`, `policy` and `reward` parts.
        policy: Whose schedule says which steps are trained; episodes start at its switch step or later.
        reward: Makes the reward; called only where starts are selected by it.
        pool: Prefix states of a split policy, if there is a pool.
        prompts: Of a text-to-image model.
    """
    texts = prompts.training if prompts else ()
    fresh = FreshStarts(batch_size=config.model.batch_size, pool=pool, num_prompts=len(texts))
    windows = config.window_schedule(policy.schedule.num_trained_steps, switch_step=policy.switch_step)
    if windows is None:
        return NoiseStarts(
            num_episodes=config.rollout.roots * config.rollout.branches, fresh=fresh, first_step=config.first_loss_step
        )
    return RenoisedStarts(
        num_roots=config.rollout.roots,
        num_branches=config.rollout.branches,
        window_of=windows.window,
        choose_steps=build_selection(config, reward(), texts) if config.starts.kind == "selected" else uniform_steps,
        fresh=fresh,
    )


def build_selection(config: Config, reward: Reward, texts: Sequence[str] = ()) -> SelectedSteps:
    """HRF-D's choice of start steps, as `starts.selection` describes it."""
    selection = config.starts.selection
    exhaustive = selection.rule == "exhaustive"
    return SelectedSteps(
        score=lambda samples, prompts: torch.as_tensor(reward.of_samples(samples.cpu().numpy(), prompts)),
        embed=lambda samples: pixel_features(to_images(samples.cpu().numpy())),
        num_branches=selection.branches,
        stride=selection.stride,
        beta=selection.beta,
        coarse_stride=1 if exhaustive else selection.coarse_stride // selection.stride,
        preview_steps=selection.preview_steps,
        batch_size=config.model.batch_size,
        num_roots=config.rollout.roots,
        texts=texts,
    )


def draw_prefix_pool(
    policy: DiffusionPolicy,
    config: Config,
    *,
    run_seed: int,
    prompts: PromptTable | None = None,
    on_advance: OnAdvance | None,
) -> PrefixPool:
    """`policy.prefix_pool` states at the switch step from noise, by the reference, each for a prompt of its own."""
    count = config.policy.prefix_pool
    # Epochs draw from the pool with one coordinate, its states are made with two: the streams never meet.
    streams = [stream(run_seed, Purpose.PREFIX_POOL, 0, index) for index in range(count)]
    chosen = draw_prompts(
        len(prompts.training) if prompts else 0,
        [stream(run_seed, Purpose.POOL_PROMPT, index) for index in range(count)],
    )
    states = denoise(
        policy,
        draw_noise(streams, policy.sample_shape, policy.device),
        torch.zeros(count, dtype=torch.int64),
        streams,
        batch_size=config.model.batch_size,
        prompts=chosen,
        stop_step=policy.switch_step,
        on_advance=on_advance,
    )
    return PrefixPool(states=states.cpu(), step=policy.switch_step, prompts=chosen)
