"""The degenerate case is DDPO: an independent short DDPO on diffusers' own classes, in float64."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from hrf.config import Config
from hrf.policies.folders import load_policy, save_fresh_policy
from hrf.policies.kinds import normalise_base
from hrf.policies.kinds.stable_diffusion import StableDiffusion
from hrf.policies.prompts import resolve_prompts
from hrf.trainer.advantages import advantages_of, build_statistics
from hrf.trainer.starts import build_starts
from hrf.trainer.trainer import sample_episodes
from hrf.trainer.update import Updater
from tests.hrf import tiny_stable_diffusion as tiny

STEPS, EPISODES, GUIDANCE, CLIP = 5, 6, 2.5, 1e-3


@pytest.fixture
def float64():
    """What has no dtype of its own is float64; the mechanism under test is the same."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def config_for(guidance: bool) -> Config:
    return Config.from_mapping(
        {
            "model": {"source": "x", "guidance_scale": GUIDANCE, "batch_size": EPISODES},
            "prompts": {"texts": list(tiny.PROMPTS), "statistics_buffer": 4, "statistics_min_count": 2},
            "policy": {"lora": {"rank": 2, "alpha": 6}},
            "sampler": {"steps": STEPS, "min_std": 0.0},
            "starts": {"kind": "noise"},
            "rollout": {"roots": EPISODES, "branches": 1},
            "update": {
                "minibatch": EPISODES,
                "microbatch": 7,
                "clip_range": CLIP,
                "advantage_clip": 1.2,
                "max_grad_norm": 1e9,
                "guidance": guidance,
                # So that the weights after it are those before it, but for a rounding.
                "learning_rate": 1e-13,
            },
        }
    )


def ddpo(pipeline, states, prompts, rewards, *, guidance):
    """DDPO on whole trajectories [K + 1, B, ...]: loss, with a graph, and the sampling policy's log-probs.

    Written from the papers (DDPO, DDIM eqs. 12 and 16, PPO) with diffusers' scheduler for every number.
    """
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(STEPS)
    wanted, unwanted = pipeline.encode_prompt(list(prompts), "cpu", 1, True, [""] * len(prompts))
    wanted, unwanted = wanted.detach().double(), unwanted.detach().double()
    log_probs = []
    for k, timestep in enumerate(scheduler.timesteps):
        output = pipeline.unet(states[k], timestep, encoder_hidden_states=wanted).sample
        if guidance:
            away = pipeline.unet(states[k], timestep, encoder_hidden_states=unwanted).sample
            output = away + GUIDANCE * (output - away)
        mean = scheduler.step(
            output, timestep, states[k], eta=1.0, variance_noise=torch.zeros_like(states[k])
        ).prev_sample
        std = scheduler._get_variance(timestep, timestep - 1000 // STEPS).sqrt()
        log_probs.append(torch.distributions.Normal(mean, std).log_prob(states[k + 1]).mean((1, 2, 3)))
    advantages = np.zeros(len(rewards))
    for prompt in set(prompts):
        own = np.array([reward for reward, asked in zip(rewards, prompts, strict=True) if asked == prompt])
        known = own[-4:] if len(own) >= 2 else np.array(rewards)
        advantages[[asked == prompt for asked in prompts]] = (own - known.mean()) / (known.std() + 1e-8)
    advantages = torch.tensor(advantages, dtype=torch.float32).double().clamp(-1.2, 1.2)

    def loss(old_log_probs):
        total = 0.0
        for new, old in zip(log_probs, old_log_probs, strict=True):
            ratio = torch.exp(new - old)
            unclipped = -advantages * ratio
            clipped = -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
            total = total + torch.maximum(unclipped, clipped).mean()
        return total

    return loss, [value.detach() for value in log_probs]


@pytest.mark.parametrize("guidance", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("shift", [0.0, 2e-4], ids=["ratio 1", "ratio not 1"])
def test_noise_starts_and_one_group_are_ddpo_loss_and_gradients(tmp_path, float64, guidance, shift):
    """Same trajectories, rewards and weights; both on and off the sampling policy's weights.

    Kills: a mean over steps for the sum, a trust region that is scaled for noise starts, advantages over the epoch
    where a prompt's own are due, guidance in sampling but not in training, an adapter without its alpha.
    """
    config = config_for(guidance)
    model = tiny.save(tmp_path / "model")
    for name in ("base", "policy"):
        (tmp_path / name).mkdir()
    base = tmp_path / "base"
    torch.set_default_dtype(torch.float32)
    normalise_base(model, base)
    table = resolve_prompts(config.prompts, seed=0)
    StableDiffusion().embed_prompts(base, table.texts, negative="").save(base)
    save_fresh_policy(tmp_path / "policy", config, base, {}, run_seed=0)
    policy = load_policy(config, base, tmp_path / "policy", prompts=base)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "policy")
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(3)
    trained = [p for p in policy.denoiser.double().parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    starts = build_starts(config, policy, reward=lambda: None, pool=None, prompts=table)
    episodes = sample_episodes(policy, starts, config, run_seed=0, epoch=0, texts=table.texts)
    tails = episodes.trajectories
    rewards = np.random.default_rng(0).normal(size=EPISODES)
    advantages = advantages_of(rewards, tails, config, statistics=build_statistics(config), texts=table.texts)
    old_states = tails.states.reshape(EPISODES, STEPS + 1, 4, 8, 8).transpose(0, 1)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(shift * torch.randn(parameter.shape, generator=generator))
    updater = Updater(policy, config.update)
    metrics, _ = updater.run(tails, advantages, run_seed=0, epoch=0)

    theirs = dict(pipeline.unet.double().named_parameters())
    pairs = {
        name: (value, theirs[name.replace(".default.", f".{pipeline.get_active_adapters()[0]}.")])
        for name, value in policy.denoiser.named_parameters()
        if value.requires_grad
    }
    with torch.no_grad():
        for ours, other in pairs.values():
            other.copy_(ours)
    for _, other in pairs.values():
        other.requires_grad_(True)
    prompts = episodes.finished.prompts
    loss_of, new = ddpo(pipeline, old_states, prompts, rewards, guidance=guidance)
    old = list(tails.log_probs.reshape(EPISODES, STEPS).T)
    loss = loss_of(old)
    loss.backward()

    assert len({*prompts}) < EPISODES  # Some prompt has statistics of its own.
    assert metrics[0].loss == pytest.approx(float(loss.detach()), rel=1e-9, abs=1e-12)
    ratio = torch.stack([(a - b).exp() for a, b in zip(new, old, strict=True)])
    assert (float((ratio - 1).abs().max()) > 1e-5) == (shift > 0)
    largest = max(float(other.grad.abs().max()) for _, other in pairs.values())
    for ours, other in pairs.values():
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-6, atol=1e-9 * largest)
