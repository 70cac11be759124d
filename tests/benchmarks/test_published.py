"""The published epoch and ours compute the same numbers, so that their times are comparable."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from benchmarks.published import PARTS, PublishedEpoch, measure, print_clocks
from hrf.config import Config, resolve
from hrf.core.schedule import build_schedule
from hrf.rewards import CheckedReward
from hrf.seeds import Purpose, stream
from hrf.trainer.advantages import advantages_of
from hrf.trainer.rollout import Batch, rollout
from hrf.trainer.update import Updater
from tests.hrf.toys import LINEAR_ALPHA_BARS, small_policy, small_unet

STEPS, FIRST, BRANCHES = 6, 2, 4


def test_a_groups_log_probs_and_gradient_are_ours():
    """On and off the weights that sampled. Kills: the step without noise trained, a mean over steps for their sum."""
    config = Config.from_mapping(
        {
            "model": {"source": "x", "batch_size": BRANCHES},
            "sampler": {"steps": STEPS, "min_std": 0.0},
            "rollout": {"roots": 1, "branches": BRANCHES},
            "update": {"minibatch": BRANCHES, "learning_rate": 1e-13, "clip_range": 1e-3, "max_grad_norm": 1e9},
        }
    )
    policy = replace(
        small_policy(STEPS),
        denoiser=small_unet(kind=UNet2DModel),
        schedule=build_schedule(LINEAR_ALPHA_BARS, num_steps=STEPS, min_std=0.0),
    )
    scheduler = DDIMScheduler(set_alpha_to_one=True)
    scheduler.set_timesteps(STEPS)
    optimizer = torch.optim.AdamW(policy.denoiser.parameters(), lr=config.update.learning_rate)
    brightness = CheckedReward(name="brightness", score=lambda images, prompts: images.mean((1, 2, 3)))
    theirs = PublishedEpoch(policy, scheduler, config, brightness, optimizer)

    def streams() -> list[torch.Generator]:
        return [stream(0, Purpose.BRANCH, 0, 0, branch) for branch in range(BRANCHES)]

    root = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    drawn = streams()
    published = theirs.denoise(theirs.renoise(root, FIRST, drawn), FIRST, drawn, eta=1.0)
    steps = torch.full((BRANCHES,), FIRST)
    batch = Batch.from_samples(policy, root.repeat(BRANCHES, 1, 1, 1), steps, streams())
    tails, samples = rollout(policy, batch, torch.zeros_like(steps), batch_size=BRANCHES, reduction="mean")

    torch.testing.assert_close(published.states[-1], samples, rtol=1e-4, atol=1e-4)
    old = torch.stack(published.log_probs[FIRST : STEPS - 1], dim=1).flatten()
    torch.testing.assert_close(old, tails.log_probs, rtol=1e-4, atol=1e-4)

    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.mul_(1.001)
    rewards = samples.mean((1, 2, 3)).double()
    theirs.update(
        replace(published, log_probs=[*published.log_probs[:FIRST], *tails.log_probs.reshape(BRANCHES, -1).T]), rewards
    )
    expected = [parameter.grad.clone() for parameter in policy.denoiser.parameters()]
    updater = Updater(policy, config.update)
    metrics, _ = updater.run(tails, advantages_of(rewards.numpy(), tails, config), run_seed=0, epoch=0)

    assert metrics[0].clip_fraction > 0
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for gradient, parameter in zip(expected, policy.denoiser.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["window", "selected"])
def test_both_epochs_ask_the_denoiser_for_the_same_samples(kind, capsys):
    """Kills: a published epoch that does more than it must, or less. HRF-D's published rule alone asks for more."""
    preset = {"window": "avatars-hrf", "selected": "avatars-hrf-d"}[kind]
    changes = {
        "model": {"batch_size": 2},
        "sampler": {"steps": 6, "min_std": 0.0},
        "rollout": {"roots": 2, "branches": 2},
        "update": {"minibatch": 2},
    }
    if kind == "window":
        changes["starts"] = {"windows": [{"fractions": [0.5, 0.6]}]}  # Step 3 alone.
    config = resolve(preset).with_changes(changes)
    clocks = measure(config, repeats=1)
    print_clocks(clocks, config)

    published, ours = clocks["published"][0], clocks["ours"][0]
    if kind == "window":
        assert published.samples == ours.samples == 2 * 6 + 4 * 3 + 4 * 2
    else:
        assert published.samples > ours.samples
        assert published.seconds["selection"] > 0
    assert sum(ours.seconds[part] for part in PARTS) == pytest.approx(ours.seconds["epoch"], rel=0.05)
    assert "published / this" in capsys.readouterr().out
