"""Samplers of flows: a table computed apart, diffusers' scheduler, and an independent Flow-GRPO step."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hrf.core.schedule import (
    NoiseSchedule,
    build_flow_schedule,
    build_schedule,
    denoised,
    gaussian_kl,
    gaussian_log_prob,
    renoise,
    scales,
    skip,
    transition,
)

# (sigma, next sigma, std of flow_sde at .7, of dance_sde at .3, of cps at .8, of ancestral at 1), shift 3, K = 10.
TABLE = [
    (1.000000, 0.960129, 0.700000, 0.059903, 0.913137, 0.960129),
    (0.960129, 0.913349, 0.742964, 0.064886, 0.868646, 0.821207),
    (0.913349, 0.857692, 0.536152, 0.070775, 0.815714, 0.703648),
    (0.857692, 0.790368, 0.445897, 0.077841, 0.751685, 0.616626),
    (0.790368, 0.707278, 0.391794, 0.086476, 0.672662, 0.542948),
    (0.707278, 0.602151, 0.352797, 0.097270, 0.572679, 0.469378),
    (0.602151, 0.464876, 0.319070, 0.111152, 0.442123, 0.380673),
    (0.464876, 0.278049, 0.282007, 0.129671, 0.264440, 0.249231),
    (0.278049, 0.008929, 0.225360, 0.155630, 0.008492, 0.008926),
    (0.008929, 0.000000, 0.006278, 0.028347, 0.000000, 0.000000),
]
ETAS = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.8, "ancestral": 1.0}
NOISE_LEFT_BY_FLOW_SDE = [1.000705, 0.971460, 0.881996, 0.808531, 0.725128, 0.623560, 0.496452, 0.341451, 0.239952]


def schedule_of(sampler: str, eta: float | None = None, *, shift: float = 3.0, num_steps: int = 10) -> NoiseSchedule:
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(num_steps)
    return build_flow_schedule(
        reference.sigmas, reference.timesteps, sampler=sampler, eta=ETAS[sampler] if eta is None else eta, min_std=0.0
    )


def step_of(schedule: NoiseSchedule, state: Tensor, velocity: Tensor, step: int) -> tuple[Tensor, Tensor]:
    steps = torch.full((len(state),), step)
    x0, noise = denoised(schedule, state, steps, velocity, prediction="flow", clip_range=None)
    return transition(schedule, x0, noise, steps)


def draws(seed: int, count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 2, 4, 3, 3, generator=generator, dtype=dtype))


@pytest.mark.parametrize(("column", "sampler"), list(enumerate(ETAS, start=2)))
def test_the_tables_are_those_computed_apart(column, sampler):
    """Kills: the shift applied once to the last sigma, s = 1 below the line, variance for std."""
    schedule = schedule_of(sampler)

    torch.testing.assert_close(
        schedule.levels[:-1], torch.tensor([row[0] for row in TABLE]).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        schedule.next_levels, torch.tensor([row[1] for row in TABLE]).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(schedule.stds, torch.tensor([row[column] for row in TABLE]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "flow_sde", "cps", "dance_sde"),
    [
        (2, 0.301295131, 0.197112089, 0.338303349),
        (5, 0.365222220, 0.334022847, 0.372953492),
        (8, 0.507139827, 0.489651151, 0.497328854),
    ],
)
def test_single_steps_are_those_computed_apart(step, flow_sde, cps, dance_sde):
    """Kills: signal and noise swapped in the estimates, the drift's sign, sigma for sigma'."""
    state, velocity = torch.full((1, 1, 1, 1), 0.3).double(), torch.full((1, 1, 1, 1), -0.7).double()
    for sampler, expected in (("flow_sde", flow_sde), ("cps", cps), ("dance_sde", dance_sde)):
        mean, _ = step_of(schedule_of(sampler), state, velocity, step)
        assert float(mean) == pytest.approx(expected, abs=1e-6)


def test_shift_1_has_the_evenly_spaced_table():
    schedule = schedule_of("flow_sde", shift=1.0)

    assert schedule.levels[:3].tolist() == pytest.approx([1.0, 0.889, 0.778], abs=1e-3)
    assert [float(schedule.stds[k]) for k in (0, 5, 8, 9)] == pytest.approx([0.7, 0.208830, 0.082825, 0.0007], abs=1e-5)


@pytest.mark.parametrize("sampler", ETAS)
def test_without_noise_every_sampler_is_the_euler_step_of_diffusers(sampler):
    """Kills: a direction that is not sigma' at eta 0, a step late in the table."""
    schedule = schedule_of(sampler, 0.0)
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0)
    reference.set_timesteps(10)
    state, *velocities = draws(0, 11, torch.float32)
    ours = state
    for step, velocity in enumerate(velocities):
        state = reference.step(velocity, reference.timesteps[step], state).prev_sample
        ours, std = step_of(schedule, ours, velocity, step)
        assert not std.any()
    torch.testing.assert_close(ours, state, rtol=1e-5, atol=1e-5)


def test_cps_with_all_noise_fresh_is_the_stochastic_sampling_of_diffusers():
    schedule = schedule_of("cps", 1.0)
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    reference.set_timesteps(10)
    for step in range(10):
        state, velocity = draws(step, 2, torch.float32)
        expected = reference.step(
            velocity, reference.timesteps[step], state, generator=torch.Generator().manual_seed(step)
        ).prev_sample
        noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(step))
        mean, std = step_of(schedule, state, velocity, step)
        torch.testing.assert_close(mean + std * noise, expected, rtol=1e-5, atol=1e-5)


def test_the_first_state_of_a_flow_is_noise_alone_and_renoising_is_that_of_diffusers():
    """Kills: a start at step 0 that keeps some of the root."""
    schedule = schedule_of("cps")
    reference = FlowMatchEulerDiscreteScheduler(shift=3.0)
    reference.set_timesteps(10)
    sample, noise = draws(1, 2, torch.float32)

    assert torch.equal(renoise(schedule, sample, torch.tensor([0, 0]), noise), noise)
    for step in (3, 8):
        timestep = reference.timesteps[step].expand(2)
        expected = reference.scale_noise(sample, timestep, noise)
        torch.testing.assert_close(renoise(schedule, sample, torch.tensor([step] * 2), noise), expected)


@pytest.mark.parametrize("sampler", ["ancestral", "cps"])
@given(eta=st.floats(0, 1), num_steps=st.integers(2, 50))
def test_with_a_perfect_velocity_as_much_noise_is_left_as_the_level_says(sampler, eta, num_steps):
    schedule = schedule_of(sampler, eta, num_steps=num_steps)

    _, variances = scales("flow", schedule.next_levels)

    torch.testing.assert_close(schedule.directions**2 + schedule.stds**2, variances, rtol=1e-9, atol=1e-12)


def test_euler_maruyama_leaves_more_noise_than_the_level_says():
    schedule = schedule_of("flow_sde")

    left = (schedule.directions**2 + schedule.stds**2).sqrt()

    assert left[:9].tolist() == pytest.approx(NOISE_LEFT_BY_FLOW_SDE, abs=2e-6)


def test_the_ancestral_step_is_the_posterior_of_the_forward_process_for_both_processes():
    """Var of x' given x and x0, where x is x' scaled down with fresh noise added."""
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    for schedule in (schedule_of("ancestral", 1.0), build_schedule(linear, num_steps=10, min_std=0.0)):
        for step in range(1, 9):
            signal, variance = scales(schedule.process, schedule.levels[step])
            later_signal, later_variance = scales(schedule.process, schedule.next_levels[step])
            factor = signal / later_signal
            added = variance - factor**2 * later_variance
            expected = 1 / (1 / later_variance + factor**2 / added)
            assert float(schedule.stds[step]) ** 2 == pytest.approx(float(expected), rel=1e-9)


def test_log_prob_and_its_gradient_are_those_of_an_independent_flow_grpo_step():
    """Kills: a log-probability of another mean or deviation than those that were drawn from."""
    schedule, step, noise_level = schedule_of("flow_sde"), 5, 0.7
    state, velocity, noise, other = draws(7, 4)
    velocity.requires_grad_(True)

    s, after = float(schedule.levels[step]), float(schedule.levels[step + 1])
    dt = after - s
    spread = noise_level * math.sqrt(s / (1 - s))
    mean = state * (1 + spread**2 * dt / (2 * s)) + velocity * (1 + spread**2 * (1 - s) / (2 * s)) * dt
    deviation = spread * math.sqrt(-dt)
    drawn = (mean + deviation * noise).detach()
    expected = (
        -((drawn - mean) ** 2) / (2 * deviation**2) - math.log(deviation) - math.log(math.sqrt(2 * math.pi))
    ).mean(dim=(1, 2, 3))
    (expected_gradient,) = torch.autograd.grad(expected.sum(), velocity)
    other_mean = state * (1 + spread**2 * dt / (2 * s)) + other * (1 + spread**2 * (1 - s) / (2 * s)) * dt
    expected_kl = ((mean - other_mean) ** 2 / (2 * deviation**2)).mean(dim=(1, 2, 3))

    our_mean, our_std = step_of(schedule, state, velocity, step)
    ours = gaussian_log_prob(drawn, our_mean, our_std, "mean")
    (our_gradient,) = torch.autograd.grad(ours.sum(), velocity, retain_graph=True)
    our_kl = gaussian_kl(our_mean, step_of(schedule, state, other, step)[0], our_std, "mean")

    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(our_kl, expected_kl, rtol=1e-10, atol=1e-12)


def test_the_estimates_of_a_flow_are_those_that_made_the_state():
    schedule = schedule_of("cps")
    sample, noise = draws(3, 2)
    steps = torch.tensor([2, 8])
    states = renoise(schedule, sample, steps, noise)

    x0, eps = denoised(schedule, states, steps, noise - sample, prediction="flow", clip_range=None)

    torch.testing.assert_close(x0, sample)
    torch.testing.assert_close(eps, noise)
    torch.testing.assert_close(skip(schedule, x0, eps, torch.tensor([10, 10])), sample)


def test_steps_with_too_little_noise_are_not_trained():
    sigmas, timesteps = schedule_of("cps").levels, schedule_of("cps").timesteps

    assert build_flow_schedule(sigmas, timesteps, sampler="cps", eta=0.8).num_trained_steps == 8
    assert build_flow_schedule(sigmas, timesteps, sampler="flow_sde", eta=0.7).num_trained_steps == 9


def test_the_last_step_is_not_trained_however_much_noise_it_adds():
    """As of FLUX, whose last sigma is far from 0. Kills: a window that reaches the finished sample."""
    sigmas = torch.linspace(1, 0, 6, dtype=torch.float64)
    schedule = build_flow_schedule(sigmas, 1000 * sigmas[:-1], sampler="flow_sde", eta=0.7)
    assert float(schedule.stds[-1]) > 0.1
    assert schedule.num_trained_steps == 4


@pytest.mark.parametrize(
    ("sigmas", "options"),
    [
        ([1.0, 0.5], {}),
        ([0.5, 1.0, 0.0], {}),
        ([1.0, 0.5, 0.1], {}),
        ([1.5, 0.5, 0.0], {}),
        ([1.0, 0.5, 0.0], {"eta": -1.0}),
    ],
)
def test_impossible_flows_are_refused(sigmas, options):
    with pytest.raises(ValueError, match="must"):
        build_flow_schedule(torch.tensor(sigmas), torch.tensor([1000.0, 500.0]), **options)


def test_samplers_of_flows_are_refused_for_another_process():
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    with pytest.raises(ValueError, match="flows only"):
        build_schedule(linear, num_steps=10, sampler="flow_sde")
