"""FLUX as a policy: its own pipeline's embeddings, sigmas, latents and pictures; and what is refused."""

import shutil

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError
from hrf.images import to_images
from hrf.policies.architecture import Architecture
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, noise_schedule, save_fresh_policy, save_policy, schedule_of, weights_of
from hrf.policies.kinds import kind_of, normalise_base, picture_size
from hrf.policies.schedulers import Timing
from hrf.policies.strength import fold_strength
from hrf.seeds import Purpose, stream
from hrf.storage.names import LORA_FILE
from hrf.trainer.rollout import Batch, denoise
from tests.hrf import tiny_flux
from tests.hrf import tiny_stable_diffusion as tiny

STEPS = 6
LORA = {"policy": {"lora": {"rank": 2, "alpha": 6}}}
DEV = {"embedded_guidance": 3.5}
NEGATIVE = "not that"


def config_for(**changes) -> Config:
    values = {
        "model": {"source": "x", "batch_size": 4, "picture_size": 16, **DEV},
        "prompts": {"texts": list(tiny_flux.PROMPTS)},
        "sampler": {"steps": STEPS, "kind": "cps", "min_std": 0.0},
    }
    return Config.from_mapping(values).with_changes(changes)


def base_of(model, folder):
    folder.mkdir(exist_ok=True)
    normalise_base(model, folder)
    kind_of(folder).embed_prompts(folder, tiny_flux.PROMPTS, negative=NEGATIVE).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_flux.save(tmp_path_factory.mktemp("model") / "flux")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    return base_of(model, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    model = tmp_path_factory.mktemp("model") / "schnell"
    tiny_flux.save(model, guidance_embeds=False, scheduler=tiny_flux.SCHNELL)
    return base_of(model, tmp_path_factory.mktemp("schnell"))


def policy_for(base, weights=None, **changes) -> DiffusionPolicy:
    return load_policy(config_for(**changes), base, weights or base, prompts=base)


def moved(policy: DiffusionPolicy, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def test_prompts_embed_as_the_pipeline_embeds_them_alone_and_among_others(base):
    """Kills: CLIP's tokens for T5's, its state before the last one for the one at the end, 256 tokens."""
    texts = tiny_flux.PROMPTS[:3]
    with torch.no_grad():
        tokens, pooled, _ = FluxPipeline.from_pretrained(base).encode_prompt([*texts, NEGATIVE])

    ours = kind_of(base).embed_prompts(base, texts, negative=NEGATIVE)
    alone = kind_of(base).embed_prompts(base, texts[2:], negative="")

    torch.testing.assert_close(torch.cat([ours.prompts, ours.negative[None]]), tokens)
    torch.testing.assert_close(torch.cat([ours.pooled, ours.negative_pooled[None]]), pooled)
    assert torch.equal(alone.prompts[0], ours.prompts[2])
    assert torch.equal(alone.pooled[0], ours.pooled[2])


@pytest.mark.parametrize(
    ("layout", "split", "strength", "scale", "size"),
    [
        ("dev", 0.0, 1.0, 1.0, 16),
        ("dev", 0.5, 0.5, 3.0, 24),
        ("schnell", 0.0, 1.0, 1.0, 16),
        ("schnell", 0.5, 0.5, 1.0, 24),
    ],
)
def test_load_lora_weights_of_plain_diffusers_gives_the_same_pictures(
    base, schnell, tmp_path, layout, split, strength, scale, size
):
    """The ODE from the same noise: latents within 1e-5 of their size over six steps, and the decoded pictures.

    Kills: patches packed in another order or unpacked by columns, rows and columns of positions exchanged, sigma times
    1000 to the transformer, no embedded guidance, a shift of another number of tokens, strength that scales A.
    """
    folder = {"dev": base, "schnell": schnell}[layout]
    changes = {
        "model": {"guidance_scale": scale, "picture_size": size, **(DEV if layout == "dev" else {})},
        "policy": {**LORA["policy"], "split": split},
    }
    if layout == "schnell":
        changes = {**changes, "model": {**changes["model"], "embedded_guidance": None}, "starts": {"kind": "noise"}}
    fresh, saved, at = (tmp_path / name for name in ("fresh", "saved", "at"))
    for each in (fresh, saved, at):
        each.mkdir()
    save_fresh_policy(fresh, config_for(**changes), folder, {"switch_step": 0}, run_seed=0)
    tuned = policy_for(folder, fresh, **changes)
    moved(tuned)
    weights = weights_of(config_for(**changes))
    save_policy(saved, tuned.denoiser, folder, {"switch_step": tuned.switch_step}, None, weights)
    fold_strength(saved, folder, at, strength)
    asked = [1, 3, 0]

    def ours(policy: DiffusionPolicy) -> torch.Tensor:
        streams = [stream(0, Purpose.EVALUATION, index) for index in range(3)]
        sampler = policy.with_schedule(policy.schedule.with_eta(0.0))
        return denoise(sampler, Batch.from_noise(policy, streams, torch.tensor(asked)), batch_size=4)

    policy = policy_for(folder, at, **changes)
    pipeline = FluxPipeline.from_pretrained(folder)
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
            [tiny_flux.PROMPTS[prompt] for prompt in asked],
            negative_prompt=[NEGATIVE] * 3,
            true_cfg_scale=scale,
            guidance_scale=3.5,
            height=size,
            width=size,
            num_inference_steps=STEPS,
            generator=[stream(0, Purpose.EVALUATION, index) for index in range(3)],
            callback_on_step_end=after_step,
            output_type=output_type,
        ).images

    latents = pipeline._unpack_latents(theirs("latent"), size, size, 2)
    samples = ours(policy)
    torch.testing.assert_close(samples, latents, rtol=0, atol=1e-5 * float(latents.abs().max()))
    assert torch.equal(policy.schedule.levels, pipeline.scheduler.sigmas.double())
    pictures = theirs("np").transpose(0, 3, 1, 2)
    assert abs(to_images(policy.decode(samples).numpy()) - pictures).max() < 1e-4
    assert sorted(file.name for file in saved.iterdir()) == ["policy.json", LORA_FILE]
    untuned = {name: value for name, value in changes.items() if name != "policy"}
    assert (ours(policy_for(folder, **untuned)) - samples).abs().max() > 0.01


def test_full_fine_tuning_saves_a_transformer_for_plain_diffusers_and_a_base_holds_what_its_source_held(
    model, base, tmp_path
):
    """Read from shards. Kills: a part that is left as it was built."""
    shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "transformer")
    sharded = FluxTransformer2DModel.from_pretrained(model / "transformer")
    sharded.save_pretrained(tmp_path / "model" / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "model" / "transformer").glob("*.safetensors"))) > 1
    again = base_of(tmp_path / "model", tmp_path / "base")
    policy = policy_for(again)
    moved(policy, 0.01)
    save_policy(tmp_path, policy.denoiser, again, {"switch_step": 0}, None)

    tuned = FluxTransformer2DModel.from_pretrained(tmp_path / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), policy.denoiser.parameters(), strict=True))
    assert policy_for(again, tmp_path).sample_shape == (4, 8, 8)
    assert (tmp_path / "scheduler" / "scheduler_config.json").is_file()
    theirs, ours = (FluxPipeline.from_pretrained(folder) for folder in (model, again))
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "near"), [({"gradient_checkpointing": True}, 1e-6), ({"forward_dtype": "bfloat16"}, 0.2)]
)
def test_gradients_with_checkpointing_are_the_same_and_in_bfloat16_close(base, tmp_path, settings, near):
    """Eight bits of a number are kept, of sigma and guidance, too: 0.13 of the gradient at these random weights."""
    save_fresh_policy(tmp_path, config_for(**LORA), base, {"switch_step": 0}, run_seed=0)
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for options in ({}, settings):
        policy = policy_for(base, tmp_path, model=options, **LORA)
        moved(policy, 0.05)
        mean, _ = policy.transition(states, torch.tensor([0, 3]), prompts=torch.tensor([0, 1]))
        assert mean.dtype == torch.float32
        mean.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.denoiser.parameters() if p.requires_grad]))
    exact, other = gradients
    assert float((exact - other).norm() / exact.norm()) < near


def test_pictures_are_as_large_as_is_told_or_as_the_pipeline_makes_them(base):
    model = Architecture.of(base)
    pipeline = FluxPipeline.from_pretrained(base)
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    unsized = config_for(model={"picture_size": None})
    assert picture_size(model, unsized) == (side, side)
    assert picture_size(model, config_for(model={"picture_size": 12})) == (12, 12)
    assert kind_of(base).sample_shape(model, 12) == (4, 6, 6)
    # More tokens are shifted further.
    near, far = (schedule_of(model, config_for(model={"picture_size": size})).levels for size in (16, 24))
    assert bool((far[1:-1] > near[1:-1]).all())


def _other_channels(folder):
    """As of a model for filling in, which reads a picture and a mask beside the latents."""
    shutil.rmtree(folder / "transformer")
    tiny_flux.pipeline(in_channels=40, out_channels=16).transformer.save_pretrained(folder / "transformer")


def _narrow_text(folder):
    shutil.rmtree(folder / "transformer")
    tiny_flux.pipeline(joint_attention_dim=24).transformer.save_pretrained(folder / "transformer")


def _no_t5(folder):
    shutil.rmtree(folder / "text_encoder_2")


def _control(folder):
    tiny.edit_json(folder / "model_index.json", controlnet=["diffusers", "FluxControlNetModel"])


def _broken_line(folder):
    tiny.edit_json(folder / "scheduler" / "scheduler_config.json", max_image_seq_len=4)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_other_channels, ConfigError, "finite numbers of the sample's shape"),
        (_narrow_text, ConfigError, r"joint widths \(40, 24\)"),
        (_no_t5, ArtifactError, "text_encoder_2"),
        (_control, ConfigError, "controlnet"),
        (_broken_line, ConfigError, "the first two not the same"),
    ],
)
def test_models_of_another_class_and_broken_ones_are_refused(model, tmp_path, damage, error, message):
    shutil.copytree(model, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    (tmp_path / "target").mkdir()
    with pytest.raises(error, match=message):
        normalise_base(tmp_path / "damaged", tmp_path / "target")


@pytest.mark.parametrize(
    ("layout", "changes", "field"),
    [
        ("dev", {"model": {"embedded_guidance": None}}, "model.embedded_guidance"),
        ("dev", {"model": {"picture_size": 18}}, "model.picture_size"),
        ("schnell", {"starts": {"kind": "noise"}}, "model.embedded_guidance"),
        ("schnell", {"model": {"embedded_guidance": None}}, "starts.kind"),
        ("schnell", {"model": {"embedded_guidance": None}, "starts": {"kind": "selected"}}, "starts.kind"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(base, schnell, layout, changes, field):
    """Of schnell, re-noised starts, as it is distilled to few steps. Kills: a guidance that nothing reads, a size that
    is cut to what fits."""
    with pytest.raises(ConfigError) as caught:
        policy_for({"dev": base, "schnell": schnell}[layout], **changes)
    assert caught.value.field == field


def test_a_model_with_schnells_weights_that_says_how_it_shifts_may_be_renoised(schnell, tmp_path):
    shutil.copytree(schnell, tmp_path / "base")
    tiny.edit_json(tmp_path / "base" / "scheduler" / "scheduler_config.json", shift=3.0)
    assert policy_for(tmp_path / "base", model={"embedded_guidance": None}).schedule.num_steps == STEPS


PUBLISHED = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


@pytest.mark.parametrize(
    ("tokens", "sigmas"),
    [
        # mu 1.15, of 1024 pixels
        (4096, [1, 0.966014, 0.926647, 0.880513, 0.825702, 0.759511, 0.677987, 0.575103, 0.441200, 0.259758, 0]),
        # mu 0.5, of 256 pixels: e^mu / (e^mu + 1/s - 1)
        (256, [1, 0.936863, 0.868332, 0.793688, 0.712071, 0.622459, 0.523616, 0.414038, 0.291875, 0.154828, 0]),
    ],
)
def test_the_published_schedule_at_two_sizes(tokens, sigmas):
    """Oracle: FLUX.1-dev's own pipeline, and the exponential shift by hand. Kills: the scheduler's own sigmas before
    the shift, `shift` in place of the dynamic one, a line through other points."""
    config = config_for(sampler={"steps": 10, "eta": 0.8})
    schedule = noise_schedule(PUBLISHED, config, Timing(num_tokens=tokens, even=True))
    torch.testing.assert_close(schedule.levels, torch.tensor(sigmas, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(schedule.timesteps.double(), 1000 * schedule.levels[:-1], rtol=0, atol=1e-3)
