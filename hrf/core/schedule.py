"""The noise schedule of a K-step sampler, and the Gaussian policy that one denoising step is.

    x_k = signal_k x0 + noise_k eps     signal, noise = sqrt(a), sqrt(1 - a)   variance-preserving, level a = alpha_bar
                                                      = 1 - s, s               flow, level s = sigma

    x_{k+1} = signal_{k+1} x0 + direction_k eps + std_k z        x0, eps: the denoiser's estimates; z: fresh noise

Samplers differ in their tables of `direction` and `std`, and in nothing else. Equations of DDIM (Song et al. 2020,
arXiv 2010.02502); the view of a step as a policy is DDPO's (Black et al. 2023, arXiv 2305.13301). Steps count k = 0
(noisiest) to K-1 (cleanest); `levels[K]` belongs to the finished sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hrf.core.window import first_step_within

Process = Literal["variance_preserving", "flow"]
Sampler = Literal["ancestral", "cps", "flow_sde", "dance_sde"]
Spacing = Literal["leading", "trailing"]
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """What a sampler of K steps needs to know about noise. Tables are float64 on the CPU."""

    process: Process = "variance_preserving"
    timesteps: Tensor
    """[K]: the timestep that the denoiser sees at each step; int64, of a flow float32."""
    levels: Tensor
    """[K + 1]: alpha_bar, or sigma, at each step; the last is that of the finished sample."""
    next_levels: Tensor
    """[K]: the level that each step leads to: the next step's, up to diffusers' rounding (`build_schedule`)."""
    sampler: Sampler = "ancestral"
    directions: Tensor
    """[K]: how much of the estimated noise each step leaves in."""
    stds: Tensor
    """[K]: standard deviation of the noise that each step adds; 0 where the step is deterministic."""
    num_trained_steps: int
    """Steps 0 .. num_trained_steps - 1 have std >= min_std and with it a loss."""

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.timesteps)

    @property
    def sigmas(self) -> list[float]:
        """[K]: noise / (signal + noise) at each step, in [0, 1], falling.

        One scale for both processes and for any number of steps: it says how much signal there is to the noise, and
        no more. Of a flow it is sigma itself; of the other process, that of the flow's state with as much signal to
        the noise, which is a multiple of this one's.
        """
        levels = self.levels[:-1]
        if self.process == "flow":
            return [float(level) for level in levels]
        signal, noise_variance = scales(self.process, levels)
        noise = noise_variance.sqrt()
        return [float(sigma) for sigma in noise / (signal + noise)]

    def step_of(self, step: int, other: NoiseSchedule) -> int:
        """Where a policy that switches at a step of another schedule switches in this one.

        At the first step with no more noise than that one has: the weights from there on never see more than they were
        trained at. Step 0, which is no switch, stays step 0; with the same levels every step is itself.

        Args:
            step: In [0, K) of the other schedule.
            other: Of the same model.

        Raises:
            ValueError: If every step of this one has more noise.
        """
        if step == 0:
            return 0
        found = first_step_within(other.sigmas[step], self.sigmas)
        if found == self.num_steps:
            raise ValueError(f"no step has sigma {other.sigmas[step]:.4g} or less, the last one {self.sigmas[-1]:.4g}")
        return found

    @property
    def stochastic_steps(self) -> list[int]:
        """The steps with std > 0, that is, with a log-probability."""
        return [k for k, std in enumerate(self.stds.tolist()) if std > 0]

    def with_eta(self, eta: float) -> NoiseSchedule:
        """The same sampler with another amount of noise, for evaluation and selection.

        It trains nothing: `num_trained_steps` is 0.
        """
        directions, stds = step_tables(self.process, self.sampler, self.levels[:-1], self.next_levels, eta)
        return replace(self, directions=directions, stds=stds, num_trained_steps=0)


def build_schedule(
    train_alpha_bars: Tensor,
    *,
    num_steps: int,
    spacing: Spacing = "leading",
    steps_offset: int = 0,
    final_alpha_bar: float = 1.0,
    sampler: Sampler = "ancestral",
    eta: float = 1.0,
    min_std: float = 0.05,
) -> NoiseSchedule:
    """Choose K of the T training timesteps of a variance-preserving process and compute the sampler's tables.

    A step leads T // K timesteps down, as one of diffusers' DDIMScheduler does, which draws from what was tuned here:
    to the next step's timestep, or, with "trailing" where K does not divide T, at most one above it.

    Args:
        train_alpha_bars: [T] cumulative products of 1 - beta, in (0, 1], falling.
        num_steps: K, 2 <= K <= T.
        spacing: "leading": t_k = (K-1-k) * (T // K) + offset; "trailing": t_k = round(T - k T/K) - 1.
        steps_offset: Added to every timestep; for "leading" only, as in diffusers.
        final_alpha_bar: Signal fraction of a finished sample; 1, or that of timestep 0.
        sampler: "ancestral" or "cps".
        eta: As of `step_tables`.
        min_std: A step is trained if its std is at least this (and above 0). Nearly deterministic steps have
            gradients that go as 1/std and would swallow the whole update.

    Raises:
        ValueError: If an argument is out of its range, or the trained steps are not the first ones.
    """
    total = len(train_alpha_bars)
    if not 2 <= num_steps <= total:
        raise ValueError(f"num_steps must be in [2, {total}], got {num_steps}")
    if spacing == "leading":
        timesteps = torch.arange(num_steps).flip(0) * (total // num_steps) + steps_offset
    elif spacing == "trailing":
        timesteps = torch.tensor([round(total - k * total / num_steps) - 1 for k in range(num_steps)])
    else:
        raise ValueError(f"spacing must be 'leading' or 'trailing', got {spacing!r}")
    if timesteps.max() >= total or timesteps.min() < 0:
        raise ValueError(f"timesteps {timesteps.tolist()} leave [0, {total}): check steps_offset={steps_offset}")
    train_alpha_bars = train_alpha_bars.to(torch.float64)
    targets = timesteps - total // num_steps
    final = torch.tensor(final_alpha_bar, dtype=torch.float64)
    following = torch.where(targets >= 0, train_alpha_bars[targets.clamp(min=0)], final)
    levels = torch.cat([train_alpha_bars[timesteps], following[-1:]])
    return _tabulated("variance_preserving", sampler, timesteps, levels, following, eta=eta, min_std=min_std)


def build_flow_schedule(
    sigmas: Tensor, timesteps: Tensor, *, sampler: Sampler = "cps", eta: float = 1.0, min_std: float = 0.05
) -> NoiseSchedule:
    """Compute the sampler's tables of a flow, x_k = (1 - s_k) x0 + s_k eps.

    Args:
        sigmas: [K + 1] in [0, 1], falling, the last 0: those of the model's own scheduler. (A formula would miss what
            diffusers makes of the last one, whose shift it applies twice.)
        timesteps: [K] what the denoiser sees at each step.
        sampler: Any.
        eta: As of `step_tables`.
        min_std: As of `build_schedule`.

    Raises:
        ValueError: If an argument is out of its range, or the trained steps are not the first ones.
    """
    levels = sigmas.to(torch.float64)
    falling = bool((levels.diff() < 0).all())
    if len(levels) != len(timesteps) + 1 or not falling or not (float(levels[0]) <= 1 and float(levels[-1]) == 0):
        raise ValueError(f"sigmas must fall from at most 1 to 0, one more than timesteps, got {sigmas.tolist()}")
    return _tabulated("flow", sampler, timesteps, levels, levels[1:], eta=eta, min_std=min_std)


def _tabulated(
    process: Process,
    sampler: Sampler,
    timesteps: Tensor,
    levels: Tensor,
    following: Tensor,
    *,
    eta: float,
    min_std: float,
) -> NoiseSchedule:
    if eta < 0 or min_std < 0:
        raise ValueError(f"eta and min_std must not be negative, got {eta} and {min_std}")
    directions, stds = step_tables(process, sampler, levels[:-1], following, eta)
    trained = ((stds >= min_std) & (stds > 0)).tolist()
    if process == "flow":
        # At its end an SDE's step has noise that nothing takes away again: published code trains all but this one, too.
        trained[-1] = False
    num_trained = sum(trained)
    if trained != [k < num_trained for k in range(len(timesteps))]:
        raise ValueError(f"steps with std >= {min_std} are not the first ones: {trained}")
    return NoiseSchedule(
        process=process,
        timesteps=timesteps,
        levels=levels,
        next_levels=following,
        sampler=sampler,
        directions=directions,
        stds=stds,
        num_trained_steps=num_trained,
    )


def scales(process: Process, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Signal, and variance of the noise, at levels of any shape: sqrt(a), 1 - a; or 1 - s, s^2."""
    return (levels.sqrt(), 1 - levels) if process == "variance_preserving" else (1 - levels, levels**2)


def step_tables(
    process: Process, sampler: Sampler, now: Tensor, following: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    """A sampler's directions and standard deviations, [K] float64 each.

        ancestral   std^2 = eta^2 n'^2 (1 - (m n' / m' n)^2)      m, n: signal and noise; ' is the next step's
        cps         std = n' sin(eta pi/2)
                    both: direction = sqrt(n'^2 - std^2), so that what is left of the noise has variance n'^2 exactly
        flow_sde    std = q sqrt(s - s'),     q^2 = eta^2 s / (1 - s); below the line, s' in place of s = 1
        dance_sde   std = eta sqrt(s - s')
                    both: direction = s' - std^2 / 2s, an SDE's Euler-Maruyama step, which leaves more noise than s'

    `ancestral` is DDIM's eq. 16 for a variance-preserving process, and DDPM's sampling at eta 1. `cps` is that of
    coefficients-preserving sampling (arXiv 2509.05952); `flow_sde` Flow-GRPO's (arXiv 2505.05470, noise level .7) and
    `dance_sde` DanceGRPO's (arXiv 2505.07818), as published code has them. At eta 0 all four are the ODE's Euler step.

    Args:
        process: The last two are for a flow only.
        sampler: Which.
        now: Levels before the step, [K] float64.
        following: Levels after it, [K] float64.
        eta: Amount of noise, at least 0; at most 1 where the variance is kept.

    Raises:
        ValueError: If the sampler is not one of the process.
    """
    signal, noise_variance = scales(process, now)
    next_signal, next_variance = scales(process, following)
    if sampler in ("flow_sde", "dance_sde"):
        if process != "flow":
            raise ValueError(f"{sampler} is a sampler of flows only")
        rate = torch.full_like(now, eta**2)
        if sampler == "flow_sde":
            rate = rate * now / (1 - torch.where(now == 1, following, now))
        variances = rate * (now - following)
        return following - variances / (2 * now), variances.sqrt()
    if sampler == "cps":
        stds = next_variance.sqrt() * math.sin(eta * math.pi / 2)
    else:
        kept = (signal / next_signal) ** 2 * next_variance / noise_variance
        stds = eta * (next_variance * (1 - kept)).sqrt()
    return (next_variance - stds**2).clamp(min=0).sqrt(), stds


def _at(table: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    """Entries of a table at per-sample steps [B], shaped to broadcast over samples [B, ...]."""
    values = table[steps.cpu()].to(device=like.device, dtype=like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1))


def renoise(schedule: NoiseSchedule, samples: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
    """Take finished samples back to given steps: x_k = signal_k x0 + noise_k noise.

    Args:
        schedule: Of K steps.
        samples: [B, C, H, W] finished samples.
        steps: [B] int64 in [0, K]; K is the finished sample.
        noise: [B, C, H, W] standard normal.

    Returns:
        [B, C, H, W] states at `steps`.
    """
    signal, noise_variance = scales(schedule.process, _at(schedule.levels, steps, samples))
    return signal * samples + noise_variance.sqrt() * noise


def denoised(
    schedule: NoiseSchedule,
    states: Tensor,
    steps: Tensor,
    output: Tensor,
    *,
    prediction: Prediction,
    clip_range: float | None,
) -> tuple[Tensor, Tensor]:
    """Turn a denoiser's output into its estimate of the finished sample and of the noise.

    epsilon: x0 = (x - noise out) / signal.  sample: x0 = out.  v: x0 = signal x - noise out.  flow: x0 = x - noise out.
    The noise estimate is the one before x0 is clamped (DDIM eq. 12; diffusers' default).

    Args:
        schedule: Of K steps.
        states: [B, C, H, W] at `steps`.
        steps: [B] int64.
        output: [B, C, H, W] what the denoiser said.
        prediction: What the denoiser was trained to predict.
        clip_range: x0 is clamped to [-clip_range, clip_range]; None for latents.

    Returns:
        (x0, noise), each [B, C, H, W].
    """
    signal, noise_variance = scales(schedule.process, _at(schedule.levels[:-1], steps, states))
    noise_scale = noise_variance.sqrt()
    if prediction == "epsilon":
        x0, noise = (states - noise_scale * output) / signal, output
    elif prediction == "sample":
        x0, noise = output, (states - signal * output) / noise_scale
    elif prediction == "v_prediction":
        x0, noise = signal * states - noise_scale * output, signal * output + noise_scale * states
    elif prediction == "flow":
        x0, noise = states - noise_scale * output, states + signal * output
    else:
        raise ValueError(f"prediction must be 'epsilon', 'v_prediction', 'sample' or 'flow', got {prediction!r}")
    if clip_range is not None:
        x0 = x0.clamp(-clip_range, clip_range)
    return x0, noise


def transition(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The policy's Gaussian at each sample: mean signal_{k+1} x0 + direction_k noise (DDIM eq. 12), std_k.

    Args:
        schedule: Of K steps.
        x0: [B, C, H, W] estimate of the finished sample.
        noise: [B, C, H, W] estimate of the noise.
        steps: [B] int64.

    Returns:
        (mean [B, C, H, W], std [B, 1, 1, 1]).
    """
    next_signals, _ = scales(schedule.process, schedule.next_levels)
    mean = _at(next_signals, steps, x0) * x0 + _at(schedule.directions, steps, x0) * noise
    return mean, _at(schedule.stds, steps, x0)


def skip(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """Go to any later step at once and without noise: signal_k x0 + noise_k noise (DDIM eq. 12 at sigma 0).

    Args:
        schedule: Of K steps.
        x0: [B, C, H, W] estimate of the finished sample.
        noise: [B, C, H, W] estimate of the noise.
        steps: [B] int64 in (0, K], where to go; K is the finished sample.

    Returns:
        [B, C, H, W] states at `steps`.
    """
    return renoise(schedule, x0, steps, noise)


def gaussian_log_prob(values: Tensor, mean: Tensor, std: Tensor, reduction: Reduction) -> Tensor:
    """Log of N(values; mean, std^2 I) per sample: sum or mean over pixels of -(x-m)^2/2s^2 - log s - log(2 pi)/2.

    The mean is not a density; it is what this literature clips (its clip ranges make sense for nothing else).

    Args:
        values: [B, C, H, W].
        mean: [B, C, H, W].
        std: [B, 1, 1, 1], above 0.
        reduction: "mean" or "sum" over pixels.

    Returns:
        [B].
    """
    log_density = -((values - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return reduce_pixels(log_density, reduction)


def gaussian_kl(mean: Tensor, other_mean: Tensor, std: Tensor, reduction: Reduction) -> Tensor:
    """KL of two Gaussians of the same std, per sample: sum or mean over pixels of (m - m')^2 / 2 s^2; [B]."""
    return reduce_pixels((mean - other_mean) ** 2 / (2 * std**2), reduction)


def reduce_pixels(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum of [B, ...] over all but the first dimension."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    flat = values.flatten(1)
    # torch shares a lone row out among its threads, and so adds it up in another order than the same row among others.
    rows = flat.expand(2, -1) if len(flat) == 1 else flat
    return (rows.mean(1) if reduction == "mean" else rows.sum(1))[: len(flat)]
