"""Start distributions: what they share, where they part, and that no noise is used twice."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hrf.core.schedule import renoise
from hrf.core.window import Window
from hrf.networks.visits import visiting
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise, draw_noise
from hrf.trainer.selection import SelectedSteps, uniform_steps
from hrf.trainer.starts import WHOLE, FreshStarts, NoiseStarts, PrefixPool, RenoisedStarts, Shard, SharedStarts
from tests.hrf.toys import small_policy

CPU = torch.device("cpu")


def hrf_starts(window: Window, pool: PrefixPool | None = None, **changes) -> RenoisedStarts:
    options = {"num_roots": 3, "num_branches": 4, "choose_steps": uniform_steps, **changes}
    return RenoisedStarts(window_of=lambda epoch: window, fresh=FreshStarts(batch_size=8, pool=pool), **options)


def test_ddpo_starts_are_noise_at_step_0_in_one_group_and_cost_nothing():
    starts = NoiseStarts(num_episodes=5, fresh=FreshStarts(batch_size=8)).draw(small_policy(), run_seed=0, epoch=0)

    assert starts.batch.steps.tolist() == [0] * 5
    assert starts.groups.tolist() == [0] * 5
    assert starts.window is None
    assert starts.num_evaluations == 0
    expected = draw_noise([stream(0, Purpose.ROOT, 0, i) for i in range(5)], (3, 8, 8), CPU)
    assert torch.equal(starts.batch.states, expected)


def test_hrf_branches_are_their_roots_re_noised_with_independent_noise():
    """The root is recomputed here from its stream alone. Kills: one noise for all branches of a root."""
    policy = small_policy()
    starts = hrf_starts(Window(1, 4)).draw(policy, run_seed=0, epoch=2)

    assert starts.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    streams = [stream(0, Purpose.ROOT, 2, root) for root in range(3)]
    roots = denoise(policy, Batch.from_noise(policy, streams), batch_size=8)
    branch_noise = draw_noise([stream(0, Purpose.BRANCH, 2, r, b) for r in range(3) for b in range(4)], (3, 8, 8), CPU)
    expected = renoise(policy.schedule, roots[starts.groups], starts.batch.steps, branch_noise)
    assert torch.equal(starts.batch.states, expected)


def test_all_branches_of_a_root_start_at_one_step_of_the_window_and_all_of_the_window_is_used():
    """Kills: an inclusive upper end, and one step for all roots."""
    seen, policy = set(), small_policy()
    for epoch in range(12):
        starts = hrf_starts(Window(1, 4)).draw(policy, run_seed=0, epoch=epoch)
        by_root = starts.batch.steps.reshape(3, 4)
        assert (by_root == by_root[:, :1]).all()
        seen.add(tuple(by_root[:, 0].tolist()))

    assert {step for roots in seen for step in roots} == {1, 2, 3}
    assert any(len(set(roots)) > 1 for roots in seen)


def test_roots_cost_k_evaluations_each_and_nothing_else():
    policy = small_policy()

    starts = hrf_starts(Window(1, 4)).draw(policy, run_seed=0, epoch=0)

    assert starts.num_evaluations == 3 * 6 == len(policy.denoiser.seen)


def test_hrf_with_start_step_0_is_ddpo_with_a_baseline_per_root():
    """Trap 5: at k = 0 a branch is noise up to the signal that is left there, sqrt(alpha_bar_0)."""
    policy = small_policy(num_steps=40)
    starts = hrf_starts(Window(0, 1)).draw(policy, run_seed=0, epoch=0)

    noise = draw_noise([stream(0, Purpose.BRANCH, 0, r, b) for r in range(3) for b in range(4)], (3, 8, 8), CPU)
    signal = float(policy.schedule.levels[0]) ** 0.5
    assert starts.batch.steps.tolist() == [0] * 12
    assert float((starts.batch.states - noise).abs().max()) < 1.1 * signal + 1e-3


def test_with_a_prefix_pool_roots_cost_only_the_tail_and_come_from_the_pool():
    policy = small_policy(switch_step=3)
    pool = PrefixPool(states=torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0)), step=3)

    starts = hrf_starts(Window(3, 4), pool=pool).draw(policy, run_seed=0, epoch=0)

    assert starts.num_evaluations == 3 * (6 - 3)
    assert not hasattr(policy.reference, "seen")


def test_the_pool_is_drawn_without_repetition_while_it_lasts_and_differs_between_epochs():
    pool = PrefixPool(states=torch.arange(10.0).reshape(10, 1, 1, 1), step=3)

    first, second, long = (pool.draw(n, run_seed=0, epoch=e).tolist() for n, e in ((10, 0), (10, 1), (25, 0)))

    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert sorted(long[:20]) == sorted([*range(10), *range(10)])


def test_noise_starts_of_a_split_policy_begin_at_the_switch():
    """With noise starts a split policy is DDPO on the tail."""
    policy = small_policy(switch_step=3)

    starts = NoiseStarts(num_episodes=4, fresh=FreshStarts(batch_size=8)).draw(policy, run_seed=0, epoch=0)

    assert starts.batch.steps.tolist() == [3] * 4
    assert starts.num_evaluations == 4 * 3 == len(policy.reference.seen)


def test_noise_starts_with_a_later_first_loss_are_denoised_to_it_by_the_policy_itself():
    """Nothing is re-noised: the states are those of the sample's own trajectory. Kills: the reference's weights."""
    policy = small_policy()

    starts = NoiseStarts(num_episodes=3, fresh=FreshStarts(batch_size=8), first_step=2).draw(
        policy, run_seed=0, epoch=0
    )

    streams = [stream(0, Purpose.ROOT, 0, i) for i in range(3)]
    on_the_way = denoise(policy, Batch.from_noise(policy, streams), batch_size=8, stop_step=2)
    assert starts.batch.steps.tolist() == [2] * 3
    assert torch.equal(starts.batch.states, on_the_way)
    assert starts.num_evaluations == 3 * 2


def shared_starts(step: int, pool: PrefixPool | None = None) -> SharedStarts:
    fresh = FreshStarts(batch_size=8, pool=pool)
    return SharedStarts(num_roots=3, num_branches=4, window_of=lambda epoch: Window(step, step + 1), fresh=fresh)


def test_branches_of_a_shared_start_leave_the_references_own_state_at_the_switch_step():
    """Recomputed from the starts' streams alone. Kills: a root that is finished and re-noised, one start for all
    groups, one stream of noise for all branches of a start, the tuned weights before the switch step."""
    policy = small_policy(switch_step=3)

    starts = shared_starts(3).draw(policy, run_seed=0, epoch=2)

    assert starts.num_evaluations == 3 * 3 == len(policy.reference.seen)
    assert not hasattr(policy.denoiser, "seen")
    streams = [stream(0, Purpose.ROOT, 2, root) for root in range(3)]
    prefixes = denoise(policy, Batch.from_noise(policy, streams), batch_size=8, stop_step=3)
    assert starts.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(starts.batch.states, prefixes[starts.groups])
    assert starts.batch.steps.tolist() == [3] * 12
    seeds = [stream(0, Purpose.BRANCH, 2, r, b).initial_seed() for r in range(3) for b in range(4)]
    assert [each.initial_seed() for each in starts.batch.streams] == seeds


def test_shared_starts_are_states_of_the_pool_with_their_prompts_and_cost_only_what_a_floor_has_added():
    """Kills: prompts drawn anew; states of the pool taken for states at a later switch step."""
    states = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pool = PrefixPool(states=states, step=3, prompts=torch.arange(7))

    starts = shared_starts(3, pool=pool).draw(small_policy(switch_step=3), run_seed=0, epoch=0)

    chosen = pool.draw(3, run_seed=0, epoch=0).repeat_interleave(4)
    assert starts.num_evaluations == 0
    assert torch.equal(starts.batch.prompts, chosen)
    assert torch.equal(starts.batch.states, states[chosen])

    policy = small_policy(switch_step=4)
    moved = shared_starts(4, pool=PrefixPool(states=states, step=3)).draw(policy, run_seed=0, epoch=0)

    assert moved.num_evaluations == 3 == len(policy.reference.seen)
    assert not hasattr(policy.denoiser, "seen")


def selected(**changes) -> SelectedSteps:
    options = {
        "score": lambda samples, prompts: samples.flatten(1).mean(1).double(),
        "embed": lambda samples: samples.flatten(1).double(),
        "num_branches": 2,
        "stride": 1,
        "beta": 0.5,
        "batch_size": 8,
        "num_roots": 3,
        **changes,
    }
    return SelectedSteps(**options)


def test_the_exhaustive_rule_tries_every_candidate_of_every_root_to_the_end():
    policy = small_policy()

    starts = hrf_starts(Window(0, 4), choose_steps=selected()).draw(policy, run_seed=0, epoch=0)

    per_root = 6 + 2 * (6 + 5 + 4 + 3)
    assert starts.num_evaluations == 3 * per_root == len(policy.denoiser.seen)
    # The earlier step of a pair wins, so the last candidate never does.
    assert all(step in range(3) for step in starts.batch.steps.tolist())


def test_the_one_step_rule_costs_one_evaluation_per_candidate_and_branch():
    starts = hrf_starts(Window(0, 4), choose_steps=selected(preview_steps=1)).draw(small_policy(), run_seed=0, epoch=0)

    assert starts.num_evaluations == 3 * (6 + 2 * 4)


def preview(policy: DiffusionPolicy, steps: list[int], **changes) -> tuple[torch.Tensor, torch.Tensor, int]:
    """States at some steps, what a rule finishes them to without noise, and the evaluations that this takes."""
    rule, calls = selected(batch_size=3, **changes), []
    streams = [stream(0, Purpose.SELECTION, index) for index in range(len(steps))]
    states = torch.randn(len(steps), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(states=states, steps=torch.tensor(steps), streams=streams)
    finished = rule._finish(
        policy.with_schedule(policy.schedule.with_eta(0.0)), batch, total=len(steps), count=calls.append
    )
    return states, finished, sum(calls)


@pytest.mark.parametrize(("start", "timesteps"), [(0, [950, 700, 450, 200]), (10, [450, 200])])
def test_previews_are_ddim_with_fewer_steps(start, timesteps):
    """Kills: long steps of unequal length, and noise levels of the step before."""
    policy = small_policy(num_steps=20)
    expected, previews, num_evaluations = preview(policy, [start] * 4, preview_steps=len(timesteps))

    scheduler = DDIMScheduler(set_alpha_to_one=True)
    scheduler.set_timesteps(4)  # One of its steps is five of the policy's.
    for timestep in timesteps:
        with torch.no_grad():
            output = policy.denoiser(expected, torch.full((4,), timestep)).sample
        expected = scheduler.step(output, timestep, expected, eta=0.0).prev_sample
    torch.testing.assert_close(previews, expected, rtol=1e-4, atol=1e-4)
    assert num_evaluations == 4 * len(timesteps)


def test_previews_of_as_many_steps_as_the_tail_has_are_the_whole_tail():
    """Kills: a short tail that is asked for more steps than it has."""
    policy = small_policy(num_steps=6)
    _, previews, num_evaluations = preview(policy, [0, 2, 4, 5], preview_steps=6)
    _, whole, _ = preview(policy, [0, 2, 4, 5])

    torch.testing.assert_close(previews, whole, rtol=1e-4, atol=1e-4)
    assert num_evaluations == 6 + 4 + 2 + 1


def test_coarse_to_fine_looks_at_fewer_candidates_and_stays_in_the_window():
    policy = small_policy(num_steps=20)

    exhaustive = hrf_starts(Window(0, 16), choose_steps=selected()).draw(policy, run_seed=0, epoch=0)
    cheap = hrf_starts(Window(0, 16), choose_steps=selected(coarse_stride=4)).draw(policy, run_seed=0, epoch=0)

    assert cheap.num_evaluations < 0.7 * exhaustive.num_evaluations
    assert all(0 <= step < 16 for step in cheap.batch.steps.tolist())


@pytest.mark.parametrize("rule", [selected(), selected(coarse_stride=2), uniform_steps])
def test_no_stream_of_noise_is_opened_twice_in_an_epoch(rule, monkeypatch):
    """The winner's curse of the published code: kills selection on the noise of the branches that are then trained."""
    opened = []

    def listening(run_seed: int, purpose: Purpose, *coordinates: int) -> torch.Generator:
        opened.append((purpose, *coordinates))
        return stream(run_seed, purpose, *coordinates)

    monkeypatch.setattr("hrf.trainer.starts.stream", listening)
    hrf_starts(Window(0, 4), choose_steps=rule).draw(small_policy(), run_seed=0, epoch=0)

    assert len(opened) == len(set(opened)) > 3 + 3 * 4


def test_a_scorers_network_comes_to_its_device_once_for_the_previews_of_all_roots():
    """Kills: weights that are copied for each root."""
    network, found = nn.Linear(1, 1).requires_grad_(False), []
    at_rest = network.weight

    def score(samples, prompts):
        with visiting(network, torch.device("meta")):
            found.append(network.weight)
        return samples.flatten(1).mean(1).double()

    starts = hrf_starts(Window(0, 4), choose_steps=selected(score=score))
    starts.draw(small_policy(), run_seed=0, epoch=0)

    assert len(found) == 3
    assert all(weight is found[0] for weight in found)
    assert network.weight is at_rest


def test_a_window_with_one_candidate_leaves_nothing_to_select():
    with pytest.raises(ValueError, match="fewer than two candidates"):
        hrf_starts(Window(2, 3), choose_steps=selected()).draw(small_policy(), run_seed=0, epoch=0)


@pytest.mark.parametrize("preview_steps", [0, 1])
def test_previews_are_judged_in_calls_of_the_same_sizes_in_every_shard(preview_steps):
    """How they are rounded must not depend on the shard, as one of two equal candidates wins by its last bit. Kills:
    sizes chosen from a shard's own roots, or from how many candidates they have left to refine."""
    rule = selected(coarse_stride=2, batch_size=64, preview_steps=preview_steps)
    sizes = []
    for shard in (WHOLE, *(Shard(index=index, count=3) for index in range(3))):
        policy = small_policy()
        hrf_starts(Window(0, 4), choose_steps=rule).draw(policy, run_seed=0, epoch=0, shard=shard)
        sizes.append({*policy.denoiser.batch_sizes})
    # Three roots; and their previews, two each of three coarse candidates and of one finer one at most.
    assert all(own <= {3, 18, 6} for own in sizes)
    assert {3, 18} <= set.intersection(*sizes)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "distribution",
    [
        hrf_starts(Window(0, 4)),
        hrf_starts(Window(0, 4), choose_steps=selected(coarse_stride=2)),
        hrf_starts(Window(3, 4), pool=PrefixPool(states=torch.randn(5, 3, 8, 8), step=3)),
        shared_starts(3, pool=PrefixPool(states=torch.randn(5, 3, 8, 8), step=3)),
        NoiseStarts(num_episodes=7, fresh=FreshStarts(batch_size=8)),
    ],
    ids=["window", "selected", "pool", "shared", "noise"],
)
def test_shards_one_after_another_are_the_whole_bit_for_bit(distribution, count):
    """Kills: streams numbered within a shard, a pool drawn for the shard alone, groups that begin at 0 in each."""
    policy = small_policy(switch_step=3)
    whole = distribution.draw(policy, run_seed=0, epoch=1, on_advance=None)
    parts = [
        distribution.draw(policy, run_seed=0, epoch=1, shard=Shard(index=index, count=count), on_advance=None)
        for index in range(count)
    ]

    assert torch.equal(torch.cat([part.groups for part in parts]), whole.groups)
    for name in ("states", "steps"):
        assert torch.equal(torch.cat([getattr(part.batch, name) for part in parts]), getattr(whole.batch, name))
    streams = [each for part in parts for each in part.batch.streams]
    assert [each.initial_seed() for each in streams] == [each.initial_seed() for each in whole.batch.streams]
    assert [s.get_state().tolist() for s in streams] == [s.get_state().tolist() for s in whole.batch.streams]
    assert sum(part.num_evaluations for part in parts) == whole.num_evaluations


@given(st.integers(1, 50), st.integers(1, 50))
def test_shards_are_all_neighbours_nearly_equal_and_none_is_empty(total, count):
    if count > total:
        with pytest.raises(ValueError, match="shards"):
            Shard(count=count).part(total)
        return
    parts = [Shard(index=index, count=count).part(total) for index in range(count)]
    assert [number for part in parts for number in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 1
