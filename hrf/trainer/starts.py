"""Where episodes start: from noise (DDPO), from re-noised roots (HRF; HRF-D, see `selection`), or from shared states.

DDPO, HRF and HRF-D differ here and in the width of the trust region, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from hrf.config import Config
from hrf.core.window import Window
from hrf.distributed.ranks import Ranks
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.prompts import PromptTable
from hrf.rewards import Reward
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, OnAdvance, denoise
from hrf.trainer.selection import ChooseSteps, Roots, build_selection, uniform_steps


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several equal parts of an epoch's roots (or episodes, where there are no roots).

    All noise belongs to a root or an episode, by its number in the epoch: what a shard draws does not depend on how
    many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} of {self.count}: expected an index in [0, {self.count})")

    def part(self, total: int) -> range:
        """Which of `total` it is about: neighbours, so that all shards one after another are the whole in order.

        Raises:
            ValueError: There are more shards than things to share out.
        """
        if self.count > total:
            raise ValueError(f"{self.count} shards of {total}")
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)

    def divided(self, ranks: Ranks) -> Shard:
        """The part of it that one of several ranks takes."""
        return Shard(index=self.index * ranks.count + ranks.index, count=self.count * ranks.count)


WHOLE = Shard()


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where an epoch's B episodes start."""

    batch: Batch
    """Their first states; of a branch, with its root's prompt."""
    groups: Tensor
    """[B] int64: the root, or shared start, that each branch was made from; 0 for all on starts from noise."""
    window: Window | None
    """The epoch's window; None for starts from noise."""
    num_evaluations: int
    """Denoiser evaluations (of one sample) that finding them took."""


class StartDistribution(Protocol):
    """Draws the starts of an epoch from the current policy; without gradients."""

    def draw(
        self, policy: DiffusionPolicy, *, run_seed: int, epoch: int, shard: Shard, on_advance: OnAdvance | None
    ) -> Starts:
        """Draw the starts of an epoch, or of a shard of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class PrefixPool:
    """States at the switch step of a split policy, drawn once: the steps before it never change during a run."""

    states: Tensor
    """[P, C, H, W] float32."""
    step: int
    """The switch step that they are at."""
    prompts: Tensor | None = None
    """[P] int64: what they were denoised for; None for an unconditional model."""

    def draw(self, count: int, *, run_seed: int, epoch: int) -> Tensor:
        """Which states [count] int64 an epoch takes, without repetition while the pool lasts."""
        generator = stream(run_seed, Purpose.PREFIX_POOL, epoch)
        rounds = -(-count // len(self.states))
        order = torch.cat([torch.randperm(len(self.states), generator=generator) for _ in range(rounds)])
        return order[:count]


def draw_prompts(num_prompts: int, streams: Sequence[Generator]) -> Tensor | None:
    """A prompt for each stream, uniform in 0 .. num_prompts - 1: [len(streams)] int64; None where there are none."""
    if not num_prompts:
        return None
    return torch.cat([torch.randint(num_prompts, (1,), generator=stream) for stream in streams])


@dataclass(frozen=True, kw_only=True)
class FreshStarts:
    """Where full samples begin: at step 0 from noise, or at the switch step from the prefix pool."""

    batch_size: int
    pool: PrefixPool | None = None
    num_prompts: int = 0
    """How many prompts are trained on; 0 for an unconditional model."""

    def draw(self, policy: DiffusionPolicy, part: range, total: int, *, run_seed: int, epoch: int) -> Batch:
        """The samples `part` out of an epoch's `total`. A state of the pool keeps the prompt that it was made for."""
        streams = [stream(run_seed, Purpose.ROOT, epoch, root) for root in part]
        if self.pool is None:
            of_prompts = [stream(run_seed, Purpose.PROMPT, epoch, number) for number in part]
            return Batch.from_noise(policy, streams, draw_prompts(self.num_prompts, of_prompts))
        # All are drawn, as each must be another.
        chosen = self.pool.draw(total, run_seed=run_seed, epoch=epoch)[part.start : part.stop]
        return Batch(
            states=self.pool.states[chosen].to(policy.device),
            steps=torch.full((len(part),), self.pool.step),
            prompts=None if self.pool.prompts is None else self.pool.prompts[chosen],
            streams=streams,
        )


@dataclass(frozen=True, kw_only=True)
class NoiseStarts:
    """DDPO: episodes start from noise, all of an epoch in one group.

    With a split policy, from the switch step on: nothing before it is trained.
    """

    num_episodes: int
    fresh: FreshStarts
    first_step: int = 0
    """The first step that has a loss; a later one than the switch step leaves steps of the policy's own untrained."""

    def draw(
        self,
        policy: DiffusionPolicy,
        *,
        run_seed: int,
        epoch: int,
        shard: Shard = WHOLE,
        on_advance: OnAdvance | None = None,
    ) -> Starts:
        """Draw the epoch's starts; what comes before the first trained step is denoised here, or comes from a pool."""
        total = self.num_episodes
        fresh = self.fresh.draw(policy, shard.part(total), total, run_seed=run_seed, epoch=epoch)
        count = _Counter(on_advance)
        first_trained = max(policy.switch_step, self.first_step)
        states = denoise(
            policy,
            fresh,
            batch_size=self.fresh.batch_size,
            total=total,
            stop_step=first_trained,
            on_advance=count,
        )
        return Starts(
            batch=replace(fresh, states=states, steps=torch.full_like(fresh.steps, first_trained)),
            groups=torch.zeros_like(fresh.steps),
            window=None,
            num_evaluations=count.total,
        )


@dataclass(frozen=True, kw_only=True)
class RenoisedStarts:
    """HRF and HRF-D: finished samples of the current policy, taken back to a start step each, in B branches."""

    num_roots: int
    num_branches: int
    window_of: Callable[[int], Window]
    """Epoch -> window."""
    choose_steps: ChooseSteps
    fresh: FreshStarts

    def draw(
        self,
        policy: DiffusionPolicy,
        *,
        run_seed: int,
        epoch: int,
        shard: Shard = WHOLE,
        on_advance: OnAdvance | None = None,
    ) -> Starts:
        """Draw roots, choose a start step for each, and re-noise its branches, each from a stream of its own."""
        count = _Counter(on_advance)
        numbers = shard.part(self.num_roots)
        fresh = self.fresh.draw(policy, numbers, self.num_roots, run_seed=run_seed, epoch=epoch)
        samples = denoise(policy, fresh, batch_size=self.fresh.batch_size, total=self.num_roots, on_advance=count)
        roots = Roots(samples=samples, numbers=numbers, prompts=fresh.prompts)
        window = self.window_of(epoch)
        root_steps = self.choose_steps(policy, roots, window, run_seed, epoch, count)
        parents, streams = _branches(numbers, self.num_branches, run_seed, epoch)
        prompts = None if roots.prompts is None else roots.prompts[parents]
        return Starts(
            batch=Batch.from_samples(policy, samples[parents], root_steps[parents], streams, prompts),
            groups=parents + numbers.start,
            window=window,
            num_evaluations=count.total,
        )


@dataclass(frozen=True, kw_only=True)
class SharedStarts:
    """States at the switch step of a split policy, each left by B branches, which only the noise after it tells apart.

    No root is finished and re-noised: what is before the switch step is the reference's, and comes from a pool where
    there is one.
    """

    num_roots: int
    num_branches: int
    window_of: Callable[[int], Window]
    """Epoch -> window of one step, the switch step."""
    fresh: FreshStarts

    def draw(
        self,
        policy: DiffusionPolicy,
        *,
        run_seed: int,
        epoch: int,
        shard: Shard = WHOLE,
        on_advance: OnAdvance | None = None,
    ) -> Starts:
        """Draw prefixes, denoise them to the switch step, and give each branch a stream of its own from there."""
        count = _Counter(on_advance)
        numbers, window = shard.part(self.num_roots), self.window_of(epoch)
        fresh = self.fresh.draw(policy, numbers, self.num_roots, run_seed=run_seed, epoch=epoch)
        states = denoise(
            policy,
            fresh,
            batch_size=self.fresh.batch_size,
            total=self.num_roots,
            stop_step=window.start,
            on_advance=count,
        )
        parents, streams = _branches(numbers, self.num_branches, run_seed, epoch)
        return Starts(
            batch=Batch(
                states=states[parents],
                steps=torch.full_like(parents, window.start),
                prompts=None if fresh.prompts is None else fresh.prompts[parents],
                streams=streams,
            ),
            groups=parents + numbers.start,
            window=window,
            num_evaluations=count.total,
        )


def _branches(numbers: range, num_branches: int, run_seed: int, epoch: int) -> tuple[Tensor, list[Generator]]:
    """Which of some roots each branch is of, [B] int64, and its own stream, by the root's number in the epoch."""
    parents = torch.arange(len(numbers)).repeat_interleave(num_branches)
    streams = [
        stream(run_seed, Purpose.BRANCH, epoch, root, branch) for root in numbers for branch in range(num_branches)
    ]
    return parents, streams


class _Counter:
    """Counts denoiser evaluations and passes them on to the progress display."""

    def __init__(self, on_advance: OnAdvance | None) -> None:
        self.total = 0
        self._on_advance = on_advance

    def __call__(self, count: int) -> None:
        self.total += count
        if self._on_advance:
            self._on_advance(count)


def has_roots(config: Config) -> bool:
    """Whether episodes are branches, which are compared with their siblings (HRF, HRF-D), or not (DDPO)."""
    return config.starts.kind != "noise"


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
    num_roots, num_branches = config.rollout.roots, config.rollout.branches
    if config.rollout.share_start:
        return SharedStarts(num_roots=num_roots, num_branches=num_branches, window_of=windows.window, fresh=fresh)
    return RenoisedStarts(
        num_roots=num_roots,
        num_branches=num_branches,
        window_of=windows.window,
        choose_steps=build_selection(config, reward(), texts) if config.starts.kind == "selected" else uniform_steps,
        fresh=fresh,
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
        Batch.from_noise(policy, streams, chosen),
        batch_size=config.model.batch_size,
        stop_step=policy.switch_step,
        on_advance=on_advance,
    )
    return PrefixPool(states=states.cpu(), step=policy.switch_step, prompts=chosen)
