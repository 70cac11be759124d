"""Every step of our sampler against DDIMScheduler.step and the equations written out, over a grid of settings."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from hrf.config import Config
from hrf.core.schedule import NoiseSchedule, build_schedule, denoised, transition
from hrf.errors import ConfigError
from hrf.policies.folders import noise_schedule
from hrf.policies.schedulers import clip_range_of, prediction_of

T = 1000
BETAS = {
    "linear": {"beta_schedule": "linear"},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "list": {"trained_betas": np.linspace(2e-4, 0.03, T).tolist()},
    "zero terminal": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
CLIPS = (None, 1.0, 2.5)
SAMPLERS = [
    *(("leading", steps, offset) for steps in (5, 13) for offset in (0, 1)),
    ("leading", 13, 80),  # more than T // K: the last step does not end at the finished sample
    *(("trailing", steps, offset) for steps in (5, 13, 50) for offset in (0, 1)),
]


def scheduler_for(betas: str, prediction: str, offset: int, clip: float | None) -> dict:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": T,
        "prediction_type": prediction,
        "steps_offset": offset,
        "set_alpha_to_one": offset == 0,
        "clip_sample": clip is not None,
        "clip_sample_range": clip or 1.0,
        **BETAS[betas],
    }


def sampler(spacing: str, steps: int) -> Config:
    return Config.from_mapping(
        {"model": {"source": "x"}, "sampler": {"steps": steps, "spacing": spacing, "min_std": 0.0}}
    )


def our_step(schedule: NoiseSchedule, scheduler: dict, step: int, state, output, noise) -> torch.Tensor:
    clip = clip_range_of(scheduler, by_default=True)
    steps = torch.tensor([step])
    x0, eps = denoised(schedule, state, steps, output, prediction=prediction_of(scheduler), clip_range=clip)
    mean, std = transition(schedule, x0, eps, steps)
    return mean + std * noise


def by_the_equations(scheduler: dict, bars: np.ndarray, spacing: str, num_steps: int, step: int, state, output, noise):
    """DDIM's equations 12 and 16 at eta 1 in float64, at the timesteps that diffusers' documentation names."""
    ratio = T // num_steps
    if spacing == "leading":
        timestep = (num_steps - 1 - step) * ratio + scheduler["steps_offset"]
    else:
        timestep = round(T - step * T / num_steps) - 1
    final = 1.0 if scheduler["set_alpha_to_one"] else bars[0]
    now, following = bars[timestep], bars[timestep - ratio] if timestep >= ratio else final
    state, output, noise = (tensor.numpy() for tensor in (state, output, noise))
    if scheduler["prediction_type"] == "epsilon":
        x0, eps = (state - (1 - now) ** 0.5 * output) / now**0.5, output
    elif scheduler["prediction_type"] == "sample":
        x0, eps = output, (state - now**0.5 * output) / (1 - now) ** 0.5
    else:
        x0, eps = now**0.5 * state - (1 - now) ** 0.5 * output, now**0.5 * output + (1 - now) ** 0.5 * state
    size = max(1.0, float(np.abs(x0).max()))
    if scheduler["clip_sample"]:
        x0 = x0.clip(-scheduler["clip_sample_range"], scheduler["clip_sample_range"])
    variance = (1 - following) / (1 - now) * (1 - now / following)
    return following**0.5 * x0 + max(0.0, 1 - following - variance) ** 0.5 * eps + variance**0.5 * noise, size


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
def test_each_step_is_that_of_diffusers_and_that_of_the_equations(betas: str, prediction: str) -> None:
    """To 1e-6 of the size of what is computed: at the noisiest step an unclamped estimate is up to 2e4 times the state.

    Kills: the next step's alpha_bar in place of the one T // K timesteps below; the offset with trailing spacing; the
    last step to 1 whatever set_alpha_to_one says; a clamp at 1 whatever the range; the clamp before the noise estimate.
    """
    for clip, (spacing, num_steps, offset) in itertools.product(CLIPS, SAMPLERS):
        scheduler = scheduler_for(betas, prediction, offset, clip)
        if betas == "zero terminal" and prediction == "epsilon" and spacing == "trailing":
            with pytest.raises(ConfigError, match=r"rescale_betas_zero_snr: True, prediction_type: epsilon"):
                noise_schedule(scheduler, sampler(spacing, num_steps))
            continue
        schedule = noise_schedule(scheduler, sampler(spacing, num_steps))
        reference = DDIMScheduler.from_config(scheduler, timestep_spacing=spacing)
        # Its equations in float64, on the float32 tables that it has.
        reference.alphas_cumprod = reference.alphas_cumprod.double()
        reference.final_alpha_cumprod = reference.final_alpha_cumprod.double()
        reference.set_timesteps(num_steps)
        bars = reference.alphas_cumprod.numpy()
        generator = torch.Generator().manual_seed(num_steps)
        for step in (0, 1, num_steps // 2, num_steps - 1):
            given = torch.randn(3, 1, 3, 4, 4, generator=generator, dtype=torch.float64)
            ours = our_step(schedule, scheduler, step, *given)
            expected, size = by_the_equations(scheduler, bars, spacing, num_steps, step, *given)
            where = f"{spacing}, {num_steps} steps, offset {offset}, clip {clip}, step {step}"
            assert float((ours - torch.from_numpy(expected)).abs().max()) < 1e-6 * size, where
            if bars[reference.timesteps[step]] == 0:
                continue  # where diffusers takes the root of 1 - a - sigma^2, 0 but for rounding, which can be NaN
            state, output, noise = given
            timestep = int(reference.timesteps[step])
            theirs = reference.step(output, timestep, state, eta=1.0, variance_noise=noise).prev_sample
            assert float((ours - theirs).abs().max()) < 1e-6 * size, where


def alpha_bars_by_hand(betas: str) -> np.ndarray:
    """In float64, from the papers."""
    settings = BETAS[betas]
    if betas == "list":
        return np.cumprod(1 - np.array(settings["trained_betas"]))
    if betas == "cosine":  # Nichol and Dhariwal 2021, equation 17
        bars = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.cumprod(1 - np.minimum(1 - bars[1:] / bars[:-1], 0.999))
    if betas == "scaled linear":  # of latent diffusion: linear in the root
        return np.cumprod(1 - np.linspace(settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, T) ** 2)
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
    if betas == "linear":
        return bars
    roots = np.sqrt(bars)  # Lin et al. 2023, algorithm 1
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


@pytest.mark.parametrize("betas", BETAS)
def test_the_tables_are_those_of_the_betas(betas: str) -> None:
    schedule = noise_schedule(scheduler_for(betas, "v_prediction", 0, None), sampler("trailing", 50))

    bars = alpha_bars_by_hand(betas)[schedule.timesteps.numpy()]

    np.testing.assert_allclose(schedule.levels[:-1].numpy(), bars, rtol=0, atol=1e-6)


def test_a_step_with_trailing_spacing_ends_at_most_one_timestep_above_the_next() -> None:
    """Where K divides T, at it: what diffusers' rounding costs, and no more."""
    bars = torch.linspace(0.999, 0.001, T, dtype=torch.float64)
    for num_steps in range(2, 200):
        schedule = build_schedule(bars, num_steps=num_steps, spacing="trailing", min_std=0.0)
        reached = [int((bars - bar).abs().argmin()) for bar in schedule.next_levels[:-1]]
        above = {at - told for at, told in zip(reached, schedule.timesteps[1:].tolist(), strict=True)}
        assert above <= ({0, 1} if T % num_steps else {0})
