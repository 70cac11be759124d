"""One epoch as the published code does it, next to ours on the same work.

    python -m benchmarks.published [PRESET] [--roots N] [--repeats N]

The published epoch is written here from what is known of it (docs/method.md, "Deviations"; arXiv 2410.08315), with
diffusers' scheduler for every number: one root after another, alone in its calls; its B branches, alone in theirs;
whole trajectories are kept, steps before the start included; HRF-D tries every candidate with B branches denoised to
the end; an update takes one root's branches step by step, in float32.

The same work: the same roots, start steps, noise, branches and rewards, the same (branch, step) pairs with a loss, and
as many updates of as many branches (ours are shuffled across roots). The step without noise, which the published code
trains with its std clipped, is left out of both. Where HRF-D selects, the published rule is run and timed and its
choice is not used: both go on from ours. The last column is other work, and says so: the split policy with its pool of
prefixes, for as many branches.

Times are processor seconds of one thread: what else the machine does at the time does not count. All columns are
measured in turn, and ratios are paired within a repeat.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from hrf.config import Config, resolve
from hrf.core.selection import best_pair
from hrf.policies.components import scheduler_config
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import Reward, build_reward
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import draw_noise
from hrf.trainer.starts import RenoisedStarts, build_starts, draw_prefix_pool
from hrf.trainer.trainer import Trainer, sample_episodes, score_episodes

PARTS = ("roots", "selection", "branches", "score", "update")
WITHIN = ("denoiser forward", "denoiser backward", "optimizer", "everything else")


class Clock:
    """Processor seconds by part of the epoch, and by what the denoiser and the optimizer take of them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls = 0
        self.samples = 0
        self._began = 0.0
        self._last_gradient = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        began = time.process_time()
        yield
        self.seconds[name] += time.process_time() - began

    @contextmanager
    def watching(self, policy: DiffusionPolicy, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Count the denoiser's calls and times, and the optimizer's."""
        hooks = [optimizer.register_step_pre_hook(self._begin), optimizer.register_step_post_hook(self._end_step)]
        for denoiser in {policy.denoiser, policy.reference} - {None}:
            hooks.append(denoiser.register_forward_pre_hook(self._begin))
            hooks.append(denoiser.register_forward_hook(self._end_forward))
        for parameter in policy.denoiser.parameters():
            hooks.append(parameter.register_post_accumulate_grad_hook(self._gradient))
        with self.part("epoch"):
            yield
        for hook in hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        self._began = time.process_time()

    def _end_step(self, *_: Any) -> None:
        self.seconds["optimizer"] += time.process_time() - self._began

    def _end_forward(self, _module: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.seconds["denoiser forward"] += time.process_time() - self._began
        self.calls += 1
        self.samples += len(inputs[0])
        if output.sample.requires_grad:
            output.sample.register_hook(self._begin_backward)

    def _begin_backward(self, gradient: Tensor) -> None:
        del gradient
        self._last_gradient = time.process_time()

    def _gradient(self, parameter: Tensor) -> None:
        del parameter
        now = time.process_time()
        self.seconds["denoiser backward"] += now - self._last_gradient
        self._last_gradient = now

    def finish(self) -> Clock:
        """Work out what is left over."""
        parts = sum(self.seconds[name] for name in WITHIN[:-1])
        self.seconds["everything else"] = self.seconds["epoch"] - parts
        return self


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Samples denoised together, with all that is kept of them."""

    first: int
    """The step that they started at."""
    states: list[Tensor]
    """K + 1 of [B, C, H, W]; zeros before the start."""
    log_probs: list[Tensor]
    """K of [B]; zeros before the start, and where a step has no noise."""


class PublishedEpoch:
    """The epoch as the published code does it.

    Args:
        policy: Its denoiser is called as it is, in float32; its schedule is not used.
        scheduler: diffusers' own, with its K timesteps set.
        config: For numbers only: eta, clip ranges, selection.
        reward: Of finished samples.
        optimizer: Steps once per root.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        scheduler: DDIMScheduler,
        config: Config,
        reward: Reward,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.policy, self.scheduler, self.config = policy, scheduler, config
        self.reward, self.optimizer = reward, optimizer
        self.num_steps = len(scheduler.timesteps)

    def run(self, clock: Clock, *, starts: list[int], epoch: int) -> list[Trajectory]:
        """Sample one root after another with its branches, then update on one root's branches after another."""
        seed, eta = self.config.run.seed, self.config.sampler.eta
        kept, rewards = [], []
        for root, first in enumerate(starts):
            streams = [stream(seed, Purpose.ROOT, epoch, root)]
            with clock.part("roots"):
                whole = self.denoise(draw_noise(streams, self.policy.sample_shape, self.policy.device), 0, streams, eta)
            sample = whole.states[-1]
            if self.config.starts.kind == "selected":
                with clock.part("selection"):
                    self.select(sample, epoch, root)
            with clock.part("branches"):
                streams = [
                    stream(seed, Purpose.BRANCH, epoch, root, branch) for branch in range(self.config.rollout.branches)
                ]
                tail = self.denoise(self.renoise(sample, first, streams), first, streams, eta)
            with clock.part("score"):
                rewards.append(self.score(tail.states[-1]))
            kept.append(tail)
        with clock.part("update"):
            for tail, values in zip(kept, rewards, strict=True):
                self.update(tail, values)
        return kept

    def renoise(self, sample: Tensor, step: int, streams: list[Generator]) -> Tensor:
        """Copies of a finished sample [1, C, H, W], one per stream, taken back to a step."""
        noise = draw_noise(streams, sample.shape[1:], sample.device)
        copies = sample.repeat(len(streams), 1, 1, 1)
        return self.scheduler.add_noise(copies, noise, self.scheduler.timesteps[[step]].repeat(len(streams)))

    @torch.no_grad()
    def denoise(self, states: Tensor, first: int, streams: list[Generator], eta: float) -> Trajectory:
        """Denoise samples together from one step, and keep everything."""
        kept = [torch.zeros_like(states)] * first + [states]
        log_probs = [torch.zeros(len(states))] * first
        for step in range(first, self.num_steps):
            std = eta * self.std(step)
            noise = draw_noise(streams, states.shape[1:], states.device) if std else torch.zeros_like(states)
            mean = self.mean(states, step, eta)
            states = mean + std * noise
            kept.append(states)
            log_probs.append(log_density(states, mean, std) if std else torch.zeros(len(states)))
        return Trajectory(first=first, states=kept, log_probs=log_probs)

    def mean(self, states: Tensor, step: int, eta: float) -> Tensor:
        """Where a step leads without its noise, by the scheduler."""
        timestep = self.scheduler.timesteps[step]
        output = self.policy.denoiser(states, timestep).sample
        return self.scheduler.step(
            output, timestep, states, eta=eta, variance_noise=torch.zeros_like(states)
        ).prev_sample

    def std(self, step: int) -> float:
        """Of a step's noise at eta 1."""
        timestep = int(self.scheduler.timesteps[step])
        ahead = self.scheduler.config.num_train_timesteps // self.num_steps
        return float(self.scheduler._get_variance(timestep, timestep - ahead)) ** 0.5

    def score(self, samples: Tensor) -> Tensor:
        """Rewards of finished samples, [B]."""
        return torch.as_tensor(self.reward.of_samples(samples.numpy()))

    def select(self, sample: Tensor, epoch: int, root: int) -> int:
        """HRF-D's exhaustive rule: every candidate, all branches, the whole tail without noise."""
        selection, branches = self.config.starts.selection, self.config.rollout.branches
        candidates = range(0, self.num_steps, selection.stride)
        rewards, distances = [], []
        for step in candidates:
            # The stream's last coordinates tell it from those of our rule, which counts candidates and branches.
            streams = [stream(1, Purpose.SELECTION, epoch, root, step, branch) for branch in range(branches)]
            tried = self.denoise(self.renoise(sample, step, streams), step, streams, eta=0.0).states[-1]
            rewards.append(float(self.score(tried).mean()))
            distances.append(float(1 - torch.cosine_similarity(tried.flatten(1), sample.flatten(1)).mean()))
        return candidates[best_pair(rewards, distances, selection.beta)]

    def update(self, tail: Trajectory, rewards: Tensor) -> None:
        """One optimizer step on one root's branches: backward step by step, clip the sum."""
        settings = self.config.update
        rho = (self.num_steps - tail.first) / self.num_steps if settings.scale_trust_region else 1.0
        correction = 1 if settings.advantage_spread == "sample" else 0
        advantages = (rewards - rewards.mean()) / (rewards.std(correction=correction) + settings.advantage_delta)
        advantages = advantages.float().clamp(-settings.advantage_clip * rho, settings.advantage_clip * rho)
        clip = settings.clip_range * rho
        self.optimizer.zero_grad()
        for step in range(tail.first, self.num_steps):
            std = self.config.sampler.eta * self.std(step)
            if not std:
                continue
            log_probs = log_density(
                tail.states[step + 1], self.mean(tail.states[step], step, self.config.sampler.eta), std
            )
            ratio = (log_probs - tail.log_probs[step]).exp()
            worst = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
            worst.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.policy.denoiser.parameters(), settings.max_grad_norm)
        self.optimizer.step()


def log_density(values: Tensor, mean: Tensor, std: float) -> Tensor:
    """Mean over pixels of log N(values; mean, std^2), [B]."""
    return torch.distributions.Normal(mean, std).log_prob(values).mean((1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class _TimedStarts:
    """A start distribution whose two parts are timed."""

    inner: RenoisedStarts
    clock: Clock

    def draw(self, policy: DiffusionPolicy, **options: Any) -> Any:
        """Draw, with the choice of start steps timed by itself."""

        def choose(*arguments: Any) -> Tensor:
            with self.clock.part("selection"):
                return self.inner.choose_steps(*arguments)

        with self.clock.part("roots"):
            starts = replace(self.inner, choose_steps=choose).draw(policy, **options)
        self.clock.seconds["roots"] -= self.clock.seconds["selection"]
        return starts


class OurEpoch:
    """The epoch as this library does it; built once, run again and again on weights that move on.

    Args:
        config: Of the run.
        policy: Its weights are updated.
        reward: Of finished samples.
    """

    def __init__(self, config: Config, policy: DiffusionPolicy, reward: Reward) -> None:
        self.config, self.policy, self.reward = config, policy, reward
        pool = None
        if config.policy.prefix_pool:
            pool = draw_prefix_pool(policy, config, run_seed=config.run.seed, on_advance=None)
        starts = build_starts(config, policy, reward=lambda: reward, pool=pool)
        assert isinstance(starts, RenoisedStarts), "the published code's epochs have roots"
        self.starts = starts
        self.trainer = Trainer(policy, config, run_seed=config.run.seed)

    def run(self, clock: Clock, *, epoch: int) -> list[int]:
        """Sample, score and update; returns the roots' start steps."""
        with clock.part("branches"):
            episodes = sample_episodes(
                self.policy,
                _TimedStarts(inner=self.starts, clock=clock),
                self.config,
                run_seed=self.config.run.seed,
                epoch=epoch,
            )
        clock.seconds["branches"] -= clock.seconds["roots"] + clock.seconds["selection"]
        with clock.part("score"):
            scores = score_episodes(episodes.finished, self.reward, epoch=epoch)
        with clock.part("update"):
            self.trainer.learn(episodes.trajectories, episodes.sampling, scores, epoch=epoch)
        return episodes.trajectories.start_steps[:: self.config.rollout.branches].tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="avatars-published")
    parser.add_argument("--roots", type=int, help="roots of an epoch, and samples in a call of ours; the preset's")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(arguments.preset)
    if arguments.roots:
        config = config.with_changes({"rollout": {"roots": arguments.roots}, "model": {"batch_size": arguments.roots}})
    # The published code trains every step that has noise, on one root's branches at a time.
    config = config.with_changes(
        {"sampler": {"min_std": 0.0}, "update": {"minibatch": config.rollout.branches, "inner_epochs": 1}}
    )
    print_clocks(measure(config, arguments.repeats), config)


def measure(config: Config, repeats: int) -> dict[str, list[Clock]]:
    """Clocks of every repeat, by column."""
    low = {"model": {"forward_dtype": "bfloat16"}}
    split = resolve("avatars-split").with_changes(
        {
            "sampler": {"steps": config.sampler.steps},
            "rollout": {"roots": config.rollout.roots, "branches": config.rollout.branches},
            "model": {"batch_size": config.model.batch_size},
            "policy": {"prefix_pool": 8 * config.rollout.roots},
            "update": {"minibatch": config.rollout.branches},
        }
    )
    reward = build_reward(config.reward)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        fetch_base(config.model, base, {"step": "benchmark"})
        scheduler = DDIMScheduler.from_config(scheduler_config(base), timestep_spacing=config.sampler.spacing)
        scheduler.set_timesteps(config.sampler.steps)
        epochs = {
            name: OurEpoch(changed, load_policy(changed, base, base), reward)
            for name, changed in (
                ("ours", config),
                ("ours, bf16", config.with_changes(low)),
                ("split and pool, bf16 (other work)", split.with_changes(low)),
            )
        }
        policy = load_policy(config, base, base)
    optimizer = torch.optim.AdamW(policy.denoiser.parameters(), lr=config.update.learning_rate)
    theirs = PublishedEpoch(policy, scheduler, config, reward, optimizer)
    clocks: dict[str, list[Clock]] = {"published": [], **{name: [] for name in epochs}}
    for epoch in range(repeats):
        for name, ours in epochs.items():
            starts = timed_epoch(
                clocks[name], ours.policy, ours.trainer.updater.optimizer, partial(ours.run, epoch=epoch)
            )
            if name == "ours":
                published = partial(theirs.run, starts=starts, epoch=epoch)
                timed_epoch(clocks["published"], policy, optimizer, published)
    return clocks


def timed_epoch(
    clocks: list[Clock], policy: DiffusionPolicy, optimizer: torch.optim.Optimizer, run: Callable[[Clock], Any]
) -> Any:
    """Run an epoch under a clock of its own, which is added to the others."""
    clock = Clock()
    with clock.watching(policy, optimizer):
        result = run(clock)
    clocks.append(clock.finish())
    return result


def print_clocks(clocks: dict[str, list[Clock]], config: Config) -> None:
    """A column a kind of epoch: medians over the repeats, and the ratios paired within each."""
    shape = config.rollout
    title = f"One epoch: {shape.roots} roots of {shape.branches} branches, {config.sampler.steps} steps"
    table = Table("processor seconds (median)", *clocks, title=title)
    for name in (*PARTS, "epoch"):
        table.add_row(name, *(f"{median(own, name):.2f}" for own in clocks.values()), end_section=name == "epoch")
    for name in WITHIN:
        table.add_row(f"  {name}", *(f"{median(own, name):.2f}" for own in clocks.values()))
    table.add_section()
    table.add_row(
        "denoiser calls", *(f"{statistics.median(clock.calls for clock in own):.0f}" for own in clocks.values())
    )
    table.add_row("samples in them", *(f"{statistics.median(c.samples for c in own):.0f}" for own in clocks.values()))
    table.add_row("published / this", *(speedup(clocks["published"], own) for own in clocks.values()))
    Console(width=140).print(table)


def median(clocks: list[Clock], name: str) -> float:
    """Of a part's seconds over the repeats."""
    return statistics.median(clock.seconds[name] for clock in clocks)


def speedup(published: list[Clock], own: list[Clock]) -> str:
    """Median ratio of the epochs' seconds, and its range."""
    ratios = [a.seconds["epoch"] / b.seconds["epoch"] for a, b in zip(published, own, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
