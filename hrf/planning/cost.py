"""What training costs, in denoiser evaluations of one sample: a forward pass counts 1, forward and backward 3.

A guided evaluation is two forward passes, and counts twice. That an adapter's backward pass needs no gradients of the
frozen weights is left out: the unit is the same whatever is tuned.

Exact where the start steps are fixed; an expectation over the window where they are drawn from it.
"""

from __future__ import annotations

import math

from hrf.config import Config
from hrf.core.schedule import NoiseSchedule
from hrf.core.selection import coarse_candidates
from hrf.core.window import Window

BACKWARD = 2
"""A backward pass costs about two forward passes."""


def update_evaluations(num_pairs: int, config: Config) -> int:
    """Cost of an epoch's updates on `num_pairs` (branch, trained step) pairs with a loss."""
    update = config.update
    forward = 2 if update.kl_weight > 0 else 1
    # What others estimate, the policy that sampled and the reference, is computed once, before the first pass.
    once = (update.proximal_weight > 0) + (update.reference_weight > 0)
    return num_pairs * (update.inner_epochs * (forward + BACKWARD) + once) * config.episode_forwards


def pool_evaluations(config: Config) -> int:
    """Cost of the prefix pool, paid once per run."""
    return config.policy.prefix_pool * config.switch_step * config.forwards


def verdict_evaluations(config: Config, evaluated_from: int, *, base: bool = True, incumbent: bool = True) -> int:
    """Cost of a verdict: the candidate on its fresh seeds, from the states at which a split policy takes over.

    Args:
        config: Of the run.
        evaluated_from: The first of an evaluation's steps that the tuned weights take.
        base: Whether the base is measured, too, which gives those states: the bucket does not have it yet.
        incumbent: Whether there is one.
    """
    steps = config.evaluation_steps
    each = (steps if base else 0) + (1 + incumbent) * (steps - evaluated_from)
    return config.verdict_samples * each * config.forwards


def expected_sampling_evaluations(
    config: Config, schedule: NoiseSchedule, epoch: int, *, switch_step: int | None = None
) -> float:
    """Expected cost of an epoch's starts and rollout.

    Args:
        config: Of the run.
        schedule: Its sampler's tables.
        epoch: From 0.
        switch_step: Of the policy, which a diversity floor may have moved; None: as configured.
    """
    steps, rollout = schedule.num_steps, config.rollout
    windows = config.window_schedule(schedule.num_trained_steps, switch_step=switch_step)
    if windows is None:
        first = max(config.first_loss_step, switch_step or 0)
        prefix = (first - pooled_steps(config)) * config.forwards
        episode = (steps - first) * config.episode_forwards
        return float(rollout.roots * rollout.branches * (prefix + episode))
    window = windows.window(epoch)
    selection = _selection_evaluations(config, steps, window) if config.starts.kind == "selected" else 0.0
    tails = rollout.branches * (steps - _mean_start(config, window)) * config.episode_forwards
    return float(rollout.roots * ((root_steps(config, steps, window.start) + selection) * config.forwards + tails))


def pooled_steps(config: Config) -> int:
    """Steps of a fresh sample that a prefix pool has taken already; 0 without one."""
    return config.switch_step if config.policy.prefix_pool else 0


def root_steps(config: Config, num_steps: int, first_start: int) -> int:
    """Steps of a root: all that no pool has taken; up to the start alone where branches share the state there."""
    return (first_start if config.rollout.share_start else num_steps) - pooled_steps(config)


def expected_epoch_evaluations(config: Config, schedule: NoiseSchedule, epoch: int) -> float:
    """Expected cost of an epoch: starts, rollout and updates."""
    pairs = expected_loss_pairs(config, schedule, epoch)
    return expected_sampling_evaluations(config, schedule, epoch) + pairs * update_evaluations(1, config)


def expected_pairs(config: Config, schedule: NoiseSchedule, epoch: int) -> float:
    """Expected (branch, trained step) pairs of an epoch's trajectories."""
    windows = config.window_schedule(schedule.num_trained_steps)
    mean_start = float(config.first_loss_step) if windows is None else _mean_start(config, windows.window(epoch))
    return config.rollout.roots * config.rollout.branches * (schedule.num_trained_steps - mean_start)


def expected_loss_pairs(config: Config, schedule: NoiseSchedule, epoch: int) -> float:
    """How many of them are expected to have a loss: all, or those at the levels that are drawn."""
    windows = config.window_schedule(schedule.num_trained_steps)
    if config.update.objective == "surrogate" or windows is None:
        return expected_pairs(config, schedule, epoch)
    tails = [schedule.num_trained_steps - step for step in _start_steps(config, windows.window(epoch))]
    drawn = sum(min(tail, config.update.levels_per_branch) for tail in tails) / len(tails)
    return config.rollout.roots * config.rollout.branches * drawn


def _mean_start(config: Config, window: Window) -> float:
    """Mean start step: of a uniform draw, and as a guess where the steps are chosen by score."""
    steps = _start_steps(config, window)
    return sum(steps) / len(steps)


def _start_steps(config: Config, window: Window) -> list[int]:
    """The steps that a start can be at, all equally likely as far as is known beforehand."""
    steps = list(window.steps)
    return steps[:: config.starts.selection.stride] if config.starts.kind == "selected" else steps


def _selection_evaluations(config: Config, num_steps: int, window: Window) -> float:
    """Denoiser evaluations per root that choosing its start step takes."""
    selection = config.starts.selection
    candidates = list(window.steps)[:: selection.stride]
    tried = candidates
    extra = 0.0
    if selection.rule == "coarse_to_fine":
        factor = selection.coarse_stride // selection.stride
        tried = coarse_candidates(candidates, factor)
        extra = min(factor - 1, len(candidates) - 2) * _preview_cost(config, num_steps, _mean_start(config, window))
    return selection.branches * (sum(_preview_cost(config, num_steps, step) for step in tried) + extra)


def _preview_cost(config: Config, num_steps: int, step: float) -> float:
    tail = num_steps - step
    return min(config.starts.selection.preview_steps, tail) or tail


def call_size(total: int, batch_size: int) -> int:
    """Samples in every denoiser call for `total` samples: as few calls as `batch_size` allows, none of them half empty.

    That is ceil(total / ceil(total / batch_size)): 10 samples at 8 take two calls of 5, and 2 take calls of 2.
    """
    num_calls = max(1, math.ceil(total / batch_size))
    return max(1, math.ceil(total / num_calls))
