"""The loss: group advantages, the trust region, and the clipped surrogate.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347), DDPO (arXiv 2305.13301), HRF (arXiv 2410.08315).
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, groups: Tensor, *, delta: float) -> Tensor:
    """Standardise rewards within each group: A = (r - mean_g r) / (std_g r + delta), std with 1/n.

    Args:
        rewards: [B] finite.
        groups: [B] int64, which group each belongs to.
        delta: > 0, keeps a nearly constant group from blowing up.

    Returns:
        [B], the mean of each group 0; a constant group gives exact zeros.

    Raises:
        ValueError: If shapes differ, delta is not positive, or a reward is not finite.
    """
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise ValueError(f"rewards and groups must be [B], got {tuple(rewards.shape)} and {tuple(groups.shape)}")
    if delta <= 0 or not torch.isfinite(rewards).all():
        raise ValueError(f"delta must be positive ({delta}) and rewards finite")
    advantages = torch.zeros_like(rewards)
    for group in groups.unique():
        members = groups == group
        values = rewards[members]
        if (values == values[0]).all():
            continue
        advantages[members] = (values - values.mean()) / (values.std(correction=0) + delta)
    return advantages


def tail_fraction(start_steps: Tensor, num_steps: int) -> Tensor:
    """The part of the trajectory an episode goes through: rho = (K - k) / K; HRF. [B] int64 -> [B] in (0, 1]."""
    return (num_steps - start_steps) / num_steps


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip_range: Tensor, advantage_clip: Tensor
) -> Tensor:
    """PPO's pessimistic loss per (branch, step) pair: max(-A' ratio, -A' clip(ratio, 1-e, 1+e)), A' = clip(A, -c, c).

    Args:
        log_prob: [P] of the policy being trained.
        old_log_prob: [P] of the policy that sampled.
        advantage: [P].
        clip_range: [P] e, the trust region of each pair (rho times the configured one).
        advantage_clip: [P] c, likewise.

    Returns:
        [P] loss, to be minimised.
    """
    ratio = (log_prob - old_log_prob).exp()
    bounded = torch.clamp(advantage, -advantage_clip, advantage_clip)
    clipped_ratio = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return torch.maximum(-bounded * ratio, -bounded * clipped_ratio)


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(old || new) per pair: ratio - 1 - log ratio, never negative. [P] -> [P]."""
    log_ratio = log_prob - old_log_prob
    return log_ratio.exp() - 1 - log_ratio


def outside_trust_region(log_prob: Tensor, old_log_prob: Tensor, clip_range: Tensor) -> Tensor:
    """Which ratios left [1-e, 1+e]: [P] bool. Their mean is the clip fraction."""
    return ((log_prob - old_log_prob).exp() - 1).abs() > clip_range
