"""Where episodes start: from noise (DDPO), or from re-noised roots (HRF, and HRF-D with `hrf.trainer.selection`).

DDPO, HRF and HRF-D differ here and in the width of the trust region, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from hrf.core.schedule import renoise
from hrf.core.window import Window
from hrf.distributed.ranks import Ranks
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import OnAdvance, denoise, draw_noise


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
    """The first states of an epoch's B episodes."""

    states: Tensor
    """[B, C, H, W] float32."""
    steps: Tensor
    """[B] int64."""
    groups: Tensor
    """[B] int64: the root that each branch was made from; 0 for all where there are no roots."""
    prompts: Tensor | None = None
    """[B] int64: the root's prompt, or the episode's own; None for an unconditional model."""
    streams: list[Generator]
    """One per episode, for the noise of its steps."""
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


@dataclass(frozen=True, kw_only=True)
class Beginnings:
    """Where P full samples begin."""

    states: Tensor
    """[P, C, H, W]."""
    steps: Tensor
    """[P] int64."""
    prompts: Tensor | None
    """[P] int64; None for an unconditional model."""
    streams: list[Generator]
    """One each, for the noise of its steps."""


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

    def draw(self, policy: DiffusionPolicy, part: range, total: int, *, run_seed: int, epoch: int) -> Beginnings:
        """The P samples `part` out of an epoch's `total`. A state of the pool keeps the prompt that it was made for."""
        streams = [stream(run_seed, Purpose.ROOT, epoch, root) for root in part]
        if self.pool is not None:
            # All are drawn, as each must be another.
            chosen = self.pool.draw(total, run_seed=run_seed, epoch=epoch)[part.start : part.stop]
            return Beginnings(
                states=self.pool.states[chosen].to(policy.device),
                steps=torch.full((len(part),), self.pool.step),
                prompts=None if self.pool.prompts is None else self.pool.prompts[chosen],
                streams=streams,
            )
        return Beginnings(
            states=draw_noise(streams, policy.sample_shape, policy.device),
            steps=torch.zeros(len(part), dtype=torch.int64),
            prompts=draw_prompts(
                self.num_prompts, [stream(run_seed, Purpose.PROMPT, epoch, number) for number in part]
            ),
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
            fresh.states,
            fresh.steps,
            fresh.streams,
            batch_size=self.fresh.batch_size,
            total=total,
            prompts=fresh.prompts,
            stop_step=first_trained,
            on_advance=count,
        )
        return Starts(
            states=states,
            steps=torch.full_like(fresh.steps, first_trained),
            groups=torch.zeros_like(fresh.steps),
            prompts=fresh.prompts,
            streams=fresh.streams,
            window=None,
            num_evaluations=count.total,
        )


@dataclass(frozen=True, kw_only=True)
class Roots:
    """N finished samples of the current policy, which wait for a start step."""

    samples: Tensor
    """[N, C, H, W]."""
    numbers: range
    """Their numbers in the epoch."""
    prompts: Tensor | None = None
    """[N] int64; None for an unconditional model."""

    def __len__(self) -> int:
        return len(self.samples)


ChooseSteps = Callable[[DiffusionPolicy, Roots, Window, int, int, OnAdvance], Tensor]
"""(policy, roots, window, run_seed, epoch, counter) -> start steps [N]."""


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
        samples = denoise(
            policy,
            fresh.states,
            fresh.steps,
            fresh.streams,
            batch_size=self.fresh.batch_size,
            total=self.num_roots,
            prompts=fresh.prompts,
            on_advance=count,
        )
        roots = Roots(samples=samples, numbers=numbers, prompts=fresh.prompts)
        window = self.window_of(epoch)
        root_steps = self.choose_steps(policy, roots, window, run_seed, epoch, count)
        parents = torch.arange(len(roots)).repeat_interleave(self.num_branches)
        branch_streams = [
            stream(run_seed, Purpose.BRANCH, epoch, root, branch)
            for root in numbers
            for branch in range(self.num_branches)
        ]
        noise = draw_noise(branch_streams, policy.sample_shape, policy.device)
        return Starts(
            states=renoise(policy.schedule, samples[parents], root_steps[parents], noise),
            steps=root_steps[parents],
            groups=parents + numbers.start,
            prompts=None if roots.prompts is None else roots.prompts[parents],
            streams=branch_streams,
            window=window,
            num_evaluations=count.total,
        )


def uniform_steps(
    policy: DiffusionPolicy, roots: Roots, window: Window, run_seed: int, epoch: int, count: OnAdvance
) -> Tensor:
    """HRF: each root's start step is uniform in the window. [N] int64."""
    del policy, count
    draws = [
        torch.randint(window.start, window.stop, (1,), generator=stream(run_seed, Purpose.START, epoch, root))
        for root in roots.numbers
    ]
    return torch.cat(draws)


class _Counter:
    """Counts denoiser evaluations and passes them on to the progress display."""

    def __init__(self, on_advance: OnAdvance | None) -> None:
        self.total = 0
        self._on_advance = on_advance

    def __call__(self, count: int) -> None:
        self.total += count
        if self._on_advance:
            self._on_advance(count)
