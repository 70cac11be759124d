"""Stable Diffusion 3 as a policy: its own pipeline's embeddings, steps and sizes; and what is refused."""

import shutil

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from hrf.core.schedule import gaussian_log_prob
from hrf.errors import ArtifactError, ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.conditioning import PromptEmbeddings
from hrf.policies.folders import noise_schedule
from hrf.policies.kinds import kind_of, normalise_base, picture_size
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf import tiny_stable_diffusion_3 as tiny_3
from tests.hrf.policies.kinds.cases import CASES, STEPS, drawn, noise

SD3 = CASES["sd3"]
GUIDANCE = SD3.model["guidance_scale"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_3.save(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    return SD3.base(model, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("with_t5", [True, False])
def test_prompts_embed_as_the_pipeline_embeds_them_alone_and_among_others(tmp_path, with_t5):
    """Kills: the last hidden state for the one before it, the encoders swapped, zeros before the tokens, T5 first."""
    model = tiny_3.save(tmp_path / "model", with_t5=with_t5)
    (base := tmp_path / "base").mkdir()
    normalise_base(model, base)
    # A third encoder that is not there has to be said.
    left_out = {} if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(base, **left_out)
    texts = tiny_3.PROMPTS[:3]
    with torch.no_grad():
        tokens, negative, pooled, negative_pooled = pipeline.encode_prompt(
            list(texts), None, None, negative_prompt=["not that"] * 3
        )

    ours = kind_of(base).embed_prompts(base, texts, negative="not that")
    alone = kind_of(base).embed_prompts(base, texts[2:], negative="")

    for mine, theirs in (
        (ours.prompts, tokens),
        (ours.negative, negative[0]),
        (ours.pooled, pooled),
        (ours.negative_pooled, negative_pooled[0]),
    ):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(alone.prompts[0], ours.prompts[2])
    assert torch.equal(alone.pooled[0], ours.pooled[2])
    assert bool(ours.prompts[:, tiny.MAX_TOKENS :].any()) == with_t5
    ours.save(tmp_path)
    assert torch.equal(PromptEmbeddings.load(tmp_path).negative_pooled, ours.negative_pooled)


def test_mean_and_log_prob_of_a_guided_step_are_those_of_diffusers(base):
    """At every step, each sample with its own prompt. Oracle: `stochastic_sampling`, a fresh sigma of noise.

    Kills: timesteps of step and not of sigma, the negative prompt's pooled text for the prompt's, guidance the wrong
    way round.
    """
    policy = SD3.policy(base)
    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, stochastic_sampling=True)
    scheduler.set_timesteps(STEPS)
    prompts = torch.tensor([4, 0, 2])
    texts = [tiny_3.PROMPTS[prompt] for prompt in prompts]
    with torch.no_grad():
        tokens, negative, pooled, negative_pooled = pipeline.encode_prompt(texts, None, None)
    states = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    for k, timestep in enumerate(scheduler.timesteps):
        with torch.no_grad():
            mean, std = policy.transition(states, torch.full((3,), k), prompts=prompts)
            towards, away = (
                pipeline.transformer(states, words, whole, timestep.expand(3)).sample
                for words, whole in ((tokens, pooled), (negative, negative_pooled))
            )
        velocity = away + GUIDANCE * (towards - away)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(k))
        following = scheduler.step(velocity, timestep, states, generator=torch.Generator().manual_seed(k)).prev_sample
        torch.testing.assert_close(mean + std * noise, following, rtol=1e-5, atol=1e-5)
        if k < STEPS - 1:
            sigma, after = scheduler.sigmas[k], scheduler.sigmas[k + 1]
            normal = torch.distributions.Normal((1 - after) * (states - sigma * velocity), after)
            expected = normal.log_prob(following).mean((1, 2, 3))
            ours = gaussian_log_prob(following, mean, std, "mean")
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        states = following


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_and_a_picture_size_are_the_pipelines(tmp_path, kind):
    """Of 9 patches, between the 4 and the 64 that the scheduler's line goes through: latents within 1e-5 of their size.

    Kills: latents counted in place of patches, the size that the transformer's configuration has, an exponential shift
    where a linear one is told.
    """
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "time_shift_type": kind}
    model = tiny_3.save(tmp_path / "model", scheduler=dynamic)
    base = SD3.base(model, tmp_path / "base")
    policy, pipeline = SD3.policy(base, model={"picture_size": 12}), SD3.pipeline(base)
    ours = drawn(policy, [1, 3])
    theirs = pipeline(
        [tiny_3.PROMPTS[1], tiny_3.PROMPTS[3]],
        height=12,
        width=12,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=noise(2),
        output_type="latent",
    ).images

    assert theirs.shape == (2, 4, 6, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert torch.equal(policy.schedule.levels, pipeline.scheduler.sigmas.double())


def test_pictures_are_as_large_as_the_models_files_say(base):
    assert picture_size(Architecture.of(base), SD3.config()) == (16, 16)


@pytest.mark.parametrize(("size", "rule"), [(14, "multiple of 4"), (36, "at most 32")])
def test_a_picture_size_that_is_no_number_of_patches_or_too_large_is_refused(base, size, rule):
    with pytest.raises(ConfigError, match=rf"model.picture_size.*{rule}"):
        SD3.policy(base, model={"picture_size": size})


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(base):
    with pytest.raises(ConfigError, match=r"at most 24 tokens.*the text encoder reads no further"):
        kind_of(base).embed_prompts(base, ["a very long winded prompt indeed"], negative="")


def _narrow_clip(folder):
    shutil.rmtree(folder / "text_encoder_2")
    tiny_3.clip(20, 10).save_pretrained(folder / "text_encoder_2")


def _no_t5(folder):
    shutil.rmtree(folder / "text_encoder_3")


def _other_size(folder):
    tiny.edit_json(folder / "transformer" / "config.json", sample_size=7)


def _too_large(folder):
    tiny.edit_json(folder / "transformer" / "config.json", sample_size=18)


def _control(folder):
    tiny.edit_json(folder / "model_index.json", controlnet=["diffusers", "SD3ControlNetModel"])


def _betas(folder):
    DDPMScheduler().save_pretrained(folder / "scheduler")


def _larger_tokenizer(folder):
    words = tiny.tokenizer()
    words.add_tokens(["<my-concept>"])
    words.save_pretrained(folder / "tokenizer_2")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_narrow_clip, ConfigError, r"pooled widths \(18, 20\)"),
        (_no_t5, ArtifactError, "text_encoder_3"),
        (_other_size, ConfigError, "multiple of patch_size 2 and at most 16"),
        (_too_large, ConfigError, "at most 16"),
        (_control, ConfigError, "controlnet"),
        (_betas, ConfigError, "as the model is a flow"),
        (_larger_tokenizer, ConfigError, "text_encoder_2's 54 tokens at most"),
    ],
)
def test_models_of_another_class_and_broken_ones_are_refused(model, tmp_path, damage, error, message):
    shutil.copytree(model, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    (tmp_path / "target").mkdir()
    with pytest.raises(error, match=message):
        normalise_base(tmp_path / "damaged", tmp_path / "target")


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


class TestSchedule:
    def test_its_sigmas_and_timesteps_are_its_own_schedulers(self):
        """Kills: sigmas by a formula, which shifts the last one once; timesteps cut to whole numbers."""
        own = FlowMatchEulerDiscreteScheduler(shift=3.0)
        own.set_timesteps(10)
        schedule = noise_schedule(FLOW, SD3.config(sampler={"steps": 10, "eta": 0.8}))
        assert torch.equal(schedule.levels, own.sigmas.double())
        assert torch.equal(schedule.timesteps, own.timesteps)
        assert schedule.sampler == "cps"

    @pytest.mark.parametrize(
        "setting",
        [
            "shift_terminal",
            "invert_sigmas",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "stochastic_sampling",
        ],
    )
    def test_a_setting_that_makes_another_function_is_refused(self, setting):
        with pytest.raises(ConfigError, match=f"{setting}: True"):
            noise_schedule({**FLOW, setting: True}, SD3.config())

    @pytest.mark.parametrize(
        ("scheduler", "sampler", "field"),
        [
            (FLOW, {"spacing": "trailing"}, "sampler.spacing"),
            (FLOW, {"min_std": 0.99}, "sampler.min_std"),
            # Its noise grows from step to step: those that have enough of it are not the first ones.
            (FLOW, {"kind": "dance_sde", "eta": 0.3, "min_std": 0.1}, "sampler"),
            ({"_class_name": "DDPMScheduler"}, {"kind": "flow_sde"}, "sampler.kind"),
            ({"_class_name": "DDPMScheduler"}, {"kind": "dance_sde"}, "sampler.kind"),
            ({**FLOW, "time_shift_type": "cubic"}, {}, "model.source"),
        ],
    )
    def test_samplers_that_do_not_fit_the_model_are_refused(self, scheduler, sampler, field):
        with pytest.raises(ConfigError) as caught:
            noise_schedule(scheduler, SD3.config(sampler=sampler))
        assert caught.value.field == field

    @pytest.mark.parametrize("kind", ["ancestral", "cps"])
    def test_other_models_know_both_samplers_that_keep_the_noise(self, kind):
        schedule = noise_schedule({"_class_name": "DDPMScheduler"}, SD3.config(sampler={"kind": kind}))
        assert (schedule.process, schedule.sampler) == ("variance_preserving", kind)
