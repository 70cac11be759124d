"""What goes from sampling to scoring and from both to learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.trainer.record import Sampling
from hrf.trainer.rollout import Trajectories


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What an epoch's episodes have come to, for a reward to look at."""

    samples: Tensor
    """[B, 3, H, W] finished and decoded, nominally in [-1, 1], on the CPU."""
    groups: Tensor
    """[B] int64: the root that each is a branch of."""
    prompts: Sequence[str] | None
    """[B] what each was made from; None for an unconditional model."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What one epoch's sampling made."""

    trajectories: Trajectories
    finished: Finished
    sampling: Sampling

    @classmethod
    def join(cls, shards: Sequence[Episodes]) -> Episodes:
        """The episodes of an epoch's shards in order: those of the whole. Its time is that of the slowest shard."""
        trajectories = Trajectories.join([shard.trajectories for shard in shards])
        finished, sampling = [shard.finished for shard in shards], [shard.sampling for shard in shards]
        return cls(
            trajectories=trajectories,
            finished=Finished(
                samples=torch.cat([part.samples for part in finished]),
                groups=torch.cat([part.groups for part in finished]),
                prompts=None
                if finished[0].prompts is None
                else [prompt for part in finished for prompt in part.prompts or ()],
            ),
            sampling=Sampling(
                window=sampling[0].window,
                mean_start_step=float(trajectories.start_steps.float().mean()),
                num_evaluations=sum(part.num_evaluations for part in sampling),
                seconds=max(part.seconds for part in sampling),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an epoch's episodes are worth."""

    rewards: NDArray[np.float64]
    """[B]."""
    shaping: NDArray[np.float64] | None = None
    """[B] of the second reward; None where training is on the reward alone."""
    distances: NDArray[np.float64] | None = None
    """[B] from each episode to its siblings; None where advantages don't ask for them."""
    seconds: float
