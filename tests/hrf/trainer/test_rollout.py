"""The denoising loop: what it calls, what it records, and that batching changes nothing but rounding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hrf.core.schedule import gaussian_log_prob
from hrf.planning.cost import call_size
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise, rollout
from tests.hrf.toys import small_policy

SHAPE = (3, 8, 8)


def streams(count: int, seed: int = 0) -> list[torch.Generator]:
    return [stream(seed, Purpose.BRANCH, 0, i, 0) for i in range(count)]


def branches(policy, steps) -> Batch:
    return Batch.from_samples(policy, torch.zeros(len(steps), *SHAPE), steps, streams(len(steps)))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_rollout_calls_the_denoiser_exactly_from_each_start_to_the_end(batch_size):
    """Trap 6. Kills: computing steps before the start, or a last step too many."""
    policy = small_policy()
    steps = torch.tensor([3, 0, 1, 3, 2])

    rollout(policy, branches(policy, steps), torch.zeros(5), batch_size=batch_size, reduction="mean")

    expected = sorted(int(policy.schedule.timesteps[k]) for start in steps for k in range(start, 6))
    assert sorted(policy.denoiser.seen) == expected


def test_batches_are_always_full_and_no_more_than_the_work_needs():
    policy = small_policy()
    steps = torch.tensor([0, 3, 1, 2, 3, 3, 0, 2])

    denoise(policy, branches(policy, steps), batch_size=4)

    sizes = policy.denoiser.batch_sizes
    assert set(sizes) == {4}
    # 34 evaluations in calls of four, where the last calls lack samples that could still be moved on.
    assert len(policy.denoiser.seen) == int((6 - steps).sum()) == 34
    assert len(sizes) <= 10


@pytest.mark.parametrize("switch_step", [0, 3])
def test_the_bits_of_a_sample_do_not_depend_on_which_others_are_denoised_with_it(switch_step):
    """Kills: calls that are not filled up, at the end or on one side of the switch step; a size of calls that is chosen
    from the samples at hand, and not from those of all shards."""
    policy = small_policy(switch_step=switch_step)
    steps = torch.tensor([0, 3, 1, 2, 3, 0, 0])

    def denoised(chosen):
        every = branches(policy, steps)
        batch = Batch(
            states=every.states[chosen], steps=steps[chosen], streams=[every.streams[index] for index in chosen]
        )
        return rollout(policy, batch, torch.zeros(len(chosen)), batch_size=4, total=7, reduction="mean")

    together, samples = denoised(list(range(7)))
    pairs = together.pairs(torch.arange(7))
    for chosen in ([0], [6, 1], [2, 3, 4, 5]):
        alone, own_samples = denoised(chosen)
        assert torch.equal(own_samples, samples[chosen])
        same = torch.cat([(pairs.branch == i).nonzero().flatten() for i in chosen])
        assert torch.equal(alone.log_probs, together.log_probs[pairs.pair_index[same]])


@given(st.integers(0, 500), st.integers(1, 70))
def test_calls_are_as_few_as_allowed_and_of_even_size(total, batch_size):
    size = call_size(total, batch_size)
    num_calls = math.ceil(total / batch_size)
    assert 1 <= size <= batch_size
    assert total <= num_calls * size < max(1, total) + max(1, num_calls)


@pytest.mark.parametrize(("count", "sizes"), [(2, {2}), (8, {8}), (10, {5}), (1, {1})])
def test_little_work_is_done_in_small_calls(count, sizes):
    """Kills: calls of batch_size whatever there is to do, which a small epoch pays for."""
    policy = small_policy()
    steps = torch.full((count,), 2)

    denoise(policy, branches(policy, steps), batch_size=8)

    assert set(policy.denoiser.batch_sizes) == sizes
    assert sum(policy.denoiser.batch_sizes) == len(policy.denoiser.seen) == 4 * count


def test_samples_do_not_depend_on_the_batch_size_beyond_rounding():
    policy = small_policy()
    steps = torch.tensor([0, 3, 1, 2, 3])
    results = [denoise(policy, branches(policy, steps), batch_size=batch_size) for batch_size in (1, 2, 5)]

    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-5)


def test_the_record_is_the_trajectory_that_was_walked():
    """Recomputes every recorded transition from the recorded state alone. Kills: states shifted by one."""
    policy = small_policy()
    steps = torch.tensor([2, 0, 3])
    batch = branches(policy, steps)

    tails, _ = rollout(policy, batch, torch.tensor([0, 1, 2]), batch_size=2, reduction="mean")

    assert tails.num_trained_steps == 4
    assert len(tails.states) == (2 + 1) + (4 + 1) + (1 + 1)
    pairs = tails.pairs(torch.arange(3))
    assert pairs.step.tolist() == [2, 3, 0, 1, 2, 3, 3]
    assert pairs.branch.tolist() == [0, 0, 1, 1, 1, 1, 2]
    with torch.no_grad():
        mean, std = policy.transition(tails.states[pairs.state_index], pairs.step)
    log_prob = gaussian_log_prob(tails.states[pairs.state_index + 1], mean, std, "mean")
    torch.testing.assert_close(log_prob, tails.log_probs[pairs.pair_index], rtol=1e-5, atol=1e-5)
    first = torch.tensor([0, 2, 6])
    assert torch.equal(tails.states[pairs.state_index[first]], batch.states)


def test_recorded_states_are_float32_also_with_a_bfloat16_denoiser():
    """Trap 3: a state stored in bfloat16 would move log-probs by more than the clip range."""
    policy = small_policy(forward_dtype=torch.bfloat16)
    batch = branches(policy, torch.tensor([0, 1]))

    tails, samples = rollout(policy, batch, torch.tensor([0, 0]), batch_size=2, reduction="mean")

    assert tails.states.dtype == tails.log_probs.dtype == samples.dtype == torch.float32
    assert (tails.states != tails.states.bfloat16().float()).float().mean() > 0.9


def test_a_start_at_an_untrained_step_is_refused():
    policy = small_policy()
    batch = branches(policy, torch.tensor([4]))

    with pytest.raises(ValueError, match="trained"):
        rollout(policy, batch, torch.tensor([0]), batch_size=1, reduction="mean")


def test_a_batch_has_as_many_of_each():
    with pytest.raises(ValueError, match=r"different lengths: \[2, 2, 3\]"):
        Batch(states=torch.zeros(2, *SHAPE), steps=torch.tensor([0, 1]), streams=streams(3))


def test_a_split_policy_uses_the_reference_before_the_switch_and_the_tuned_weights_from_it_on():
    """Kills: <= for < at the switch step."""
    policy = small_policy(switch_step=3)

    denoise(policy, Batch.from_noise(policy, streams(2)), batch_size=2)

    timesteps = policy.schedule.timesteps.tolist()
    assert policy.reference.seen == [t for t in timesteps[:3] for _ in range(2)]
    assert policy.denoiser.seen == [t for t in timesteps[3:] for _ in range(2)]


def test_streams_of_different_purposes_and_coordinates_differ_and_seed_zero_is_a_seed():
    """Trap 9."""
    draws = {
        tuple(torch.randn(3, generator=stream(seed, purpose, *coordinates)).tolist())
        for seed in (0, 1)
        for purpose in Purpose
        for coordinates in ((0, 0), (0, 1), (1, 0), (0,))
    }

    assert len(draws) == 2 * len(Purpose) * 4
    first, again = (torch.randn(3, generator=stream(0, Purpose.ROOT, 0)) for _ in range(2))
    assert torch.equal(first, again)
