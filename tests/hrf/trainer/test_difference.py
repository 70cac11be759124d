"""Updates by the difference objective: which states have a loss, what they are pulled to, and that rewards rise."""

from dataclasses import replace

import pytest
import torch

from hrf.config import Update, resolve
from hrf.core.objective import sibling_directions
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import build_reward
from hrf.seeds import Purpose, stream
from hrf.trainer.objectives import Difference, draw_levels, num_loss_pairs
from hrf.trainer.rollout import Batch, rollout
from hrf.trainer.starts import build_starts, draw_prefix_pool
from hrf.trainer.trainer import Trainer
from hrf.trainer.update import Updater
from tests.hrf.toys import small_policy

STARTS, GROUPS = torch.tensor([0, 0, 0, 2, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 1])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0])


def case(**changes):
    policy = small_policy()
    streams = [stream(0, Purpose.BRANCH, 0, i, 0) for i in range(6)]
    batch = replace(Batch.from_noise(policy, streams), steps=STARTS)
    trajectories, samples = rollout(policy, batch, GROUPS, batch_size=6, reduction="mean")
    settings = Update(**{"objective": "difference", "learning_rate": 1e-3, "minibatch": 6, "microbatch": 4, **changes})
    return Updater(policy, settings), replace(trajectories, finished=samples)


def gradient(updater: Updater) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in updater.policy.denoiser.parameters()])


def recorded_pairs(monkeypatch) -> list:
    """All pairs that get a loss, as they get it."""
    seen, loss = [], Difference.loss

    def recording(self, pairs):
        seen.append(pairs)
        return loss(self, pairs)

    monkeypatch.setattr(Difference, "loss", recording)
    return seen


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_levels_are_drawn_without_replacement_from_each_branchs_own_tail(count):
    """Kills: levels before the start, and after the last trained step; the same levels for all branches."""
    _, trajectories = case()
    pairs = trajectories.pairs(torch.arange(6))
    drawn = [draw_levels(trajectories, count, torch.Generator().manual_seed(seed)) for seed in range(40)]

    assert (len({tuple(levels.tolist()) for levels in drawn}) == 1) == (count == 9)
    for levels in drawn:
        chosen = pairs.select(levels)
        per_branch = torch.bincount(chosen.branch, minlength=6)
        assert per_branch.tolist() == [min(count, 4 - start) for start in STARTS.tolist()]
        assert (chosen.step >= STARTS[chosen.branch]).all()
        assert (chosen.step < trajectories.num_trained_steps).all()
    # Each level of a tail has its turn.
    assert torch.stack(drawn).any(dim=0).all()
    assert num_loss_pairs(trajectories, Update(objective="difference", levels_per_branch=count)) == len(chosen)


def test_an_updates_gradient_is_that_of_the_formula_written_out():
    """By autograd on the policy's own estimates, one (branch, level) after another, with nothing of the update's code.

    Kills: states and branches that do not belong together, a mean over pairs for the mean over branches, siblings of a
    minibatch or microbatch alone, a trust region's scale on the advantages.
    """
    updater, trajectories = case(learning_rate=1e-30, minibatch=4, microbatch=3, max_grad_norm=1e9, levels_per_branch=9)
    policy = updater.policy
    metrics, _ = updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)
    found = gradient(updater)

    order = torch.randperm(6, generator=stream(0, Purpose.MINIBATCH, 0, 0))
    last = order[4:].tolist()
    directions = sibling_directions(trajectories.finished, GROUPS)
    offsets = (4 - STARTS + 1).cumsum(0) - (4 - STARTS + 1)
    loss = 0.0
    for branch in last:
        for step in range(int(STARTS[branch]), 4):
            state = trajectories.states[offsets[branch] + step - STARTS[branch]][None]
            estimate = policy.estimate(state, torch.tensor([step]))[0]
            loss = loss - ADVANTAGES[branch] * (estimate * directions[branch]).mean() / len(last)
    updater.optimizer.zero_grad()
    loss.backward()
    torch.testing.assert_close(found, gradient(updater), rtol=1e-3, atol=1e-6)
    assert metrics[-1].loss == pytest.approx(float(loss.detach()), rel=1e-4)


def test_a_finished_sample_is_what_its_branch_has_come_to():
    """Kills: the state after the last trained step in its place."""
    _, trajectories = case()
    assert trajectories.finished.shape == (6, 3, 8, 8)
    ends = (4 - STARTS + 1).cumsum(0) - 1
    assert not torch.allclose(trajectories.finished, trajectories.states[ends], atol=1e-3)
    assert float(trajectories.finished.abs().max()) <= 1.0


def test_the_same_levels_are_drawn_again_and_others_in_the_next_epoch(monkeypatch):
    seen = recorded_pairs(monkeypatch)

    def levels(**coordinates: int) -> list[tuple[int, int]]:
        seen.clear()
        updater, trajectories = case()
        updater.run(trajectories, ADVANTAGES, **{"run_seed": 0, "epoch": 0, **coordinates})
        return sorted(pair for pairs in seen for pair in zip(pairs.branch.tolist(), pairs.step.tolist(), strict=True))

    first = levels()
    assert levels() == first
    assert len(first) == 2 * 5 + 1
    assert levels(epoch=1) != first
    assert levels(run_seed=1) != first


def test_the_proximal_term_pulls_to_the_policy_that_sampled():
    """Not in the first update, where that is the policy itself. Kills: a reference that is the current policy."""
    firsts = [case(proximal_weight=weight, inner_epochs=2, microbatch=99) for weight in (0.0, 30.0)]
    norms = [
        [metrics.grad_norm for metrics in updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)[0]]
        for updater, trajectories in firsts
    ]
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-2)
    assert norms[0][1] != pytest.approx(norms[1][1], rel=1e-2)

    distances = {}
    for weight in (0.0, 30.0):
        updater, trajectories = case(proximal_weight=weight, inner_epochs=8, levels_per_branch=9)
        pairs = trajectories.pairs(torch.arange(6))
        states = trajectories.states[pairs.state_index]
        with torch.no_grad():
            before = updater.policy.estimate(states, pairs.step)
        updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)
        with torch.no_grad():
            distances[weight] = float((updater.policy.estimate(states, pairs.step) - before).square().mean())
    assert distances[30.0] < 0.2 * distances[0.0]


def test_the_reference_term_pulls_to_the_base():
    """From weights that have left it, without advantages: the gradient is the term's alone, in the first update, too.

    Kills: a pull to the policy that sampled, which pulls nowhere; the sign.
    """
    updater, trajectories = case(reference_weight=1.0, inner_epochs=8, levels_per_branch=9, max_grad_norm=1e9)
    with torch.no_grad():
        for parameter in updater.policy.denoiser.conv_out.parameters():
            parameter.add_(0.05)
    pairs = trajectories.pairs(torch.arange(6))
    states = trajectories.states[pairs.state_index]

    def distance() -> float:
        with torch.no_grad():
            ours, theirs = (
                policy.estimate(states, pairs.step) for policy in (updater.policy, updater.policy.as_reference())
            )
        return float((ours - theirs).square().mean())

    before = distance()
    metrics, _ = updater.run(trajectories, torch.zeros(6), run_seed=0, epoch=0)
    assert before > 0
    # Summed over levels, averaged over branches.
    assert metrics[0].loss == pytest.approx(before / 2 * len(pairs) / 6, rel=1e-3)
    assert distance() < 0.7 * before


def test_every_pair_with_a_loss_costs_a_forward_and_each_pull_one_more_for_all_passes():
    for weights, forwards in (({}, 2), ({"proximal_weight": 1.0}, 3), ({"reference_weight": 1.0}, 2)):
        updater, trajectories = case(inner_epochs=2, **weights)
        updater.policy.denoiser.seen.clear()
        updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)
        num_pairs = num_loss_pairs(trajectories, updater.settings)
        assert len(updater.policy.denoiser.seen) == forwards * num_pairs
        assert len(getattr(updater.policy.reference, "seen", [])) == num_pairs * ("reference_weight" in weights)


def test_what_is_told_of_ratios_is_absent():
    updater, trajectories = case()
    (metrics,), norms = updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)
    assert (metrics.clip_fraction, metrics.approx_kl, metrics.ratio_mean, metrics.ratio_max) == (None,) * 4
    assert metrics.kl_to_reference == 0.0
    assert metrics.grad_norm > 0
    assert set(norms) <= {0, 1, 2, 3}


def test_the_gradient_does_not_depend_on_the_microbatch():
    found = []
    for size in (100, 3):
        updater, trajectories = case(microbatch=size, inner_epochs=2, learning_rate=1e-30, proximal_weight=0.5)
        updater.run(trajectories, ADVANTAGES, run_seed=0, epoch=0)
        found.append(gradient(updater))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)


def test_trajectories_without_their_finished_samples_are_refused():
    updater, trajectories = case()
    with pytest.raises(ValueError, match="finished samples"):
        updater.run(replace(trajectories, finished=None), ADVANTAGES, run_seed=0, epoch=0)


@pytest.mark.slow
@pytest.mark.parametrize("shaped", [False, True])
def test_the_reward_of_the_shipped_model_rises(tmp_path, shaped):
    """Three epochs on pictures' redness: the roots of the last epoch score higher than those of the first.

    Shaped: by redness alone, as all rewards are alike, and are reported so. Kills: r + w s reported as the reward.
    """
    redness = {"name": "python", "function": "tests.golden.trace:redness"}
    nothing = {"name": "python", "function": "tests.hrf.shared_work:nothing"}
    config = resolve("avatars-split").with_changes(
        {
            "sampler": {"steps": 6},
            "reward": nothing if shaped else redness,
            "shaping": {"reward": redness} if shaped else None,
            "policy": {"split": 0.3, "prefix_pool": 4},
            "starts": {"schedule": "uniform", "windows": []},
            "update": {"objective": "difference", "learning_rate": 1e-4},
        }
    )
    fetch_base(config.model, tmp_path / "base", {"step": "test"})
    policy = load_policy(config, tmp_path / "base", tmp_path / "base", reference=True)
    pool = draw_prefix_pool(policy, config, run_seed=0, on_advance=None)
    reward = build_reward(config.reward)
    starts = build_starts(config, policy, reward=lambda: reward, pool=pool)
    trainer = Trainer(policy, config, run_seed=0)
    shaping = build_reward(config.shaping.reward) if config.shaping else None
    records = [trainer.train(epoch, starts, reward, shaping=shaping) for epoch in range(4)]
    means = [record.shaping_mean if shaped else record.reward_mean for record in records]
    assert {record.reward_mean for record in records} == {0.0} if shaped else records[0].shaping_mean is None
    assert means[-1] > means[0] + 0.05, means
