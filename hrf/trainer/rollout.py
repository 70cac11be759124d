"""The one denoising loop, and the record of what the update needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hrf.core.schedule import Reduction, gaussian_log_prob, renoise
from hrf.planning.cost import call_size
from hrf.policies.diffusion import DiffusionPolicy

OnTransition = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""Called with (index [A], steps [A], states, next_states, mean, std) of each batch of transitions."""
OnAdvance = Callable[[int], None]
"""Called with what one denoiser call cost: the samples that it has advanced, twice with guidance."""


def draw_noise(streams: Sequence[Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """One standard normal draw from each sample's own stream: [len(streams), *shape] float32."""
    return torch.stack([torch.randn(*shape, generator=stream) for stream in streams]).to(device)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """M samples on their way through the sampler, each at a step of its own.

    Raises:
        ValueError: If there are not as many of each.
    """

    states: Tensor
    """[M, C, H, W] float32."""
    steps: Tensor
    """[M] int64 in [0, K]: the step that each state is at."""
    prompts: Tensor | None = None
    """[M] int64: the prompt that each is denoised for; None for an unconditional model."""
    streams: Sequence[Generator]
    """One per sample, for the noise of its steps."""

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.states, self.steps, self.streams, self.prompts) if part is not None]
        if len({*lengths}) != 1:
            raise ValueError(f"states, steps, streams and prompts of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.states)

    @classmethod
    def from_noise(cls, policy: DiffusionPolicy, streams: Sequence[Generator], prompts: Tensor | None = None) -> Batch:
        """Samples at step 0: noise, each from its own stream."""
        states = draw_noise(streams, policy.sample_shape, policy.device)
        return cls(states=states, steps=torch.zeros(len(streams), dtype=torch.int64), prompts=prompts, streams=streams)

    @classmethod
    def from_samples(
        cls,
        policy: DiffusionPolicy,
        samples: Tensor,
        steps: Tensor,
        streams: Sequence[Generator],
        prompts: Tensor | None = None,
    ) -> Batch:
        """Finished samples [M, C, H, W], each taken back to its step [M] with noise from its own stream."""
        noise = draw_noise(streams, policy.sample_shape, policy.device)
        states = renoise(policy.schedule, samples, steps, noise)
        return cls(states=states, steps=steps, prompts=prompts, streams=streams)


@torch.no_grad()
def denoise(
    policy: DiffusionPolicy,
    batch: Batch,
    *,
    batch_size: int,
    total: int | None = None,
    stop_step: int | None = None,
    on_transition: OnTransition | None = None,
    on_advance: OnAdvance | None = None,
) -> Tensor:
    """Denoise samples from their own start steps, in full batches also where the start steps differ.

    Each sample takes exactly stop_step - start denoiser evaluations. A batch holds samples at different steps: as
    soon as one is finished, the next takes its place. Noise comes from each sample's own stream, and a denoiser that is
    always given as many samples rounds each of them in the same way wherever it stands: a sample's bits do not depend
    on which others are denoised with it.

    Args:
        policy: Whose schedule and weights to use.
        batch: M samples at their start steps; its states stay as they are, its streams move on.
        batch_size: The most samples in a denoiser call, at least 1; every one has `call_size` of them.
        total: How many samples there are in all shards of this work: the size of calls must not depend on the shard. M
            unless given.
        stop_step: Where to stop; K (finished samples) unless given.
        on_transition: Sees every transition.
        on_advance: Sees every denoiser call, for progress.

    Returns:
        [M, C, H, W] states at `stop_step`.

    Raises:
        ValueError: If batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"expected at least one sample in a call, got batch_size={batch_size}")
    stop = policy.schedule.num_steps if stop_step is None else stop_step
    size = call_size(len(batch) if total is None else total, batch_size)
    states, steps = batch.states.clone(), batch.steps.clone()
    # The longest tails start first: the short ones then fill the batches to the end.
    waiting = deque(i for i in steps.argsort(stable=True).tolist() if steps[i] < stop)
    active: list[int] = []
    while waiting or active:
        while waiting and len(active) < size:
            active.append(waiting.popleft())
        index = torch.tensor(active)
        now, step = states[index], steps[index]
        prompts = None if batch.prompts is None else batch.prompts[index]
        mean, std = policy.transition(now, step, prompts=prompts, call_size=size)
        following = mean + std * _step_noise(policy, step, [batch.streams[i] for i in active], mean)
        if on_transition:
            on_transition(index, step, now, following, mean, std)
        states[index] = following
        steps[index] += 1
        if on_advance:
            on_advance(len(active) * policy.forwards)
        active = [i for i in active if steps[i] < stop]
    return states


def _step_noise(policy: DiffusionPolicy, steps: Tensor, streams: Sequence[Generator], like: Tensor) -> Tensor:
    """Noise for the stochastic transitions; a deterministic one takes nothing from its stream."""
    noise = torch.zeros_like(like)
    noisy = (policy.schedule.stds[steps] > 0).nonzero().flatten().tolist()
    if noisy:
        noise[noisy] = draw_noise([streams[i] for i in noisy], like.shape[1:], like.device)
    return noise


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """The trained tails of B branches, back to back: branch b has S_b trained steps and S_b + 1 states."""

    states: Tensor
    """[sum (S_b + 1), C, H, W] float32, from the start to the state after the last trained step."""
    log_probs: Tensor
    """[sum S_b] log-probabilities under the policy that sampled."""
    means: Tensor | None = None
    """[sum S_b, C, H, W] float32, its steps' means; None where the trust region does not ask for them."""
    start_steps: Tensor
    """[B] int64."""
    groups: Tensor
    """[B] int64: which group (root) each branch belongs to."""
    prompts: Tensor | None = None
    """[B] int64: each branch's prompt; None for an unconditional model."""
    finished: Tensor | None = None
    """[B, C, H, W] float32, the finished samples before decoding; None where the objective does not ask for them."""
    num_trained_steps: int
    """The trained steps of a branch are start_step .. num_trained_steps - 1."""

    @property
    def tail_lengths(self) -> Tensor:
        """[B] int64: S_b."""
        return self.num_trained_steps - self.start_steps

    @classmethod
    def join(cls, parts: Sequence[Trajectories]) -> Trajectories:
        """The trajectories of several shards of an epoch, one after another: those of the whole epoch."""
        lengths = {part.num_trained_steps for part in parts}
        if len(lengths) != 1:
            raise ValueError(f"trajectories of different samplers: trained steps {sorted(lengths)}")
        tensors = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("states", "log_probs", "means", "start_steps", "groups", "prompts", "finished")
            if getattr(parts[0], name) is not None
        }
        return cls(**tensors, num_trained_steps=lengths.pop())

    def pairs(self, branches: Tensor) -> Pairs:
        """All (branch, trained step) pairs of the given branches [b], branch by branch."""
        lengths = self.tail_lengths
        state_offsets = (lengths + 1).cumsum(0) - (lengths + 1)
        pair_offsets = lengths.cumsum(0) - lengths
        local = [torch.arange(int(lengths[b])) for b in branches]
        return Pairs(
            branch=torch.cat([torch.full_like(step, int(b)) for step, b in zip(local, branches, strict=True)]),
            step=torch.cat([self.start_steps[b] + step for step, b in zip(local, branches, strict=True)]),
            state_index=torch.cat([state_offsets[b] + step for step, b in zip(local, branches, strict=True)]),
            pair_index=torch.cat([pair_offsets[b] + step for step, b in zip(local, branches, strict=True)]),
        )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P (branch, step) pairs: each is one transition with a loss."""

    branch: Tensor
    """[P] int64."""
    step: Tensor
    """[P] int64."""
    state_index: Tensor
    """[P] int64 into Trajectories.states; the next state is at the following index."""
    pair_index: Tensor
    """[P] int64 into Trajectories.log_probs and means."""

    def __len__(self) -> int:
        return len(self.branch)

    def select(self, index: Tensor) -> Pairs:
        """The pairs at `index`."""
        return Pairs(**{name: values[index] for name, values in self.__dict__.items()})


class _TailRecorder:
    """Writes the trained tails into their places as the loop comes across them, in whatever order."""

    def __init__(
        self, policy: DiffusionPolicy, starts: Batch, groups: Tensor, reduction: Reduction, keep_means: bool
    ) -> None:
        num_trained, steps = policy.schedule.num_trained_steps, starts.steps
        if (steps >= num_trained).any():
            raise ValueError(f"start steps must be trained ones, below {num_trained}: got {int(steps.max())}")
        lengths = num_trained - steps
        self._state_offsets = (lengths + 1).cumsum(0) - (lengths + 1)
        self._pair_offsets = lengths.cumsum(0) - lengths
        self._reduction: Reduction = reduction
        self.trajectories = Trajectories(
            states=torch.empty(int((lengths + 1).sum()), *policy.sample_shape),
            log_probs=torch.empty(int(lengths.sum())),
            means=torch.empty(int(lengths.sum()), *policy.sample_shape) if keep_means else None,
            start_steps=steps.clone(),
            groups=groups.clone(),
            prompts=None if starts.prompts is None else starts.prompts.clone(),
            num_trained_steps=num_trained,
        )

    def __call__(
        self, index: Tensor, steps: Tensor, states: Tensor, next_states: Tensor, mean: Tensor, std: Tensor
    ) -> None:
        record = self.trajectories
        trained = steps < record.num_trained_steps
        if not trained.any():
            return
        index, steps = index[trained], steps[trained]
        recorded = trained.to(states.device)
        local = steps - record.start_steps[index]
        log_prob = gaussian_log_prob(next_states[recorded], mean[recorded], std[recorded], self._reduction)
        pair = self._pair_offsets[index] + local
        record.log_probs[pair] = log_prob.cpu()
        if record.means is not None:
            record.means[pair] = mean[recorded].cpu()
        place = self._state_offsets[index] + local
        record.states[place] = states[recorded].cpu()
        record.states[place + 1] = next_states[recorded].cpu()


def rollout(
    policy: DiffusionPolicy,
    starts: Batch,
    groups: Tensor,
    *,
    batch_size: int,
    total: int | None = None,
    reduction: Reduction,
    keep_means: bool = False,
    on_advance: OnAdvance | None = None,
) -> tuple[Trajectories, Tensor]:
    """Denoise branches to the end and record their trained tails.

    Args:
        policy: The current policy.
        starts: B branches at their start steps, all of them trained.
        groups: [B] int64.
        batch_size: The most samples in a denoiser call.
        total: How many branches there are in all shards of the epoch; B unless given.
        reduction: Of the log-probability over pixels.
        keep_means: Record the means of the steps, too.
        on_advance: Progress.

    Returns:
        (trajectories, finished samples [B, C, H, W]).

    Raises:
        ValueError: If a start step isn't a trained one.
    """
    recorder = _TailRecorder(policy, starts, groups, reduction, keep_means)
    samples = denoise(policy, starts, batch_size=batch_size, total=total, on_transition=recorder, on_advance=on_advance)
    return recorder.trajectories, samples
