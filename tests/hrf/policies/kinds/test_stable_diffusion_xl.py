"""Stable Diffusion XL as a policy: its own pipeline's embeddings, steps and pictures; and what is refused."""

import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from hrf.config import Config
from hrf.core.schedule import gaussian_log_prob
from hrf.errors import ConfigError
from hrf.images import to_images
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import kind_of, normalise_base
from hrf.policies.strength import fold_strength
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf import tiny_stable_diffusion_xl as tiny_xl

GUIDANCE, STEPS = 3.0, 6
LORA = {"policy": {"lora": {"rank": 2, "alpha": 6}}}


def config_for(**changes) -> Config:
    values = {
        "model": {"source": "x", "guidance_scale": GUIDANCE, "batch_size": 4},
        "prompts": {"texts": list(tiny_xl.PROMPTS)},
        "sampler": {"steps": STEPS},
    }
    return Config.from_mapping(values).with_changes(changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_xl.save(tmp_path_factory.mktemp("model") / "sdxl")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    normalise_base(model, folder)
    kind_of(folder).embed_prompts(folder, tiny_xl.PROMPTS, negative="").save(folder)
    return folder


@pytest.mark.parametrize("name", ["vae_1_0", "vae_decoder", "vae_encoder"])
def test_the_autoencoders_that_the_published_repository_has_besides_are_left_out(model, tmp_path, name):
    """Its index names `vae` alone, and so diffusers draws with that one."""
    shutil.copytree(model, tmp_path / "published")
    shutil.copytree(model / "vae", tmp_path / "published" / name)
    (target := tmp_path / "base").mkdir()

    normalise_base(tmp_path / "published", target)

    assert not (target / name).exists()


def policy_for(base, weights=None, **changes) -> DiffusionPolicy:
    return load_policy(config_for(**changes), base, weights or base, prompts=base)


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
    policy = policy_for(base)
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


@pytest.mark.parametrize(("split", "strength"), [(0.5, 1.0), (0.0, 0.5)])
def test_load_lora_weights_of_plain_diffusers_gives_the_same_pictures(base, tmp_path, split, strength):
    """The same noise in every step, within 1e-4 of the pictures' range. Alpha is not rank here. Kills: a file without
    its alpha, layers renamed wrongly (which diffusers drops), strength that scales A or nothing."""
    changes = {**LORA["policy"], "split": split}
    fresh, saved, at = (tmp_path / name for name in ("fresh", "saved", "at"))
    for folder in (fresh, saved, at):
        folder.mkdir()
    save_fresh_policy(fresh, config_for(**LORA), base, {"switch_step": 0}, run_seed=0)
    tuned = policy_for(base, fresh, policy=changes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_policy(saved, tuned.denoiser, base, {"switch_step": tuned.switch_step}, None, weights_of(config_for(**LORA)))
    fold_strength(saved, base, at, strength)
    asked = [1, 3, 0]

    def ours(policy: DiffusionPolicy):
        streams = [stream(0, Purpose.EVALUATION, index) for index in range(3)]
        samples = denoise(policy, Batch.from_noise(policy, streams, torch.tensor(asked)), batch_size=4)
        return to_images(policy.decode(samples).numpy())

    policy = policy_for(base, at, policy=changes)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(at)

    def after_step(pipeline, step, timestep, values):
        if step + 1 == policy.switch_step:
            pipeline.enable_lora()
        return values

    if policy.switch_step:
        pipeline.disable_lora()
    theirs = pipeline(
        [tiny_xl.PROMPTS[prompt] for prompt in asked],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        eta=1.0,
        generator=[stream(0, Purpose.EVALUATION, index) for index in range(3)],
        callback_on_step_end=after_step,
        output_type="np",
    ).images.transpose(0, 3, 1, 2)

    assert abs(ours(policy) - theirs).max() < 1e-4
    assert abs(ours(policy_for(base)) - theirs).max() > 0.01


def test_full_fine_tuning_saves_a_unet_for_plain_diffusers_and_a_base_holds_what_its_source_held(model, base, tmp_path):
    policy = policy_for(base)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.01)
    save_policy(tmp_path, policy.denoiser, base, {"switch_step": 0}, None)

    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), policy.denoiser.parameters(), strict=True))
    assert policy_for(base, tmp_path).sample_shape == (4, 8, 8)
    theirs, ours = (StableDiffusionXLPipeline.from_pretrained(folder) for folder in (model, base))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


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
