"""What an epoch of training leaves on record. Needs no torch."""

from __future__ import annotations

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
    seconds: dict[str, float]
    """Of `sample`, `score` and `update`."""
    updates: tuple[UpdateMetrics, ...]
    """One an optimizer step, in order."""
    grad_norm_by_step: dict[int, float]
    """Gradient norm of each trained step in the first update; empty in epochs that do not measure it."""
