"""What holds for every kind of large model: plain diffusers draws what was tuned, and a base is its source."""

import shutil
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from hrf.images import to_images
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_policy, weights_of
from hrf.policies.strength import fold_strength
from hrf.storage.names import LORA_FILE
from tests.hrf.policies.kinds.cases import CASES, LORA, PROMPTS, STEPS, drawn, moved, noise, same_weights

WHOLE = ("sd3", "sdxl", "flux")
"""But for schnell, which is FLUX with a setting less."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return cache(lambda kind: CASES[kind].save(tmp_path_factory.mktemp("model") / kind))


@pytest.fixture(scope="module")
def bases(models, tmp_path_factory):
    return cache(lambda kind: CASES[kind].base(models(kind), tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize(
    ("kind", "split", "strength", "model"),
    [
        ("sd3", 0.0, 1.0, {}),
        ("sd3", 0.5, 1.0, {}),
        ("sd3", 0.0, 0.5, {}),
        ("sdxl", 0.5, 1.0, {}),
        ("sdxl", 0.0, 0.5, {}),
        ("flux", 0.0, 1.0, {}),
        ("flux", 0.5, 0.5, {"guidance_scale": 3.0, "picture_size": 24}),
        ("schnell", 0.0, 1.0, {}),
        ("schnell", 0.5, 0.5, {"picture_size": 24}),
    ],
)
def test_load_lora_weights_of_plain_diffusers_gives_the_same_pictures(bases, tmp_path, kind, split, strength, model):
    """From the same noise: a flow's by the ODE, SDXL's with noise in every step.

    Latents within 1e-5 of their size over six steps, or 3e-4 where the first estimates are divided by 0.07 of signal;
    the decoded pictures within 1e-4. Kills: a file without its alpha, layers renamed wrongly (which diffusers drops), a
    shift of latents that is left out, strength that scales A or nothing, an adapter that is on from a step too early;
    of FLUX patches packed in another order or unpacked by columns, rows and columns of positions exchanged, sigma times
    1000 to the transformer, no embedded guidance, a shift of another number of tokens.
    """
    case, base, asked = CASES[kind], bases(kind), [1, 3, 0]
    changes = {"model": model, "policy": {**LORA["policy"], "split": split}}
    tuned = moved(case.policy(base, case.fresh(base, tmp_path / "fresh"), **changes))
    saved, at = tmp_path / "saved", tmp_path / "at"
    for folder in (saved, at):
        folder.mkdir()
    weights = weights_of(case.config(**LORA))
    save_policy(saved, tuned.denoiser, base, {"switch_step": tuned.switch_step}, None, weights)
    fold_strength(saved, base, at, strength)
    full = load_file(saved / LORA_FILE)
    for name, value in load_file(at / LORA_FILE).items():
        up = ".lora_B." in name or ".lora.up." in name
        assert torch.equal(value, strength * full[name] if up else full[name])
    policy, pipeline = case.policy(base, at, **changes), case.pipeline(base)
    pipeline.load_lora_weights(at)

    def after_step(pipeline, step, timestep, values):
        if step + 1 == policy.switch_step:
            pipeline.enable_lora()
        return values

    def theirs(output_type):
        if policy.switch_step:
            pipeline.disable_lora()
        return pipeline(
            [PROMPTS[prompt] for prompt in asked],
            num_inference_steps=STEPS,
            generator=noise(3),
            callback_on_step_end=after_step,
            output_type=output_type,
            **case.asked(case.config(**changes)),
        ).images

    samples, latents = drawn(policy, asked, case.eta), theirs("latent")
    if latents.ndim == 3:
        size = policy.decode(samples[:1]).shape[-1]
        latents = pipeline._unpack_latents(latents, size, size, 2)
    near = 3e-4 if kind == "sdxl" else 1e-5
    torch.testing.assert_close(samples, latents, rtol=0, atol=near * float(latents.abs().max()))
    pictures = theirs("np").transpose(0, 3, 1, 2)
    assert abs(to_images(policy.decode(samples).numpy()) - pictures).max() < 1e-4
    assert sorted(file.name for file in saved.iterdir()) == ["policy.json", LORA_FILE]
    assert (drawn(case.policy(base, model=model), asked, case.eta) - samples).abs().max() > 0.01
    if kind != "sdxl":
        assert torch.equal(policy.schedule.levels, pipeline.scheduler.sigmas.double())


@pytest.mark.parametrize("kind", WHOLE)
def test_a_fresh_adapter_changes_nothing_and_the_reference_is_the_network_without_it(bases, tmp_path, kind):
    case, base = CASES[kind], bases(kind)
    tuned, plain = case.policy(base, case.fresh(base, tmp_path / "fresh"), **LORA), case.policy(base)
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 3]), torch.tensor([0, 1])
    with torch.no_grad():
        expected, _ = plain.transition(states, steps, prompts=prompts)
        assert torch.equal(tuned.transition(states, steps, prompts=prompts)[0], expected)
        moved(tuned)
        assert not torch.allclose(tuned.transition(states, steps, prompts=prompts)[0], expected)
        assert torch.equal(tuned.as_reference().transition(states, steps, prompts=prompts)[0], expected)


@pytest.mark.parametrize("kind", WHOLE)
def test_full_fine_tuning_saves_a_denoiser_for_plain_diffusers_and_an_average_beside_it(bases, tmp_path, kind):
    case, base = CASES[kind], bases(kind)
    policy = moved(case.policy(base), 0.01)
    average = {name: torch.full_like(value, 0.5) for name, value in policy.denoiser.named_parameters()}
    save_policy(tmp_path, policy.denoiser, base, {"switch_step": 0}, average)

    denoiser = type(policy.denoiser)
    theirs = denoiser.from_pretrained(tmp_path / ("unet" if kind == "sdxl" else "transformer"))
    back = case.policy(base, tmp_path)
    averaged = load_policy(case.config(), base, tmp_path, average=True, prompts=base)

    assert same_weights(theirs, policy.denoiser)
    assert same_weights(back.denoiser, theirs)
    assert all(bool((value == 0.5).all()) for value in averaged.denoiser.parameters())
    assert back.sample_shape == (4, 8, 8)
    assert (tmp_path / "scheduler" / "scheduler_config.json").is_file()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_base_holds_what_its_source_held_in_shards(models, tmp_path, kind):
    """Kills: a part that is left as it was built."""
    case, model = CASES[kind], tmp_path / "model"
    shutil.copytree(models(kind), model)
    theirs = case.pipeline(model)
    component = "unet" if kind == "sdxl" else "transformer"
    shutil.rmtree(model / component)
    getattr(theirs, component).save_pretrained(model / component, max_shard_size="40KB")
    assert len(list((model / component).glob("*.safetensors"))) > 1

    ours = case.pipeline(case.base(model, tmp_path / "base"))

    encoders = [name for name in theirs.components if name.startswith("text_encoder")]
    assert len(encoders) == {"sd3": 3}.get(kind, 2)
    for part in (component, "vae", *encoders):
        assert same_weights(getattr(ours, part), getattr(theirs, part)), part


@pytest.mark.parametrize("kind", WHOLE)
def test_frozen_layers_in_bfloat16_give_what_they_give_in_float32_under_autocast(bases, tmp_path, kind):
    """Outputs, reference and the adapter's gradients to the bit. Kills: normalisations, or the adapter, rounded too."""
    case, base = CASES[kind], bases(kind)
    fresh = case.fresh(base, tmp_path / "fresh")
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 3]), torch.tensor([0, 1])
    rounded = moved(case.policy(base, fresh, model={"forward_dtype": "bfloat16"}, **LORA), 0.05)
    exact = moved(case.policy(base, fresh, **LORA), 0.05)
    exact = DiffusionPolicy(**{**vars(exact), "forward_dtype": torch.bfloat16})
    told, cached = [], []
    rounded.denoiser.register_forward_hook(lambda *_: cached.append(torch.is_autocast_cache_enabled()))
    for policy in (rounded, exact):
        mean, _ = policy.transition(states, steps, prompts=prompts)
        with torch.no_grad():
            reference, _ = policy.as_reference().transition(states, steps, prompts=prompts)
        mean.square().mean().backward()
        weights = list(policy.denoiser.parameters())
        told.append((mean, reference, *(weight.grad for weight in weights if weight.requires_grad)))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*told, strict=True))
    # Copies that stayed to the end of a call would be what checkpointing spares.
    assert cached
    assert not any(cached)
    halved = [weight.dtype == torch.bfloat16 for weight in rounded.denoiser.parameters()]
    sizes = [weight.numel() for weight in rounded.denoiser.parameters()]
    assert sum(size for size, half in zip(sizes, halved, strict=True) if half) > 0.8 * sum(sizes)


@pytest.mark.parametrize(
    ("kind", "settings", "near"),
    [
        *((kind, {"gradient_checkpointing": True}, 1e-6) for kind in WHOLE),
        ("sd3", {"forward_dtype": "bfloat16"}, 0.1),
        ("sdxl", {"forward_dtype": "bfloat16"}, 0.1),
        # Sigma and guidance are rounded, too: 0.13 of the gradient at these random weights.
        ("flux", {"forward_dtype": "bfloat16"}, 0.2),
    ],
)
def test_gradients_with_checkpointing_are_the_same_and_in_bfloat16_close(bases, tmp_path, kind, settings, near):
    case, base = CASES[kind], bases(kind)
    fresh = case.fresh(base, tmp_path / "fresh")
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for options in ({}, settings):
        policy = moved(case.policy(base, fresh, model=options, **LORA), 0.05)
        mean, _ = policy.transition(states, torch.tensor([0, 3]), prompts=torch.tensor([0, 1]))
        assert mean.dtype == torch.float32
        mean.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.denoiser.parameters() if p.requires_grad]))
    exact, other = gradients
    assert float((exact - other).norm() / exact.norm()) < near
