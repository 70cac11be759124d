"""The losses: group advantages, the surrogate and its trust regions; and the difference objective.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347), DDPO (arXiv 2305.13301), HRF (arXiv 2410.08315), Flow-DPPO (arXiv
2606.11025), FDFO (arXiv 2603.12893).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Spread = Literal["population", "sample"]
"""A standard deviation over n numbers: the root of the mean of n squares, or of their sum over n - 1."""
MAX_LOG_RATIO = 20.0
"""Where a ratio stops to grow: at 5e8, far outside any trust region, yet with room for products and sums in float32."""


def standardised(values: Tensor, among: Tensor, *, delta: float, spread: Spread) -> Tensor:
    """(values - mean) / (std + delta), with the mean and the standard deviation of the numbers `among` which they are.

    Exactly 0 where those are all equal: their mean may be off by a rounding, which a small delta would make an
    advantage of, and a single number has no deviation of a sample. [m], [n] -> [m].
    """
    if (among == among[0]).all():
        return torch.zeros_like(values)
    return (values - among.mean()) / (among.std(correction=1 if spread == "sample" else 0) + delta)


def group_advantages(rewards: Tensor, groups: Tensor, *, delta: float, spread: Spread = "population") -> Tensor:
    """Standardise rewards within each group: A = (r - mean_g r) / (std_g r + delta).

    Args:
        rewards: [B] finite.
        groups: [B] int64, which group each belongs to.
        delta: > 0, keeps a nearly constant group from blowing up.
        spread: Which standard deviation.

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
        advantages[members] = standardised(values, values, delta=delta, spread=spread)
    return advantages


def tail_fraction(start_steps: Tensor, num_steps: int) -> Tensor:
    """The part of the trajectory an episode goes through: rho = (K - k) / K; HRF. [B] int64 -> [B] in (0, 1]."""
    return (num_steps - start_steps) / num_steps


def probability_ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio) up to exp(MAX_LOG_RATIO), whose gradient it keeps beyond. [P] -> [P].

    In float32 the exponential of 89 is infinite, and where the trust region takes the gradient away, 0 times infinity
    is not 0 but NaN. Log-probs that are sums over pixels come so far. A bound that also cut the gradient would let go
    of just those pairs that the trust region lets pull back, a bad action that has become far more likely.
    """
    beyond = (log_ratio - MAX_LOG_RATIO).clamp(min=0).detach()
    return (log_ratio - beyond).exp()


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
    ratio = probability_ratio(log_prob - old_log_prob)
    bounded = torch.clamp(advantage, -advantage_clip, advantage_clip)
    clipped_ratio = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return torch.maximum(-bounded * ratio, -bounded * clipped_ratio)


def divergence_surrogate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    divergence: Tensor,
    *,
    limit: Tensor,
    advantage_clip: Tensor,
) -> tuple[Tensor, Tensor]:
    """The surrogate per (branch, step) pair, less those that have gone far enough: -A' ratio, A' = clip(A, -c, c).

    A pair is dropped if and only if its divergence exceeds the limit and its gradient would push it further, that is, a
    good action (A > 0) has become more likely or a bad one less. The divergence is exact where the ratio has the noise
    of one sample. Source: Flow-DPPO (arXiv 2606.11025).

    Args:
        log_prob: [P] of the policy being trained.
        old_log_prob: [P] of the policy that sampled.
        advantage: [P].
        divergence: [P] between the two policies' steps, >= 0, without gradient.
        limit: [P], the largest divergence that a pair is pushed on from.
        advantage_clip: [P] c.

    Returns:
        ([P] loss, to be minimised, 0 where dropped; [P] bool, which are).
    """
    log_ratio = log_prob - old_log_prob
    pushes_on = advantage.sign() * log_ratio.detach() > 0
    dropped = pushes_on & (divergence > limit)
    loss = -torch.clamp(advantage, -advantage_clip, advantage_clip) * probability_ratio(log_ratio)
    return loss.where(~dropped, 0), dropped


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(old || new) per pair: ratio - 1 - log ratio, never negative. [P] -> [P]."""
    log_ratio = log_prob - old_log_prob
    return probability_ratio(log_ratio) - 1 - log_ratio


def outside_trust_region(log_prob: Tensor, old_log_prob: Tensor, clip_range: Tensor) -> Tensor:
    """Which ratios left [1-e, 1+e]: [P] bool. Their mean is the clip fraction."""
    return (probability_ratio(log_prob - old_log_prob) - 1).abs() > clip_range


def sibling_directions(samples: Tensor, groups: Tensor) -> Tensor:
    """Where each sample lies among its siblings: d_b = (x_b - mean_g x) / rms(x_b - mean_g x).

    Args:
        samples: [B, ...] finished samples.
        groups: [B] int64: siblings, which share a start, are of one group. The mean is over all of them, b included.

    Returns:
        [B, ...] of root mean square 1 over the elements of each; 0 for one that is its group's mean.
    """
    directions = torch.empty_like(samples)
    for group in groups.unique():
        members = groups == group
        directions[members] = samples[members] - samples[members].mean(dim=0)
    rms = directions.flatten(1).square().mean(dim=1).sqrt()
    return directions / rms.where(rms > 0, 1).reshape(-1, *[1] * (samples.ndim - 1))


def difference_loss(
    estimate: Tensor,
    direction: Tensor,
    advantage: Tensor,
    *,
    advantage_clip: float,
    anchors: Sequence[tuple[Tensor, float]] = (),
) -> Tensor:
    """The difference objective: -A' mean(x0 d) + sum over anchors of (w/2) mean((x0 - x0')^2), A' = clip(A, -c, c).

    A positive advantage pulls the estimate of the finished sample towards the episode's own result, away from what its
    siblings have come to on average. No log-probabilities. After FDFO (arXiv 2603.12893), written from the formula. An
    anchor holds the estimate near another policy's: near that of the one that sampled, as matching objectives such as
    DiffusionNFT's do to first order (arXiv 2509.16117), or near the base's.

    Args:
        estimate: [P, ...] x0, the estimate by the policy being trained, at states that the episodes visited.
        direction: [P, ...] d, as of `sibling_directions`.
        advantage: [P].
        advantage_clip: c.
        anchors: Of each its estimates [P, ...] x0' at the same states, without gradient, and its weight w.

    Returns:
        [P] loss, to be minimised.
    """
    loss = -advantage.clamp(-advantage_clip, advantage_clip) * (estimate * direction).flatten(1).mean(dim=1)
    for anchor, weight in anchors:
        loss = loss + weight / 2 * (estimate - anchor).square().flatten(1).mean(dim=1)
    return loss
