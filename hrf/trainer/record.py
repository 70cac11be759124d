"""What an epoch of training leaves on record. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Self

from hrf.storage.records import Record


class Sampling(Record):
    """What an epoch's sampling was."""

    window: tuple[int, int] | None
    """[start, stop) of the epoch's start steps; None for starts from noise."""
    mean_start_step: float
    num_evaluations: int
    """Denoiser evaluations for starts and rollout."""
    seconds: float


class UpdateMetrics(Record):
    """What one optimizer step saw. Means are over the minibatch's (branch, step) pairs."""

    update: int
    """Counted over the whole run, from 0."""
    loss: float
    """Sum over steps of the mean over branches."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    clip_fraction: float | None = None
    """Share of ratios outside the clip range; None in a trust region without one, and like all that is of ratios under
    an objective without them."""
    dropped_fraction: float | None = None
    """Share of pairs that teach nothing, as they have gone far enough; None but in the trust region `divergence`."""
    divergence: float | None = None
    """Of the steps from those of the policy that sampled, mean over pixels; None but in that trust region."""
    approx_kl: float | None = None
    """k3 estimate of KL(old || new)."""
    ratio_mean: float | None = None
    ratio_max: float | None = None
    kl_to_reference: float = 0.0
    """0 where there is no KL penalty."""


class EpochRecord(Record):
    """What one epoch of training did: `updates/0003.json` of a policy folder."""

    epoch: int
    """From 0."""
    window: tuple[int, int] | None
    """[start, stop) of the epoch's start steps; None for starts from noise."""
    mean_start_step: float
    num_evaluations: int
    """Denoiser evaluations of the run until the end of this epoch."""
    reward_mean: float
    reward_std: float
    """Over the epoch's branches (population)."""
    shaping_mean: float | None = None
    """Of the second reward that training is on; None without one."""
    seconds: dict[str, float]
    """Of `sample`, `score` and `update`."""
    updates: tuple[UpdateMetrics, ...]
    """One an optimizer step, in order."""
    grad_norm_by_step: dict[int, float]
    """Gradient norm of each trained step in the first update; empty in epochs that do not measure it."""
    replicas: tuple[EpochRecord, ...] = ()
    """Where this is the mean of several replicas' records: those, in order. Counts and seconds are their sums."""

    @property
    def parts(self) -> tuple[EpochRecord, ...]:
        """The records of all chains that were trained."""
        return self.replicas or (self,)

    @classmethod
    def of_replicas(cls, replicas: Sequence[EpochRecord], *, num_shared: int) -> Self:
        """The record of an epoch that several replicas have trained.

        Args:
            replicas: Their records, in order.
            num_shared: Evaluations that each counts as its own, and that were made once for all.
        """
        first, mean = replicas[0], fmean(record.reward_mean for record in replicas)
        squares = fmean(record.reward_std**2 + (record.reward_mean - mean) ** 2 for record in replicas)
        shaping = [record.shaping_mean for record in replicas if record.shaping_mean is not None]
        steps = sorted({step for record in replicas for step in record.grad_norm_by_step})
        return cls(
            epoch=first.epoch,
            window=first.window,
            mean_start_step=fmean(record.mean_start_step for record in replicas),
            num_evaluations=sum(record.num_evaluations for record in replicas) - (len(replicas) - 1) * num_shared,
            reward_mean=mean,
            reward_std=math.sqrt(squares),
            shaping_mean=fmean(shaping) if shaping else None,
            seconds={part: sum(record.seconds[part] for record in replicas) for part in first.seconds},
            updates=tuple(map(_mean_update, zip(*(record.updates for record in replicas), strict=True))),
            grad_norm_by_step={
                step: fmean(r.grad_norm_by_step[step] for r in replicas if step in r.grad_norm_by_step)
                for step in steps
            },
            replicas=tuple(replicas),
        )


class Parent(Record):
    """A replica's policy, as a mean names what it was made from."""

    replica: int
    """Its number, from 0."""
    run_seed: int
    """Of its training noise."""
    weights: str
    """Sha256 over its weights: no records, whose wall times differ where a step is done again."""


class MergeRecord(Record):
    """What a policy is the mean of: `merge` in its `policy.json`."""

    parents: tuple[Parent, ...]
    """By number."""
    adapter_left_out_fraction: float
    """Of adapters, the largest share of a mean of products, in its squared norm, that one adapter can't hold; else 0.
    See `hrf.policies.averaging`."""


def _mean_update(replicas: Sequence[UpdateMetrics]) -> UpdateMetrics:
    """What the replicas' updates of one number saw, on average; of a largest ratio the largest."""
    first = replicas[0]
    means = {
        name: fmean(getattr(metrics, name) for metrics in replicas)
        for name, value in vars(first).items()
        if isinstance(value, float)
    }
    largest = max((metrics.ratio_max for metrics in replicas if metrics.ratio_max is not None), default=None)
    return first.model_copy(update={**means, "ratio_max": largest})
