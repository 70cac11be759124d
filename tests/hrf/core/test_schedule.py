"""The sampler's tables and transitions against ALGORITHM's table, diffusers' DDIMScheduler and torch.distributions."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from hrf.core.schedule import (
    build_schedule,
    denoised,
    gaussian_kl,
    gaussian_log_prob,
    reduce_pixels,
    renoise,
    step_tables,
    transition,
)

LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)


def diffusers_scheduler(num_steps: int, **options: object) -> DDIMScheduler:
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **options)
    scheduler.set_timesteps(num_steps)
    return scheduler


@pytest.mark.parametrize(
    ("step", "timestep", "alpha_bar", "std"),
    [
        (0, 975, 6.517e-5, 0.6208),
        (10, 725, 4.791e-3, 0.5494),
        (20, 475, 9.957e-2, 0.4502),
        (30, 225, 0.5887, 0.2935),
        (35, 100, 0.8951, 0.1642),
        (38, 25, 0.9910, 0.00995),
        (39, 0, 0.9999, 0.0),
    ],
)
def test_tables_of_the_40_step_sampler_have_the_published_values(step, timestep, alpha_bar, std):
    schedule = build_schedule(LINEAR, num_steps=40)

    assert schedule.timesteps[step] == timestep
    assert float(schedule.levels[step]) == pytest.approx(alpha_bar, rel=1e-3)
    assert float(schedule.stds[step]) == pytest.approx(std, rel=2e-3)


def test_the_last_step_is_exactly_deterministic_and_never_trained_even_with_min_std_zero():
    schedule = build_schedule(LINEAR, num_steps=40, min_std=0.0)

    assert float(schedule.stds[39]) == 0.0
    assert schedule.num_trained_steps == 39
    assert schedule.stochastic_steps == list(range(39))


@pytest.mark.parametrize("num_steps", [20, 40])
def test_the_nearly_deterministic_step_is_left_out_by_default(num_steps):
    schedule = build_schedule(LINEAR, num_steps=num_steps)

    assert schedule.num_trained_steps == num_steps - 2
    assert float(schedule.stds[num_steps - 2]) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_those_of_diffusers(spacing, offset):
    reference = diffusers_scheduler(50, timestep_spacing=spacing, steps_offset=offset)

    schedule = build_schedule(LINEAR, num_steps=50, spacing=spacing, steps_offset=offset if spacing == "leading" else 0)

    assert schedule.timesteps.tolist() == reference.timesteps.tolist()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_every_transition_is_that_of_diffusers_ddim(prediction, spacing, eta, clip):
    """Kills: an off-by-one in alpha_bar, eta or sigma at the wrong step, clamp after the noise, swapped v formula."""
    reference = diffusers_scheduler(
        20, timestep_spacing=spacing, prediction_type=prediction, clip_sample=clip, set_alpha_to_one=True
    )
    schedule = build_schedule(reference.alphas_cumprod, num_steps=20, spacing=spacing, eta=eta)
    generator = torch.Generator().manual_seed(0)
    for step, timestep in enumerate(reference.timesteps):
        state, output, noise = torch.randn(3, 1, 3, 8, 8, generator=generator)
        expected = reference.step(output, timestep, state, eta=eta, variance_noise=noise).prev_sample
        steps = torch.tensor([step])
        x0, eps = denoised(schedule, state, steps, output, prediction=prediction, clip_range=1.0 if clip else None)
        mean, std = transition(schedule, x0, eps, steps)
        # float32 tables in the reference, float64 in ours; unclamped estimates reach 1e2 at the first step.
        torch.testing.assert_close(mean + std * noise, expected, rtol=2e-4, atol=2e-5)


def test_a_batch_may_hold_different_steps():
    schedule = build_schedule(LINEAR, num_steps=20)
    generator = torch.Generator().manual_seed(1)
    states, outputs = torch.randn(2, 4, 3, 8, 8, generator=generator)
    steps = torch.tensor([0, 7, 7, 19])

    def mean_of(index: slice) -> torch.Tensor:
        x0, noise = denoised(
            schedule, states[index], steps[index], outputs[index], prediction="epsilon", clip_range=1.0
        )
        return transition(schedule, x0, noise, steps[index])[0]

    together = mean_of(slice(None))
    alone = torch.cat([mean_of(slice(i, i + 1)) for i in range(4)])
    assert torch.equal(together, alone)


def test_renoising_has_the_mean_and_variance_of_the_forward_process():
    """Kills: noise scaled by the variance instead of its root, and alpha_bar of a neighbouring step."""
    schedule = build_schedule(LINEAR, num_steps=40)
    sample = torch.full((20_000, 1, 1, 1), 0.5)
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    for step in (0, 20, 30):
        alpha_bar = float(LINEAR[975 - 25 * step])
        states = renoise(schedule, sample, torch.full((20_000,), step), noise).double()
        assert float(states.mean()) == pytest.approx(0.5 * alpha_bar**0.5, abs=4 * ((1 - alpha_bar) / 20_000) ** 0.5)
        assert float(states.var()) == pytest.approx(1 - alpha_bar, rel=0.05)


def test_denoising_a_renoised_sample_with_the_true_noise_gives_the_sample_back():
    schedule = build_schedule(LINEAR, num_steps=40)
    generator = torch.Generator().manual_seed(3)
    sample = torch.rand(5, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    steps = torch.tensor([0, 10, 20, 30, 39])

    states = renoise(schedule, sample, steps, noise)
    x0, _ = denoised(schedule, states, steps, noise, prediction="epsilon", clip_range=None)

    torch.testing.assert_close(x0, sample)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_prob_is_that_of_the_normal_distribution(reduction):
    """Kills: a missing log sigma (invisible in a ratio at one sigma), variance for std, the wrong reduction."""
    generator = torch.Generator().manual_seed(4)
    values, mean = torch.randn(2, 6, 3, 4, 4, generator=generator, dtype=torch.float64)
    std = torch.rand(6, 1, 1, 1, generator=generator, dtype=torch.float64) + 0.1
    density = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(values).flatten(1)

    expected = density.mean(1) if reduction == "mean" else density.sum(1)

    torch.testing.assert_close(gaussian_log_prob(values, mean, std, reduction), expected)


def test_kl_is_that_of_two_normal_distributions():
    generator = torch.Generator().manual_seed(5)
    mean, other = torch.randn(2, 6, 3, 4, 4, generator=generator, dtype=torch.float64)
    std = torch.rand(6, 1, 1, 1, generator=generator, dtype=torch.float64) + 0.1
    first, second = (torch.distributions.Normal(m, std.expand_as(m)) for m in (mean, other))

    expected = torch.distributions.kl_divergence(first, second).flatten(1).sum(1)

    torch.testing.assert_close(gaussian_kl(mean, other, std, "sum"), expected)


@given(num_steps=st.integers(2, 100), eta=st.floats(0.1, 1.0))
def test_stds_are_finite_and_bounded_by_the_noise_left(num_steps, eta):
    schedule = build_schedule(LINEAR, num_steps=num_steps, eta=eta, min_std=0.0)

    assert torch.isfinite(schedule.stds).all()
    assert (schedule.stds**2 <= 1 - schedule.levels[1:] + 1e-12).all()


@given(eta=st.floats(0, 1))
def test_stds_are_proportional_to_eta(eta):
    schedule = build_schedule(LINEAR, num_steps=20)

    _, stds = step_tables("variance_preserving", "ancestral", schedule.levels[:-1], schedule.next_levels, eta)

    torch.testing.assert_close(stds, eta * schedule.stds)


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 1}, {"num_steps": 1001}, {"num_steps": 20, "eta": -1.0}, {"num_steps": 20, "spacing": "linear"}],
)
def test_impossible_samplers_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        build_schedule(LINEAR, **options)


def test_a_reduction_has_to_be_named():
    with pytest.raises(ValueError, match=r"mean.*sum"):
        gaussian_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "density")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_sample_alone_is_reduced_in_the_order_of_one_among_others(reduction):
    """Kills: a plain reduction, which torch shares out among its threads if there is but one row, and a large one."""
    values = torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(reduce_pixels(values[:1], reduction), reduce_pixels(values, reduction)[:1])
    finally:
        torch.set_num_threads(threads)
