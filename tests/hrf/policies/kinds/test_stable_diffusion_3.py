"""Stable Diffusion 3 as a policy: its own pipeline's embeddings, steps, latents and pictures; and what is refused."""

import shutil

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file

from hrf.config import Config
from hrf.core.schedule import gaussian_log_prob
from hrf.errors import ArtifactError, ConfigError
from hrf.images import to_images
from hrf.policies.architecture import Architecture
from hrf.policies.conditioning import PromptEmbeddings
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, noise_schedule, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import kind_of, normalise_base, picture_size
from hrf.policies.strength import fold_strength
from hrf.seeds import Purpose, stream
from hrf.storage.names import LORA_FILE
from hrf.trainer.rollout import Batch, denoise
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf import tiny_stable_diffusion_3 as tiny_3

GUIDANCE, STEPS = 3.0, 6
LORA = {"policy": {"lora": {"rank": 2, "alpha": 6}}}


def config_for(**changes) -> Config:
    values = {
        "model": {"source": "x", "guidance_scale": GUIDANCE, "batch_size": 4},
        "prompts": {"texts": list(tiny_3.PROMPTS)},
        "sampler": {"steps": STEPS, "kind": "cps", "min_std": 0.0},
    }
    return Config.from_mapping(values).with_changes(changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_3.save(tmp_path_factory.mktemp("model") / "sd3")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    normalise_base(model, folder)
    kind_of(folder).embed_prompts(folder, tiny_3.PROMPTS, negative="").save(folder)
    return folder


@pytest.fixture
def fresh(base, tmp_path):
    """The folder of an untrained adapter."""
    (folder := tmp_path / "fresh").mkdir()
    save_fresh_policy(folder, config_for(**LORA), base, {"switch_step": 0}, run_seed=0)
    return folder


def policy_for(base, weights=None, **changes) -> DiffusionPolicy:
    return load_policy(config_for(**changes), base, weights or base, prompts=base)


def moved(policy: DiffusionPolicy, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


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
    policy = policy_for(base)
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


@pytest.mark.parametrize(("split", "strength"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5)])
def test_load_lora_weights_of_plain_diffusers_gives_the_same_pictures(base, fresh, tmp_path, split, strength):
    """The ODE from the same noise: latents within 1e-5 of their size over six guided steps, and the decoded pictures.

    Alpha is not rank here. Kills: a file without its alpha, layers renamed wrongly (which diffusers drops), a shift of
    latents that is left out, strength that scales A or nothing, an adapter that is on from a step too early.
    """
    policy_changes = {**LORA["policy"], "split": split}
    tuned = policy_for(base, fresh, policy=policy_changes)
    moved(tuned)
    saved, at = tmp_path / "saved", tmp_path / "at"
    for folder in (saved, at):
        folder.mkdir()
    save_policy(saved, tuned.denoiser, base, {"switch_step": tuned.switch_step}, None, weights_of(config_for(**LORA)))
    fold_strength(saved, base, at, strength)
    full = load_file(saved / LORA_FILE)
    for name, value in load_file(at / LORA_FILE).items():
        assert torch.equal(value, strength * full[name] if ".lora_B." in name else full[name])
    policy = policy_for(base, at, policy=policy_changes)
    asked = [1, 3, 0]
    streams = [stream(0, Purpose.EVALUATION, index) for index in range(3)]
    sampler = policy.with_schedule(policy.schedule.with_eta(0.0))
    ours = denoise(sampler, Batch.from_noise(policy, streams, torch.tensor(asked)), batch_size=4)

    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(at)

    def after_step(pipeline, step, timestep, values):
        if step + 1 == policy.switch_step:
            pipeline.enable_lora()
        return values

    def theirs(output_type):
        if policy.switch_step:
            pipeline.disable_lora()
        return pipeline(
            [tiny_3.PROMPTS[prompt] for prompt in asked],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[stream(0, Purpose.EVALUATION, index) for index in range(3)],
            callback_on_step_end=after_step,
            output_type=output_type,
        ).images

    latents = theirs("latent")
    torch.testing.assert_close(ours, latents, rtol=0, atol=1e-5 * float(latents.abs().max()))
    pictures = theirs("np").transpose(0, 3, 1, 2)
    assert abs(to_images(policy.decode(ours).numpy()) - pictures).max() < 1e-4
    assert sorted(file.name for file in saved.iterdir()) == ["policy.json", LORA_FILE]
    untuned = policy_for(base)
    plain = denoise(
        untuned.with_schedule(untuned.schedule.with_eta(0.0)),
        Batch.from_noise(policy, [stream(0, Purpose.EVALUATION, index) for index in range(3)], torch.tensor(asked)),
        batch_size=4,
    )
    assert (plain - ours).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_and_a_picture_size_are_the_pipelines(tmp_path, kind):
    """Of 9 patches, between the 4 and the 64 that the scheduler's line goes through: latents within 1e-5 of their size.

    Kills: latents counted in place of patches, the size that the transformer's configuration has, an exponential shift
    where a linear one is told.
    """
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "time_shift_type": kind}
    model = tiny_3.save(tmp_path / "model", scheduler=dynamic)
    (base := tmp_path / "base").mkdir()
    normalise_base(model, base)
    kind_of(base).embed_prompts(base, tiny_3.PROMPTS, negative="").save(base)
    policy = policy_for(base, model={"picture_size": 12})
    sampler = policy.with_schedule(policy.schedule.with_eta(0.0))
    streams = [stream(0, Purpose.EVALUATION, index) for index in range(2)]
    ours = denoise(sampler, Batch.from_noise(policy, streams, torch.tensor([1, 3])), batch_size=4)

    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [tiny_3.PROMPTS[1], tiny_3.PROMPTS[3]],
        height=12,
        width=12,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[stream(0, Purpose.EVALUATION, index) for index in range(2)],
        output_type="latent",
    ).images

    assert theirs.shape == (2, 4, 6, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert torch.equal(policy.schedule.levels, pipeline.scheduler.sigmas.double())


@pytest.mark.parametrize(("size", "rule"), [(14, "multiple of 4"), (36, "at most 32")])
def test_a_picture_size_that_is_no_number_of_patches_or_too_large_is_refused(base, size, rule):
    with pytest.raises(ConfigError, match=rf"model.picture_size.*{rule}"):
        policy_for(base, model={"picture_size": size})


def test_a_fresh_adapter_changes_nothing_and_the_reference_is_the_network_without_it(base, fresh):
    tuned, plain = policy_for(base, fresh, **LORA), policy_for(base)
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 3]), torch.tensor([0, 1])
    with torch.no_grad():
        expected, _ = plain.transition(states, steps, prompts=prompts)
        assert torch.equal(tuned.transition(states, steps, prompts=prompts)[0], expected)
        moved(tuned)
        assert not torch.allclose(tuned.transition(states, steps, prompts=prompts)[0], expected)
        assert torch.equal(tuned.as_reference().transition(states, steps, prompts=prompts)[0], expected)


def test_full_fine_tuning_saves_a_transformer_for_plain_diffusers_and_an_average_beside_it(base, tmp_path):
    policy = policy_for(base)
    moved(policy, 0.01)
    average = {name: torch.full_like(value, 0.5) for name, value in policy.denoiser.named_parameters()}
    save_policy(tmp_path, policy.denoiser, base, {"switch_step": 0}, average)

    theirs = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    back, averaged = policy_for(base, tmp_path), load_policy(config_for(), base, tmp_path, average=True, prompts=base)

    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), policy.denoiser.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(back.denoiser.parameters(), theirs.parameters(), strict=True))
    assert all(bool((value == 0.5).all()) for value in averaged.denoiser.parameters())
    assert (tmp_path / "scheduler" / "scheduler_config.json").is_file()


@pytest.mark.parametrize("option", ["gradient_checkpointing", "bfloat16"])
def test_gradients_with_checkpointing_are_the_same_and_in_bfloat16_close(base, fresh, option):
    changes = {"gradient_checkpointing": {"gradient_checkpointing": True}, "bfloat16": {"forward_dtype": "bfloat16"}}
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for settings in ({}, changes[option]):
        policy = policy_for(base, fresh, model=settings, **LORA)
        moved(policy, 0.05)
        mean, _ = policy.transition(states, torch.tensor([0, 3]), prompts=torch.tensor([0, 1]))
        assert mean.dtype == torch.float32
        mean.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.denoiser.parameters() if p.requires_grad]))

    exact, other = gradients
    assert float((exact - other).norm() / exact.norm()) < (1e-6 if option == "gradient_checkpointing" else 0.1)


def test_weights_in_shards_are_the_model_too_and_its_pictures_are_as_large_as_is_told(base, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "transformer")
    SD3Transformer2DModel.from_pretrained(model / "transformer").save_pretrained(
        tmp_path / "model" / "transformer", max_shard_size="40KB"
    )
    assert len(list((tmp_path / "model" / "transformer").glob("*.safetensors"))) > 1
    (again := tmp_path / "base").mkdir()
    normalise_base(tmp_path / "model", again)

    theirs = StableDiffusion3Pipeline.from_pretrained(model)
    ours = StableDiffusion3Pipeline.from_pretrained(again)
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert picture_size(Architecture.of(base), config_for()) == (16, 16)
    assert policy_for(base).sample_shape == (4, 8, 8)


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
        schedule = noise_schedule(FLOW, config_for(sampler={"steps": 10, "eta": 0.8}))
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
            noise_schedule({**FLOW, setting: True}, config_for())

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
            noise_schedule(scheduler, config_for(sampler=sampler))
        assert caught.value.field == field

    @pytest.mark.parametrize("kind", ["ancestral", "cps"])
    def test_other_models_know_both_samplers_that_keep_the_noise(self, kind):
        schedule = noise_schedule({"_class_name": "DDPMScheduler"}, config_for(sampler={"kind": kind}))
        assert (schedule.process, schedule.sampler) == ("variance_preserving", kind)
