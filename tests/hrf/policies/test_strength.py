"""Strength: what folding it changes in the stored weights, and that plain diffusers draws what we do."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel
from safetensors.torch import load_file

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.folders import load_policy, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import normalise_base
from hrf.policies.kinds.stable_diffusion import StableDiffusion
from hrf.policies.strength import check_strength, fold_strength, strength_of
from hrf.seeds import Purpose, stream
from hrf.storage.names import AVERAGE_FOLDER, LORA_FILE, POLICY_FILE
from hrf.trainer.rollout import Batch, denoise, draw_noise
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.toys import small_unet

STEPS = 4
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def move(network, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A base and a policy of all its weights, with an average beside them."""
    folder = tmp_path_factory.mktemp("pixels")
    for name in ("base", "tuned"):
        (folder / name).mkdir()
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler(beta_schedule="linear")).save_pretrained(folder / "model")
    normalise_base(folder / "model", folder / "base")
    denoiser = load_policy(pixel_config(), folder / "base", folder / "base").denoiser
    move(denoiser, 1, 0.05)
    average = {name: value.detach() + 0.01 for name, value in denoiser.named_parameters()}
    save_policy(folder / "tuned", denoiser, folder / "base", {"switch_step": 0}, average)
    return folder


def pixel_config(split: float = 0.0) -> Config:
    return Config.from_mapping({"sampler": {"steps": STEPS}, "policy": {"split": split}})


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The same of a text-to-image model and an adapter, whose alpha is not its rank."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("base", "fresh", "tuned"):
        (folder / name).mkdir()
    base, config = folder / "base", text_config()
    normalise_base(tiny.save(folder / "sd"), base)
    StableDiffusion().embed_prompts(base, tiny.PROMPTS, negative="").save(base)
    save_fresh_policy(folder / "fresh", config, base, {}, run_seed=0)
    denoiser = load_policy(config, base, folder / "fresh", prompts=base).denoiser
    move(denoiser, 1, 0.3)
    save_policy(folder / "tuned", denoiser, base, {"switch_step": 0}, None, weights_of(config))
    return folder


def text_config(split: float = 0.0) -> Config:
    policy = {"lora": {"rank": 2, "alpha": 6}, "split": split}
    prompts = {"texts": list(tiny.PROMPTS)}
    return Config.from_mapping(
        {"model": {"source": "x"}, "prompts": prompts, "sampler": {"steps": STEPS}, "policy": policy}
    )


def folded(policy, base, target, *strengths: float):
    for number, strength in enumerate(strengths):
        source, policy = policy, target / f"{number}"
        policy.mkdir()
        fold_strength(source, base, policy, strength)
    return policy


def test_all_weights_lie_on_the_line_from_base_to_the_average(pixels, tmp_path):
    """Oracle: torch's lerp in float64. Kills: the weights in the average's place, from the other end (1 - a), scaled
    towards zero instead of towards the base, strength applied twice."""
    at = folded(pixels / "tuned", pixels / "base", tmp_path, 0.375)

    ours = load_file(at / WEIGHTS)
    base = load_file(pixels / "base" / WEIGHTS)
    tuned = load_file(pixels / "tuned" / AVERAGE_FOLDER / "diffusion_pytorch_model.safetensors")
    assert ours.keys() == base.keys()
    for name, value in ours.items():
        expected = torch.lerp(base[name].double(), tuned[name].double(), 0.375)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_product_of_an_adapter_is_scaled_once(texts, tmp_path):
    """B A of every layer. Kills: A scaled, too; alpha scaled, too; neither scaled."""
    at = folded(texts / "tuned", texts / "base", tmp_path, 0.25)

    ours, tuned = load_file(at / LORA_FILE), load_file(texts / "tuned" / LORA_FILE)
    ups = [name for name in tuned if ".lora.up." in name]
    assert ups
    for up in ups:
        down = up.replace(".up.", ".down.")
        torch.testing.assert_close(ours[up] @ ours[down], 0.25 * tuned[up] @ tuned[down])
    base, network = texts / "base", weights_of(text_config())
    layers = [network.load(base, folder, reference=False)[0].state_dict() for folder in (at, texts / "tuned")]
    assert layers[0].keys() == layers[1].keys()


@pytest.mark.parametrize("kind", ["pixels", "texts"])
def test_strength_1_is_the_policy_byte_for_byte(kind, request, tmp_path):
    """Kills: weights computed at strength 1, too, whose last bits differ."""
    folder = request.getfixturevalue(kind)
    at = folded(folder / "tuned", folder / "base", tmp_path, 1.0)
    source = folder / "tuned"
    names = (WEIGHTS, AVERAGE_FOLDER + WEIGHTS.removeprefix("unet")) if kind == "pixels" else (LORA_FILE, LORA_FILE)

    assert (at / names[0]).read_bytes() == (source / names[1]).read_bytes()
    assert (at / POLICY_FILE).read_bytes() == (source / POLICY_FILE).read_bytes()
    assert strength_of(at) == 1.0


def test_strengths_multiply_and_the_folder_says_so(pixels, tmp_path):
    """Kills: the last strength recorded alone."""
    twice = folded(pixels / "tuned", pixels / "base", tmp_path, 0.5, 0.5)
    (tmp_path / "once").mkdir()
    once = folded(pixels / "tuned", pixels / "base", tmp_path / "once", 0.25)

    assert strength_of(twice) == strength_of(once) == 0.25
    for name, value in load_file(twice / WEIGHTS).items():
        torch.testing.assert_close(value, load_file(once / WEIGHTS)[name])


def test_loading_does_not_apply_the_strength_again(pixels, texts, tmp_path):
    """What is loaded is what is stored. Kills: strength applied twice."""
    for folder, config, name in ((pixels, pixel_config(), WEIGHTS), (texts, text_config(), LORA_FILE)):
        (again := tmp_path / folder.name).mkdir()
        at = folded(folder / "tuned", folder / "base", again, 0.5)
        prompts = folder / "base" if folder == texts else None
        loaded = load_policy(config, folder / "base", at, average=True, prompts=prompts).denoiser
        weights_of(config).save(loaded, again)
        saved = load_file(again / name)
        assert all(torch.equal(value, saved[key]) for key, value in load_file(at / name).items())


@pytest.mark.parametrize("split", [0.0, 0.5])
def test_plain_diffusers_draws_all_folded_weights_as_we_do(pixels, tmp_path, split):
    """The base's weights before the switch. Kills: strength applied twice, and not at all."""
    at, config = folded(pixels / "tuned", pixels / "base", tmp_path, 0.5), pixel_config(split)
    policy = load_policy(config, pixels / "base", at)
    streams = [stream(0, Purpose.EVALUATION, index) for index in range(2)]
    ours = denoise(policy.with_schedule(policy.schedule.with_eta(0.0)), Batch.from_noise(policy, streams), batch_size=2)

    pipelines = [DDPMPipeline.from_pretrained(folder) for folder in (pixels / "base", at)]
    states = draw_noise(
        [stream(0, Purpose.EVALUATION, index) for index in range(2)], policy.sample_shape, policy.device
    )
    unets = [pipeline.unet for pipeline in pipelines]
    theirs = denoised_by_diffusers(
        pipelines[1].scheduler, states, lambda x, t, tuned: unets[tuned](x, t).sample, policy.switch_step
    )

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("split", [0.0, 0.5])
def test_plain_diffusers_draws_a_folded_adapter_as_we_do(texts, tmp_path, split):
    """The adapter as its file has it, in a pipeline of the base. Kills: strength applied twice, and not at all."""
    base, at, config = texts / "base", folded(texts / "tuned", texts / "base", tmp_path, 0.5), text_config(split)
    policy = load_policy(config, base, at, prompts=base)
    streams = [stream(0, Purpose.EVALUATION, index) for index in range(2)]
    ours = denoise(
        policy.with_schedule(policy.schedule.with_eta(0.0)),
        Batch.from_noise(policy, streams, torch.tensor([1, 3])),
        batch_size=2,
    )

    untuned = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    tuned = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    tuned.load_lora_weights(at)
    with torch.no_grad():
        text, _ = untuned.encode_prompt([tiny.PROMPTS[1], tiny.PROMPTS[3]], "cpu", 1, False)
    unets = [untuned.unet, tuned.unet]
    states = draw_noise(
        [stream(0, Purpose.EVALUATION, index) for index in range(2)], policy.sample_shape, policy.device
    )
    theirs = denoised_by_diffusers(
        tuned.scheduler,
        states,
        lambda x, t, late: unets[late](x, t, encoder_hidden_states=text).sample,
        policy.switch_step,
    )

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def denoised_by_diffusers(scheduler, states, ask, switch_step: int):
    """DDIM with eta 0: the base before the switch step, the tuned weights from there on."""
    ddim = DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading")
    ddim.set_timesteps(STEPS)
    for step, timestep in enumerate(ddim.timesteps):
        with torch.no_grad():
            output = ask(states, timestep, int(step >= switch_step))
        states = ddim.step(output, timestep, states, eta=0.0).prev_sample
    return states


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_what_is_no_strength_is_refused(pixels, tmp_path, strength):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        check_strength(strength, "--strength")
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        folded(pixels / "tuned", pixels / "base", tmp_path, strength)


def test_a_policy_says_nothing_of_strength_unless_it_was_folded(pixels):
    assert "strength" not in json.loads((pixels / "tuned" / POLICY_FILE).read_text())
