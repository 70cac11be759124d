"""Stable Diffusion XL as a policy: its own pipeline's embeddings and steps; and what is refused."""

import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

from hrf.core.schedule import gaussian_log_prob
from hrf.errors import ConfigError
from hrf.policies.kinds import kind_of, normalise_base
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf import tiny_stable_diffusion_xl as tiny_xl
from tests.hrf.policies.kinds.cases import CASES, STEPS

XL = CASES["sdxl"]
GUIDANCE = XL.model["guidance_scale"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_xl.save(tmp_path_factory.mktemp("model") / "sdxl")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    return XL.base(model, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("name", ["vae_1_0", "vae_decoder", "vae_encoder"])
def test_the_autoencoders_that_the_published_repository_has_besides_are_left_out(model, tmp_path, name):
    """Its index names `vae` alone, and so diffusers draws with that one."""
    shutil.copytree(model, tmp_path / "published")
    shutil.copytree(model / "vae", tmp_path / "published" / name)
    (target := tmp_path / "base").mkdir()

    normalise_base(tmp_path / "published", target)

    assert not (target / name).exists()


@pytest.mark.parametrize(("zeros", "negative"), [(True, ""), (True, "not that"), (False, "")])
def test_prompts_embed_as_the_pipeline_embeds_them_alone_and_among_others(tmp_path, zeros, negative):
    """Kills: the last hidden state for the one before it, the first encoder's pooled text, an empty prompt that is read
    where the model has zeros in its place, width before height."""
    (base := tmp_path / "base").mkdir()
    normalise_base(tiny_xl.save(tmp_path / "model", zeros=zeros, sample_size=(8, 10)), base)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    texts = tiny_xl.PROMPTS[:3]
    with torch.no_grad():
        tokens, away, pooled, pooled_away = pipeline.encode_prompt(
            list(texts), negative_prompt=[negative] * 3 if negative else None
        )
    sizes = pipeline._get_add_time_ids((16, 20), (0, 0), (16, 20), torch.float32, 12).expand(3, -1)

    ours = kind_of(base).embed_prompts(base, texts, negative=negative)
    alone = kind_of(base).embed_prompts(base, texts[2:], negative=negative)

    torch.testing.assert_close(ours.prompts, tokens)
    torch.testing.assert_close(ours.negative, away[0])
    torch.testing.assert_close(ours.pooled, torch.cat([pooled, sizes], dim=1))
    torch.testing.assert_close(ours.negative_pooled, torch.cat([pooled_away, sizes], dim=1)[0])
    assert torch.equal(alone.prompts[0], ours.prompts[2])
    assert bool(away.any()) != (zeros and not negative)


def test_mean_and_log_prob_of_a_guided_step_are_those_of_diffusers(base):
    """DDIMScheduler's, at every stochastic step, each sample with its own prompt. The mean within 1e-6 of the size of
    what it is made of. Kills: the negative prompt's pooled text for the prompt's, sizes for the text."""
    policy = XL.policy(base)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    scheduler.set_timesteps(STEPS)
    prompts = torch.tensor([4, 0, 2])
    with torch.no_grad():
        tokens, away, pooled, pooled_away = pipeline.encode_prompt([tiny_xl.PROMPTS[p] for p in prompts])
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(3, -1)
    states = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    for k, timestep in enumerate(scheduler.timesteps):
        with torch.no_grad():
            mean, std = policy.transition(states, torch.full((3,), k), prompts=prompts)
            wanted, unwanted = (
                pipeline.unet(
                    states,
                    timestep,
                    encoder_hidden_states=words,
                    added_cond_kwargs={"text_embeds": whole, "time_ids": sizes},
                ).sample
                for words, whole in ((tokens, pooled), (away, pooled_away))
            )
        output = unwanted + GUIDANCE * (wanted - unwanted)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(k))
        expected = scheduler.step(output, timestep, states, eta=1.0, variance_noise=torch.zeros_like(states))
        following = scheduler.step(output, timestep, states, eta=1.0, variance_noise=noise).prev_sample
        scale = max(1.0, float(expected.pred_original_sample.abs().max()))
        torch.testing.assert_close(mean, expected.prev_sample, rtol=0, atol=1e-6 * scale)
        variance = scheduler._get_variance(timestep, timestep - 1000 // STEPS)
        # The last step is without noise.
        if k < STEPS - 1:
            normal = torch.distributions.Normal(expected.prev_sample, variance.sqrt())
            log_prob = gaussian_log_prob(following, mean, std, "mean")
            torch.testing.assert_close(log_prob, normal.log_prob(following).mean((1, 2, 3)), rtol=0, atol=1e-4)
        states = following


def _distilled(folder):
    shutil.rmtree(folder / "unet")
    tiny_xl.pipeline(time_cond_proj_dim=8).unet.save_pretrained(folder / "unet")


def _refiner(folder):
    """Five sizes, and the second text encoder alone."""
    shutil.rmtree(folder / "unet")
    unet = tiny_xl.pipeline(cross_attention_dim=20, projection_class_embeddings_input_dim=12 + 5 * 8).unet
    unet.save_pretrained(folder / "unet")


def _sd15_unet(folder):
    shutil.rmtree(folder / "unet")
    tiny.pipeline().unet.save_pretrained(folder / "unet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_distilled, "time_cond_proj_dim"),
        (_refiner, r"widths \(36, 20\)"),
        (_sd15_unet, r"text_encoder_2 \(CLIPTextModelWithProjection\)"),
    ],
)
def test_models_of_another_class_are_refused(model, tmp_path, damage, message):
    shutil.copytree(model, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    (tmp_path / "target").mkdir()
    with pytest.raises(ConfigError, match=message):
        normalise_base(tmp_path / "damaged", tmp_path / "target")
