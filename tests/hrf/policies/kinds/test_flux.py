"""FLUX as a policy: its own pipeline's embeddings, sigmas and sizes; and what is refused."""

import shutil

import pytest
import torch
from diffusers import FluxPipeline

from hrf.errors import ArtifactError, ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.folders import noise_schedule, schedule_of
from hrf.policies.kinds import kind_of, normalise_base, picture_size
from hrf.policies.schedulers import Timing
from tests.hrf import tiny_flux
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.policies.kinds.cases import CASES, STEPS

FLUX = CASES["flux"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_flux.save(tmp_path_factory.mktemp("model") / "flux")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    return FLUX.base(model, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    model = CASES["schnell"].save(tmp_path_factory.mktemp("model") / "schnell")
    return FLUX.base(model, tmp_path_factory.mktemp("schnell"))


def test_prompts_embed_as_the_pipeline_embeds_them_alone_and_among_others(base):
    """Kills: CLIP's tokens for T5's, its state before the last one for the one at the end, 256 tokens."""
    texts = tiny_flux.PROMPTS[:3]
    with torch.no_grad():
        tokens, pooled, _ = FluxPipeline.from_pretrained(base).encode_prompt([*texts, FLUX.negative])

    ours = kind_of(base).embed_prompts(base, texts, negative=FLUX.negative)
    alone = kind_of(base).embed_prompts(base, texts[2:], negative="")

    torch.testing.assert_close(torch.cat([ours.prompts, ours.negative[None]]), tokens)
    torch.testing.assert_close(torch.cat([ours.pooled, ours.negative_pooled[None]]), pooled)
    assert torch.equal(alone.prompts[0], ours.prompts[2])
    assert torch.equal(alone.pooled[0], ours.pooled[2])


def test_pictures_are_as_large_as_is_told_or_as_the_pipeline_makes_them(base):
    model = Architecture.of(base)
    pipeline = FluxPipeline.from_pretrained(base)
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    unsized = FLUX.config(model={"picture_size": None})
    assert picture_size(model, unsized) == (side, side)
    assert picture_size(model, FLUX.config(model={"picture_size": 12})) == (12, 12)
    assert kind_of(base).sample_shape(model, 12) == (4, 6, 6)
    # More tokens are shifted further.
    near, far = (schedule_of(model, FLUX.config(model={"picture_size": size})).levels for size in (16, 24))
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
        FLUX.policy({"dev": base, "schnell": schnell}[layout], **changes)
    assert caught.value.field == field


def test_a_model_with_schnells_weights_that_says_how_it_shifts_may_be_renoised(schnell, tmp_path):
    shutil.copytree(schnell, tmp_path / "base")
    tiny.edit_json(tmp_path / "base" / "scheduler" / "scheduler_config.json", shift=3.0)
    assert FLUX.policy(tmp_path / "base", model={"embedded_guidance": None}).schedule.num_steps == STEPS


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
    config = FLUX.config(sampler={"steps": 10, "eta": 0.8})
    schedule = noise_schedule(PUBLISHED, config, Timing(num_tokens=tokens, even=True))
    torch.testing.assert_close(schedule.levels, torch.tensor(sigmas, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(schedule.timesteps.double(), 1000 * schedule.levels[:-1], rtol=0, atol=1e-3)
