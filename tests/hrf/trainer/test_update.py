"""The update: the scale of its gradient against a closed form, its trust region, its bookkeeping."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from hrf.config import Update
from hrf.core.schedule import build_schedule
from hrf.errors import NumericalError
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer import update as update_module
from hrf.trainer.objectives import Surrogate
from hrf.trainer.rollout import Batch, rollout
from hrf.trainer.update import Updater, learning_rate
from tests.hrf.toys import LINEAR_ALPHA_BARS, LinearChain, chain_coefficients, small_policy, small_unet

NUM_STEPS = 6
THETA = torch.tensor([0.3, -0.2, 0.1, 0.4, -0.3, 0.2])
#: Settings under which the surrogate's gradient is the plain policy gradient.
PLAIN = {
    "learning_rate": 1e-30,
    "clip_range": 1e3,
    "advantage_clip": 1e9,
    "scale_trust_region": False,
    "max_grad_norm": 1e9,
    "minibatch": 10**6,
    # The first update goes step by step to measure norms; the second one, whose gradient is read, in full microbatches.
    "inner_epochs": 2,
    "microbatch": 10**6,
    "log_prob_reduction": "sum",
    "weight_decay": 0.0,
}


def chain_policy() -> DiffusionPolicy:
    schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=NUM_STEPS)
    chain = LinearChain(schedule, THETA)
    return DiffusionPolicy(
        denoiser=chain, schedule=schedule, prediction="epsilon", clip_range=None, sample_shape=(1, 1, 1)
    )


def chain_rollout(policy, starts, seed, **options):
    streams = [stream(seed, Purpose.BRANCH, 0, i, 0) for i in range(len(starts))]
    batch = replace(Batch.from_noise(policy, streams), steps=starts)
    groups = torch.zeros(len(starts), dtype=torch.int64)
    return rollout(policy, batch, groups, batch_size=4096, reduction="sum", **options)


def gradient_of(policy, trajectories, advantages, **changes) -> torch.Tensor:
    updater = Updater(policy, Update(**{**PLAIN, **changes}))
    updater.run(trajectories, advantages, run_seed=0, epoch=0)
    return policy.denoiser.theta.grad.clone().double()


def exact_gradient(policy, start: int, reward: str) -> torch.Tensor:
    """-dE[r(x_K)]/dtheta of an episode from x_start ~ N(0, 1), for r = x_K or r = x_K^2, written out by hand."""
    a, b = chain_coefficients(policy.schedule)
    sensitivity = torch.zeros(NUM_STEPS, dtype=torch.float64)
    mean = 0.0
    for k in range(start, NUM_STEPS):
        mean = float(a[k]) * mean + float(b[k] * THETA[k])
        sensitivity[k] = b[k] * a[k + 1 :].prod()
    gradient = -sensitivity * (1.0 if reward == "linear" else 2 * mean)
    gradient[policy.schedule.num_trained_steps :] = 0
    return gradient


@functools.cache
def measured_gradients(start: int, reward: str, repeats: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    gradients = []
    for seed in range(repeats):
        policy = chain_policy()
        trajectories, samples = chain_rollout(policy, torch.full((400,), start), seed)
        x = samples.flatten()
        rewards = x if reward == "linear" else x**2
        gradients.append(gradient_of(policy, trajectories, rewards - rewards.mean()))
    stacked = torch.stack(gradients)
    return stacked.mean(0), stacked.std(0) / math.sqrt(repeats)


@pytest.mark.parametrize("reward", ["linear", "quadratic"])
@pytest.mark.parametrize("start", [0, 2])
def test_the_gradient_of_a_chain_is_that_of_its_closed_form(reward, start):
    """Trap 1. Kills: a wrong sigma, a mean over pairs for the sum over steps, an off-by-one at the start step."""
    mean, error = measured_gradients(start, reward)

    exact = exact_gradient(chain_policy(), start, reward)
    assert (mean[:start] == 0).all()
    trained = slice(start, chain_policy().schedule.num_trained_steps)
    # The baseline is the sample mean of the 400 rewards, which shrinks the gradient by 1/400.
    shrunk = exact[trained] * (1 - 1 / 400)
    assert ((mean[trained] - shrunk).abs() < 3 * error[trained] + 1e-12).all(), (mean, exact, error)


def test_the_closed_form_catches_a_gradient_of_the_wrong_scale():
    """The mutant: a mean over steps for the sum has a ratio of exactly 1, and a fraction of the scale."""
    mean, error = measured_gradients(2, "linear")

    exact = exact_gradient(chain_policy(), 2, "linear")
    num_tail_steps = chain_policy().schedule.num_trained_steps - 2
    mutant = mean / num_tail_steps
    trained = slice(2, 2 + num_tail_steps)
    assert ((mutant[trained] - exact[trained]).abs() > 3 * error[trained]).any()


def test_the_gradient_does_not_depend_on_the_microbatch():
    policy = chain_policy()
    trajectories, samples = chain_rollout(policy, torch.tensor([0, 1, 3, 2, 0]), seed=0)
    advantages = samples.flatten()

    whole, parts = (gradient_of(policy, trajectories, advantages, microbatch=size) for size in (100, 3))

    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


def unet_case(**changes):
    policy = small_policy()
    streams = [stream(0, Purpose.BRANCH, 0, i, 0) for i in range(6)]
    batch = replace(Batch.from_noise(policy, streams), steps=torch.tensor([0, 1, 1, 2, 0, 3]))
    trajectories, _ = rollout(policy, batch, torch.zeros(6, dtype=torch.int64), batch_size=4, reduction="mean")
    settings = Update(**{"learning_rate": 1e-3, "minibatch": 6, "microbatch": 4, **changes})
    return Updater(policy, settings), trajectories, torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0])


def test_the_first_inner_step_has_ratio_one_and_the_second_has_not():
    """Trap 2."""
    updater, trajectories, advantages = unet_case(inner_epochs=2)

    first, second = updater.run(trajectories, advantages, run_seed=0, epoch=0)[0]

    assert first.ratio_mean == pytest.approx(1.0, abs=1e-6)
    # A difference of numbers near 1, each rounded by up to 6e-8.
    assert first.approx_kl == pytest.approx(0.0, abs=6e-8)
    assert abs(second.ratio_max - 1.0) > 1e-5
    assert second.approx_kl > first.approx_kl


def test_an_update_moves_the_weights_that_sample():
    """Trap 8."""
    updater, trajectories, advantages = unet_case()
    before = {name: value.clone() for name, value in updater.policy.denoiser.state_dict().items()}

    updater.run(trajectories, advantages, run_seed=0, epoch=0)

    after = updater.policy.denoiser.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    reference = updater.policy.reference.state_dict()
    assert all(torch.equal(before[name], reference[name]) for name in before)


def test_the_weights_that_sample_are_those_that_are_trained_and_there_are_some():
    """Trap 8. Kills: a copy of the denoiser that is trained while another one samples, an adapter without weights."""
    policy = small_policy()
    (group,) = Updater(policy, Update()).optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in policy.denoiser.parameters()]
    with pytest.raises(ValueError, match="empty parameter list"):
        Updater(replace(policy, denoiser=policy.reference), Update())


def test_every_trained_step_and_branch_costs_one_forward_and_one_backward():
    """Trap 6."""
    updater, trajectories, advantages = unet_case()
    updater.policy.denoiser.seen.clear()

    updater.run(trajectories, advantages, run_seed=0, epoch=0)

    trained = updater.policy.schedule.num_trained_steps
    assert len(updater.policy.denoiser.seen) == int((trained - trajectories.start_steps).sum())


def test_sampling_and_training_see_the_same_function_also_with_dropout_in_the_model():
    """Trap 4. Kills: a denoiser put into training mode, whose dropout moves the ratio."""
    policy = small_policy()
    object.__setattr__(policy, "denoiser", small_unet(dropout=0.5))
    streams = [stream(0, Purpose.BRANCH, 0, i, 0) for i in range(4)]
    batch = Batch.from_noise(policy, streams)
    trajectories, _ = rollout(policy, batch, torch.zeros(4, dtype=torch.int64), batch_size=4, reduction="mean")
    settings = Update(minibatch=4)
    updater = Updater(policy, settings)

    (metrics,), _ = updater.run(trajectories, torch.tensor([1.0, -1, 1, -1]), run_seed=0, epoch=0)

    assert metrics.ratio_max == pytest.approx(1.0, abs=1e-5)


def test_the_gradient_norm_of_every_trained_step_is_measured_in_the_first_update():
    """Each step's own norm, computed here from that step's pairs alone."""
    updater, trajectories, advantages = unet_case(max_grad_norm=1e9, learning_rate=1e-30)

    _, norms = updater.run(trajectories, advantages, run_seed=0, epoch=0)

    assert sorted(norms) == [0, 1, 2, 3]
    objective = Surrogate(updater.policy, updater.settings, trajectories, advantages)
    pairs = trajectories.pairs(torch.arange(6))
    for step, norm in norms.items():
        updater.optimizer.zero_grad()
        updater._backward(objective, pairs.select(pairs.step == step), 6)
        alone = torch.nn.utils.get_total_norm([p.grad for p in updater.policy.denoiser.parameters()])
        assert norm == pytest.approx(float(alone), rel=1e-4)


def test_steps_are_measured_in_every_tenth_epoch_and_that_moves_no_bit_of_the_weights(monkeypatch):
    """Kills: an epoch whose pairs are taken together otherwise where it is not measured."""

    def run(epoch: int):
        updater, trajectories, advantages = unet_case(inner_epochs=2)
        _, norms = updater.run(trajectories, advantages, run_seed=0, epoch=epoch)
        return norms, torch.cat([p.detach().flatten() for p in updater.policy.denoiser.parameters()])

    found = {epoch: run(epoch) for epoch in (0, 1, 9, 10)}
    assert [epoch for epoch, (norms, _) in found.items() if norms] == [0, 10]
    unmeasured = found[1][1]
    monkeypatch.setattr(update_module, "STEPS_MEASURED_EVERY", 1)
    norms, measured = run(1)
    assert norms
    assert torch.equal(measured, unmeasured)


def test_a_later_start_has_a_tighter_trust_region():
    """Ratios of 1 + 1e-3 are inside a clip range of 1.5e-3, and outside it for late starts once rho scales it."""
    updater, trajectories, advantages = unet_case(clip_range=1.5e-3)
    shifted = trajectories.log_probs - math.log(1 + 1e-3)
    moved = type(trajectories)(**{**trajectories.__dict__, "log_probs": shifted})

    scaled = updater.run(moved, advantages, run_seed=0, epoch=0)[0][0].clip_fraction
    unscaled_updater, *_ = unet_case(clip_range=1.5e-3, scale_trust_region=False)
    unscaled = unscaled_updater.run(moved, advantages, run_seed=0, epoch=0)[0][0].clip_fraction

    # rho = (6 - k) / 6: starts at 0 and 1 keep 1e-3 inside (1.5e-3, 1.25e-3), starts at 2 and 3 don't (1e-3, 0.75e-3).
    lengths = {0: 4, 1: 3, 2: 2, 3: 1}
    outside = sum(lengths[k] for k in (2, 3)) / sum(lengths[k] for k in (0, 1, 1, 2, 0, 3))
    assert unscaled == 0.0
    assert scaled == pytest.approx(outside, abs=lengths[2] / 14)
    assert scaled > 0


def test_the_trust_region_of_divergence_is_that_of_the_chains_closed_form():
    """A step's mean moves by b_k dtheta_k, so all is known by hand: divergences, which pairs are dropped, the gradient.

    Kills: a divergence without its 2 s^2, means of another step, a limit that the tail fraction doesn't scale.
    """
    policy, starts, limit = chain_policy(), torch.tensor([0, 0, 1, 2, 3, 3]), 2e-3
    trajectories, _ = chain_rollout(policy, starts, seed=0, keep_means=True)
    advantages = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.5, -0.5])
    moved = torch.tensor([0.013, -0.035, 0.025, -0.023, 0.0, 0.0])
    a, b = chain_coefficients(policy.schedule)
    stds = policy.schedule.stds
    with torch.no_grad():
        policy.denoiser.theta.add_(moved)
    settings = {**PLAIN, "trust_region": "divergence", "divergence_limit": limit, "scale_trust_region": True}
    updater = Updater(policy, Update(**{**settings, "inner_epochs": 1}))
    (metrics,), _ = updater.run(trajectories, advantages, run_seed=0, epoch=0)

    pairs = trajectories.pairs(torch.arange(6))
    divergences, far, dropped, without_scale = [], [], [], []
    gradient = torch.zeros(NUM_STEPS, dtype=torch.float64)
    columns = (pairs.branch.tolist(), pairs.step.tolist(), pairs.state_index.tolist())
    for branch, step, place in zip(*columns, strict=True):
        state, following = trajectories.states[place].double(), trajectories.states[place + 1].double()
        b_k, s = float(b[step]), float(stds[step])
        old = a[step] * state + b_k * THETA[step]
        new = old + b_k * moved[step]
        log_ratio = float(((following - old) ** 2 - (following - new) ** 2) / (2 * s**2))
        advantage, rho = float(advantages[branch]), (NUM_STEPS - int(starts[branch])) / NUM_STEPS
        divergences.append((b_k * float(moved[step])) ** 2 / (2 * s**2))
        far.append(divergences[-1] > rho * limit)
        dropped.append(far[-1] and advantage * log_ratio > 0)
        without_scale.append(divergences[-1] > limit and advantage * log_ratio > 0)
        if not dropped[-1]:
            gradient[step] -= advantage * math.exp(log_ratio) * float(following - new) / s**2 * b_k / 6
    assert metrics.divergence == pytest.approx(sum(divergences) / len(pairs), rel=1e-4)
    assert metrics.dropped_fraction == pytest.approx(sum(dropped) / len(pairs))
    assert metrics.clip_fraction is None
    torch.testing.assert_close(policy.denoiser.theta.grad.double(), gradient, rtol=1e-3, atol=1e-5)
    # What can be told apart is there.
    assert 0 < sum(without_scale) < sum(dropped) < sum(far) < len(pairs)


def test_a_trust_region_of_divergence_without_means_is_refused():
    updater, trajectories, advantages = unet_case(trust_region="divergence")
    with pytest.raises(ValueError, match="means"):
        updater.run(trajectories, advantages, run_seed=0, epoch=0)


def test_minibatches_go_across_groups_and_use_every_branch_once():
    updater, trajectories, advantages = unet_case(minibatch=4)

    metrics, _ = updater.run(trajectories, advantages, run_seed=0, epoch=0)

    assert [m.update for m in metrics] == [0, 1]
    assert updater.num_updates == 2


def test_the_average_follows_the_weights():
    updater, trajectories, advantages = unet_case(ema_decay=0.75)
    policy = updater.policy
    before = {name: value.detach().clone() for name, value in policy.denoiser.named_parameters()}
    updater.average = {name: value.clone() for name, value in before.items()}

    updater.run(trajectories, advantages, run_seed=0, epoch=0)

    for name, parameter in policy.denoiser.named_parameters():
        torch.testing.assert_close(updater.average[name], 0.75 * before[name] + 0.25 * parameter.detach())


def test_a_kl_penalty_pulls_towards_the_reference():
    """With zero advantages the gradient is the penalty's alone: the KL falls. Kills: its sign."""
    updater, trajectories, _ = unet_case(kl_weight=1.0, inner_epochs=8, learning_rate=1e-3, max_grad_norm=1e9)
    with torch.no_grad():
        for parameter in updater.policy.denoiser.conv_out.parameters():
            parameter.add_(0.05)

    metrics, _ = updater.run(trajectories, torch.zeros(6), run_seed=0, epoch=0)

    assert metrics[0].kl_to_reference > 0
    assert metrics[-1].kl_to_reference < 0.7 * metrics[0].kl_to_reference


def test_an_update_that_is_not_finite_stops_the_run_and_leaves_the_weights_alone():
    updater, trajectories, advantages = unet_case()
    before = {name: value.clone() for name, value in updater.policy.denoiser.state_dict().items()}
    advantages[2] = float("inf")
    broken = type(trajectories)(**{**trajectories.__dict__, "log_probs": trajectories.log_probs * float("nan")})

    with pytest.raises(NumericalError, match="epoch=3, update=0"):
        updater.run(broken, advantages, run_seed=0, epoch=3)

    after = updater.policy.denoiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_rate_warms_up_linearly_and_falls_to_zero_along_a_cosine():
    settings = Update(learning_rate=2.0, rate_schedule="warmup_cosine", warmup_updates=4, total_updates=12)

    rates = [learning_rate(settings, update) for update in range(13)]

    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)
    assert rates[8] == pytest.approx(1.0)
    assert rates[12] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(Update(learning_rate=3.0), 1000) == 3.0
