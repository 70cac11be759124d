"""The noise schedule of a K-step sampler, and the Gaussian policy that one denoising step is.

Equations of DDIM (Song et al. 2020, arXiv 2010.02502); the view of a step as a policy is DDPO's (Black et al. 2023,
arXiv 2305.13301). Steps count k = 0 (noisiest) to K-1 (cleanest); `alpha_bars[K]` belongs to the finished sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["leading", "trailing"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """What a sampler of K steps needs to know about noise. Tables are float64 on the CPU."""

    timesteps: Tensor
    """[K] int64: the diffusion timestep that the denoiser sees at each step."""
    alpha_bars: Tensor
    """[K + 1]: cumulative signal fraction at each step; the last is that of the finished sample."""
    next_alpha_bars: Tensor
    """[K]: signal fraction that each step leads to: the next step's, up to diffusers' rounding (`build_schedule`)."""
    stds: Tensor
    """[K]: standard deviation of the noise that each step adds; 0 where the step is deterministic."""
    num_trained_steps: int
    """Steps 0 .. num_trained_steps - 1 have std >= min_std and with it a loss."""

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.timesteps)

    @property
    def stochastic_steps(self) -> list[int]:
        """The steps with std > 0, that is, with a log-probability."""
        return [k for k, std in enumerate(self.stds.tolist()) if std > 0]

    def with_eta(self, eta: float) -> NoiseSchedule:
        """The same sampler with another amount of noise, for evaluation and selection.

        It trains nothing: `num_trained_steps` is 0.
        """
        return NoiseSchedule(
            timesteps=self.timesteps,
            alpha_bars=self.alpha_bars,
            next_alpha_bars=self.next_alpha_bars,
            stds=step_stds(self.alpha_bars[:-1], self.next_alpha_bars, eta),
            num_trained_steps=0,
        )


def build_schedule(
    train_alpha_bars: Tensor,
    *,
    num_steps: int,
    spacing: Spacing = "leading",
    steps_offset: int = 0,
    final_alpha_bar: float = 1.0,
    eta: float = 1.0,
    min_std: float = 0.05,
) -> NoiseSchedule:
    """Choose K of the T training timesteps and compute the sampler's tables.

    A step leads T // K timesteps down, as one of diffusers' DDIMScheduler does, which draws from what was tuned here:
    to the next step's timestep, or, with "trailing" where K does not divide T, at most one above it.

    Args:
        train_alpha_bars: [T] cumulative products of 1 - beta, in (0, 1], falling.
        num_steps: K, 2 <= K <= T.
        spacing: "leading": t_k = (K-1-k) * (T // K) + offset; "trailing": t_k = round(T - k T/K) - 1.
        steps_offset: Added to every timestep; for "leading" only, as in diffusers.
        final_alpha_bar: Signal fraction of a finished sample; 1, or that of timestep 0.
        eta: Scale of the added noise, >= 0; 1 is DDPM's ancestral sampling.
        min_std: A step is trained if its std is at least this (and above 0). Nearly deterministic steps have
            gradients that go as 1/std and would swallow the whole update.

    Raises:
        ValueError: If an argument is out of its range, or the trained steps are not the first ones.
    """
    total = len(train_alpha_bars)
    if not 2 <= num_steps <= total:
        raise ValueError(f"num_steps must be in [2, {total}], got {num_steps}")
    if eta < 0 or min_std < 0:
        raise ValueError(f"eta and min_std must not be negative, got {eta} and {min_std}")
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
    alpha_bars = torch.cat([train_alpha_bars[timesteps], following[-1:]])
    stds = step_stds(alpha_bars[:-1], following, eta)
    trained = ((stds >= min_std) & (stds > 0)).tolist()
    num_trained = sum(trained)
    if trained != [k < num_trained for k in range(num_steps)]:
        raise ValueError(f"steps with std >= {min_std} are not the first ones: {trained}")
    return NoiseSchedule(
        timesteps=timesteps,
        alpha_bars=alpha_bars,
        next_alpha_bars=following,
        stds=stds,
        num_trained_steps=num_trained,
    )


def step_stds(now: Tensor, following: Tensor, eta: float) -> Tensor:
    """Standard deviations of the K steps: sigma_k^2 = eta^2 (1-a_{k+1})/(1-a_k) (1 - a_k/a_{k+1}); DDIM eq. 16.

    Args:
        now: a_k, [K] float64.
        following: a_{k+1}, [K] float64.
        eta: >= 0.

    Returns:
        [K] float64; exactly 0 where a_{k+1} = 1.
    """
    return eta * ((1 - following) / (1 - now) * (1 - now / following)).sqrt()


def _at(table: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    """Entries of a table at per-sample steps [B], shaped to broadcast over samples [B, ...]."""
    values = table[steps.cpu()].to(device=like.device, dtype=like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1))


def renoise(schedule: NoiseSchedule, samples: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
    """Take finished samples back to given steps: x_k = sqrt(a_k) x0 + sqrt(1 - a_k) noise.

    Args:
        schedule: Of K steps.
        samples: [B, C, H, W] finished samples.
        steps: [B] int64 in [0, K).
        noise: [B, C, H, W] standard normal.

    Returns:
        [B, C, H, W] states at `steps`.
    """
    alpha_bar = _at(schedule.alpha_bars, steps, samples)
    return alpha_bar.sqrt() * samples + (1 - alpha_bar).sqrt() * noise


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

    epsilon: x0 = (x - sqrt(1-a) out) / sqrt(a).  sample: x0 = out.  v: x0 = sqrt(a) x - sqrt(1-a) out.
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
    alpha_bar = _at(schedule.alpha_bars[:-1], steps, states)
    signal, noise_scale = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == "epsilon":
        x0, noise = (states - noise_scale * output) / signal, output
    elif prediction == "sample":
        x0, noise = output, (states - signal * output) / noise_scale
    elif prediction == "v_prediction":
        x0, noise = signal * states - noise_scale * output, signal * output + noise_scale * states
    else:
        raise ValueError(f"prediction must be 'epsilon', 'v_prediction' or 'sample', got {prediction!r}")
    if clip_range is not None:
        x0 = x0.clamp(-clip_range, clip_range)
    return x0, noise


def transition(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The policy's Gaussian at each sample: mean sqrt(a_{k+1}) x0 + sqrt(1-a_{k+1}-sigma_k^2) noise (DDIM eq. 12).

    Args:
        schedule: Of K steps.
        x0: [B, C, H, W] estimate of the finished sample.
        noise: [B, C, H, W] estimate of the noise.
        steps: [B] int64.

    Returns:
        (mean [B, C, H, W], std [B, 1, 1, 1]).
    """
    direction_scale = (1 - schedule.next_alpha_bars - schedule.stds**2).clamp(min=0).sqrt()
    mean = _at(schedule.next_alpha_bars.sqrt(), steps, x0) * x0 + _at(direction_scale, steps, x0) * noise
    return mean, _at(schedule.stds, steps, x0)


def skip(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    """Go to any later step at once and without noise: sqrt(a_k) x0 + sqrt(1-a_k) noise (DDIM eq. 12 at sigma 0).

    Args:
        schedule: Of K steps.
        x0: [B, C, H, W] estimate of the finished sample.
        noise: [B, C, H, W] estimate of the noise.
        steps: [B] int64 in (0, K], where to go; K is the finished sample.

    Returns:
        [B, C, H, W] states at `steps`.
    """
    alpha_bar = _at(schedule.alpha_bars, steps, x0)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


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
