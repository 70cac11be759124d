"""Another number of steps than training's: where a split policy switches then, by noise level."""

from functools import cache

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hrf.core.schedule import NoiseSchedule, build_flow_schedule, build_schedule
from hrf.core.window import first_step_within
from tests.hrf.core.test_flow_schedule import TABLE, schedule_of
from tests.hrf.toys import LINEAR_ALPHA_BARS

# Flows of 10 steps, each with the time shift that a model comes with, as computed apart.
SHIFT_3 = [row[0] for row in TABLE] + [0.0]
SHIFT_1 = [1.0, 0.889, 0.778, 0.667, 0.556, 0.445, 0.334, 0.223, 0.112, 0.001, 0.0]
EXPONENTIAL = [1, 0.966014, 0.926647, 0.880513, 0.825702, 0.759511, 0.677987, 0.575103, 0.441200, 0.259758, 0]

num_steps = st.integers(2, 60)
processes = st.sampled_from(["flow", "leading", "trailing"])


def flow(sigmas: list[float]) -> NoiseSchedule:
    levels = torch.tensor(sigmas, dtype=torch.float64)
    return build_flow_schedule(levels, 1000 * levels[:-1])


@cache
def tables(process: str, steps: int) -> NoiseSchedule:
    if process == "flow":
        return schedule_of("cps", num_steps=steps)
    return build_schedule(LINEAR_ALPHA_BARS, num_steps=steps, spacing=process, min_std=0.0)


@pytest.mark.parametrize(
    ("trained", "step", "evaluated", "expected"),
    [
        (SHIFT_3, 4, SHIFT_1, 2),  # 0.790 between 0.889 and 0.778
        (SHIFT_3, 5, SHIFT_1, 3),  # 0.707 between 0.778 and 0.667
        (SHIFT_3, 8, SHIFT_1, 7),  # 0.278 between 0.334 and 0.223
        (SHIFT_3, 4, EXPONENTIAL, 5),  # 0.790 between 0.826 and 0.760
        (EXPONENTIAL, 5, SHIFT_3, 5),  # 0.760 between 0.790 and 0.707
        (SHIFT_1, 5, SHIFT_3, 8),  # 0.445 between 0.465 and 0.278
        (SHIFT_1, 0, SHIFT_3, 0),  # no split
    ],
)
def test_a_switch_is_where_the_tables_have_no_more_noise(trained, step, evaluated, expected):
    """Kills: a switch at the same share of the steps, at the nearest level, at the last step with more noise."""
    assert flow(evaluated).step_of(step, flow(trained)) == expected


@given(process=processes, steps=num_steps)
def test_with_as_many_steps_every_step_is_itself(process, steps):
    """Kills: less noise, in place of no more."""
    schedule, again = tables(process, steps), tables(process, steps)
    assert all(again.step_of(step, schedule) == step for step in range(steps))


@given(process=processes, trained=num_steps, evaluated=num_steps, data=st.data())
def test_the_tuned_weights_never_see_more_noise_than_at_the_trained_switch_and_lose_no_step_that_they_could_have(
    process, trained, evaluated, data
):
    """By the timesteps, which the code does not compare: what the denoiser is told rises with the noise.

    Kills: the nearest step, one step early, one late.
    """
    training, other = tables(process, trained), tables(process, evaluated)
    step = data.draw(st.integers(1, trained - 1))
    switch, told = float(training.timesteps[step]), [float(timestep) for timestep in other.timesteps]
    assume(told[-1] <= switch)
    found = other.step_of(step, training)
    assert all(timestep <= switch for timestep in told[found:])
    assert all(timestep > switch for timestep in told[:found])


@given(process=processes, trained=num_steps, evaluated=num_steps)
def test_a_later_switch_is_never_earlier_in_other_steps(process, trained, evaluated):
    training, other = tables(process, trained), tables(process, evaluated)
    least = other.sigmas[-1]
    found = [other.step_of(step, training) for step in range(trained) if training.sigmas[step] >= least]
    assert found == sorted(found)


@pytest.mark.parametrize("process", ["flow", "leading", "trailing"])
def test_without_a_split_there_is_none_in_other_steps_either(process):
    """The first of 10 leading steps is at timestep 900, of 40 at 975. Kills: a first step that is mapped as any."""
    assert tables(process, 40).step_of(0, tables(process, 10)) == 0


def test_without_a_step_of_so_little_noise_it_is_an_error():
    """Kills: a switch at K, at which the tuned weights would never be asked."""
    training, other = tables("flow", 10), tables("leading", 2)
    assert training.sigmas[9] < other.sigmas[1]
    with pytest.raises(ValueError, match=r"no step has sigma 0.008929 or less, the last one 0.009\d"):
        other.step_of(9, training)


def test_sigma_says_the_signal_to_noise_ratio_of_either_process():
    """A flow's state with as much signal to the noise. Kills: 1 - alpha_bar, its root, noise / signal."""
    alpha_bars = torch.tensor([0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    found = build_schedule(alpha_bars, num_steps=4, min_std=0.0).sigmas
    # Noise to signal: infinite, 2 to 1, 1 to 1, 1 to 2.
    assert found == pytest.approx([1.0, 2 / 3, 1 / 2, 1 / 3], abs=1e-12)
    assert flow(SHIFT_3).sigmas == SHIFT_3[:-1]


def test_the_first_step_within_a_level_takes_the_level_itself():
    """Kills: < for <=."""
    assert [first_step_within(sigma, [1.0, 0.5, 0.25]) for sigma in (1.0, 0.99, 0.5, 0.25, 0.2)] == [0, 1, 1, 2, 3]
