"""Stable Diffusion as a policy: guided steps against diffusers' own, what is refused, and adapters."""

import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from hrf.config import Config
from hrf.core.schedule import gaussian_log_prob
from hrf.errors import ArtifactError, ConfigError
from hrf.images import to_images
from hrf.policies.conditioning import PromptEmbeddings, TextConditioning
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import kind_of, normalise_base
from hrf.policies.kinds.stable_diffusion import StableDiffusion
from hrf.policies.weights import AdapterOff
from hrf.seeds import Purpose, stream
from hrf.storage.names import LORA_FILE
from hrf.trainer.rollout import Batch, denoise
from tests.hrf import tiny_stable_diffusion as tiny

GUIDANCE = 3.0
STEPS = 6
LORA = {"policy": {"lora": {"rank": 2, "alpha": 6}}}


def config_for(**changes) -> Config:
    values = {
        "model": {"source": "x", "guidance_scale": GUIDANCE, "batch_size": 4},
        "prompts": {"texts": list(tiny.PROMPTS)},
        "sampler": {"steps": STEPS},
    }
    return Config.from_mapping(values).with_changes(changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    normalise_base(model, folder)
    StableDiffusion().embed_prompts(folder, tiny.PROMPTS, negative="").save(folder)
    return folder


def policy_for(base, weights=None, **changes) -> DiffusionPolicy:
    return load_policy(config_for(**changes), base, weights or base, prompts=base)


@pytest.fixture
def fresh(base, tmp_path):
    """Makes the folder of an untrained adapter."""
    config = config_for(**LORA)
    folder = tmp_path / "policy"
    folder.mkdir()
    save_fresh_policy(folder, config, base, {"kind": "full"}, run_seed=0)
    return folder


def moved(policy: DiffusionPolicy, scale: float = 0.3) -> None:
    """Give an adapter weights that make a difference."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def guided_by_diffusers(pipeline, states, timestep, prompts, scale):
    """Classifier-free guidance written out, with the pipeline's own text encoder."""
    with torch.no_grad():
        wanted, unwanted = pipeline.encode_prompt(prompts, "cpu", 1, True, [""] * len(prompts))
        towards = pipeline.unet(states, timestep, encoder_hidden_states=wanted.to(states.dtype)).sample
        away = pipeline.unet(states, timestep, encoder_hidden_states=unwanted.to(states.dtype)).sample
    return away + scale * (towards - away)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_mean_and_log_prob_of_a_guided_step_are_those_of_diffusers(base, tmp_path, prediction, dtype, tolerance):
    """At every stochastic step, each sample with its own prompt.

    In float32 the mean is held to 1e-6 of the size of what it is made of: at the noisiest step the estimate of the
    sample is 15 times as large as the state. Kills: guidance the wrong way round, the negative prompt's half taken for
    the prompt's, one prompt for the whole batch, a clamped estimate.
    """
    shutil.copytree(base, tmp_path / "base")
    tiny.edit_json(tmp_path / "base" / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    policy = policy_for(tmp_path / "base")
    policy.denoiser.to(dtype)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    pipeline.unet.to(dtype)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    states, noise = (torch.randn(3, 4, 8, 8, generator=generator, dtype=dtype) for _ in range(2))
    prompts = torch.tensor([4, 0, 2])

    for k, timestep in enumerate(scheduler.timesteps):
        with torch.no_grad():
            mean, std = policy.transition(states, torch.full((3,), k), prompts=prompts)
        output = guided_by_diffusers(pipeline, states, timestep, [tiny.PROMPTS[p] for p in prompts], GUIDANCE)
        expected = scheduler.step(output, timestep, states, eta=1.0, variance_noise=torch.zeros_like(states))
        following = scheduler.step(output, timestep, states, eta=1.0, variance_noise=noise).prev_sample
        scale = max(1.0, float(expected.pred_original_sample.abs().max()))
        torch.testing.assert_close(mean, expected.prev_sample, rtol=0, atol=tolerance * scale)
        variance = scheduler._get_variance(timestep, timestep - 1000 // STEPS)
        normal = torch.distributions.Normal(expected.prev_sample, variance.sqrt())
        log_prob = gaussian_log_prob(following, mean, std, "mean")
        torch.testing.assert_close(log_prob, normal.log_prob(following).mean((1, 2, 3)), rtol=0, atol=tolerance * 10)
        states = following


def test_a_batch_with_any_mix_of_prompts_gives_each_sample_the_bits_it_has_in_others(base):
    policy = policy_for(base)
    states = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    prompts, steps = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3])

    with torch.no_grad():
        together, _ = policy.transition(states, steps, prompts=prompts, call_size=4)
        for i in range(4):
            alone, _ = policy.transition(states[i : i + 1], steps[i : i + 1], prompts=prompts[i : i + 1], call_size=4)
            assert torch.equal(alone[0], together[i])


def test_without_guidance_a_step_costs_one_forward_and_is_the_prompts_own_answer(base):
    policy = policy_for(base)
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 1]), torch.tensor([3, 5])
    scale_one = policy_for(base, model={"guidance_scale": 1.0})

    with torch.no_grad():
        unguided, _ = policy.unguided().transition(states, steps, prompts=prompts)
        expected, _ = scale_one.transition(states, steps, prompts=prompts)
        guided, _ = policy.transition(states, steps, prompts=prompts)

    assert (policy.forwards, policy.unguided().forwards, scale_one.forwards) == (2, 1, 1)
    assert torch.equal(unguided, expected)
    assert not torch.allclose(unguided, guided)


def test_a_prompt_is_needed_and_an_unconditional_model_refuses_one(base):
    with pytest.raises(ValueError, match="needs a prompt for each sample"):
        policy_for(base).transition(torch.zeros(1, 4, 8, 8), torch.tensor([0]))


def test_prompts_embed_alone_as_they_do_among_others_and_as_the_pipeline_embeds_them(base):
    embeddings = StableDiffusion().embed_prompts(base, tiny.PROMPTS, negative="not that")
    alone = StableDiffusion().embed_prompts(base, tiny.PROMPTS[2:3], negative="")
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    with torch.no_grad():
        theirs, negative = pipeline.encode_prompt(list(tiny.PROMPTS), "cpu", 1, True, ["not that"] * len(tiny.PROMPTS))

    assert torch.equal(embeddings.prompts[2], alone.prompts[0])
    torch.testing.assert_close(embeddings.prompts, theirs)
    torch.testing.assert_close(embeddings.negative, negative[0])
    assert float((embeddings.prompts[0] - embeddings.prompts[1]).abs().max()) > 0.1


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(base):
    with pytest.raises(ConfigError, match=r"at most 24 tokens.*the text encoder reads no further"):
        StableDiffusion().embed_prompts(base, ["a very long winded prompt indeed"], negative="")


def pictures(policy: DiffusionPolicy, prompts: list[int], eta: float):
    """Ours: noise and steps of each sample from its own stream."""
    sampler = policy.with_schedule(policy.schedule.with_eta(eta))
    streams = [stream(0, Purpose.EVALUATION, index) for index in range(len(prompts))]
    samples = denoise(sampler, Batch.from_noise(policy, streams, torch.tensor(prompts)), batch_size=4)
    return to_images(policy.decode(samples).numpy())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_load_lora_weights_of_plain_diffusers_gives_the_same_pictures(base, fresh, tmp_path, eta):
    """Same seeds, same sampler: within 1e-4 of the pictures' range, float32 rounding over six guided steps.

    Alpha is not rank here: kills a file without its alpha. Also kills layers renamed wrongly, which diffusers drops.
    """
    policy = policy_for(base, fresh, **LORA)
    moved(policy)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_policy(saved, policy.denoiser, base, {"kind": "full"}, None, weights_of(config_for(**LORA)))
    asked = [1, 3, 0]

    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain = pipeline.unet.state_dict()["conv_in.weight"].clone()
    pipeline.load_lora_weights(saved)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [tiny.PROMPTS[p] for p in asked],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        eta=eta,
        generator=[stream(0, Purpose.EVALUATION, index) for index in range(3)],
        output_type="np",
    ).images.transpose(0, 3, 1, 2)

    ours, untouched = pictures(policy, asked, eta), pictures(policy_for(base), asked, eta)
    assert sorted(file.name for file in saved.iterdir()) == ["policy.json", LORA_FILE]
    assert abs(ours - theirs).max() < 1e-4
    assert abs(ours - untouched).max() > 0.01
    assert torch.equal(pipeline.unet.state_dict()["conv_in.weight"], plain)


def test_the_reference_of_an_adapter_is_the_same_network_with_it_switched_off(base, fresh):
    """No second set of weights, the base's own bits, and the adapter back on afterwards, trainable."""
    policy, plain = policy_for(base, fresh, **LORA), policy_for(base)
    moved(policy)
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 3]), torch.tensor([0, 1])

    with torch.no_grad():
        before, _ = policy.transition(states, steps, prompts=prompts)
        reference, _ = policy.as_reference().transition(states, steps, prompts=prompts)
        expected, _ = plain.transition(states, steps, prompts=prompts)
        after, _ = policy.transition(states, steps, prompts=prompts)

    assert isinstance(policy.reference, AdapterOff)
    assert policy.reference.network is policy.denoiser
    assert torch.equal(reference, expected)
    assert torch.equal(before, after)
    assert not torch.allclose(before, reference)
    trained = [name for name, value in policy.denoiser.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)


def test_a_split_adapter_is_the_base_before_the_switch_and_the_tuned_one_from_it_on(base, fresh):
    split, plain, tuned = policy_for(base, fresh, policy={**LORA["policy"], "split": 0.5}), policy_for(base), None
    tuned = policy_for(base, fresh, **LORA)
    moved(split)
    moved(tuned)
    states, prompts = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    steps = torch.tensor([1, 4, 2, 3])

    with torch.no_grad():
        mixed, base_mean, tuned_mean = (
            policy.transition(states, steps, prompts=prompts, call_size=4)[0] for policy in (split, plain, tuned)
        )

    assert split.switch_step == 3
    for i, step in enumerate(steps.tolist()):
        assert torch.equal(mixed[i], (base_mean if step < 3 else tuned_mean)[i])


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(base, fresh, tmp_path):
    policy, plain = policy_for(base, fresh, **LORA), policy_for(base)
    states, steps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([0, 3]), torch.tensor([0, 1])
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        save_fresh_policy(tmp_path / name, config_for(**LORA), base, {"kind": "full"}, run_seed=seed)

    with torch.no_grad():
        assert torch.equal(*(p.transition(states, steps, prompts=prompts)[0] for p in (policy, plain)))
    assert (tmp_path / "again" / LORA_FILE).read_bytes() == (fresh / LORA_FILE).read_bytes()
    assert (tmp_path / "other" / LORA_FILE).read_bytes() != (fresh / LORA_FILE).read_bytes()
    down = next(value for name, value in load_file(fresh / LORA_FILE).items() if "down" in name)
    assert 0.3 < float(down.std()) < 0.7  # 1 / rank


def test_an_average_of_an_adapter_is_kept_beside_it(base, fresh, tmp_path):
    policy = policy_for(base, fresh, **LORA)
    weights = weights_of(config_for(**LORA))
    average = {
        name: torch.full_like(value, 0.5) for name, value in weights.load_average(policy.denoiser, fresh).items()
    }
    saved = tmp_path / "saved"
    saved.mkdir()
    save_policy(saved, policy.denoiser, base, {}, average, weights)

    averaged = load_policy(config_for(**LORA), base, saved, average=True, prompts=base)

    assert all(bool((v == 0.5).all()) for v in averaged.denoiser.parameters() if v.requires_grad)
    assert weights.load_average(policy.denoiser, saved).keys() == average.keys()


@pytest.mark.parametrize("targets", [["to_x"], ["to_q", "to_nothing"]])
def test_a_target_that_binds_no_layer_is_refused(base, tmp_path, targets):
    """Trap 8, also where other targets do bind."""
    config = config_for(policy={"lora": {"targets": targets}})
    with pytest.raises(ConfigError, match=r"policy\.lora\.targets.*to_(x|nothing)"):
        save_fresh_policy(tmp_path, config, base, {}, run_seed=0)


def test_an_adapter_of_another_rank_is_refused(base, fresh):
    with pytest.raises(ArtifactError, match=r"another rank than policy\.lora"):
        policy_for(base, fresh, policy={"lora": {"rank": 3}})


def test_full_fine_tuning_saves_a_unet_for_plain_diffusers(base, tmp_path):
    policy = policy_for(base)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.01)
    save_policy(tmp_path, policy.denoiser, base, {"kind": "full"}, None)

    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")

    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), policy.denoiser.parameters(), strict=True))
    assert not (tmp_path / "model_index.json").exists()


def test_a_normalised_base_holds_what_the_source_held(model, base):
    theirs = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    ours = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)

    for part in ("unet", "vae", "text_encoder"):
        pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert ours.tokenizer("a cat").input_ids == theirs.tokenizer("a cat").input_ids


def _second_encoder(folder):
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")


def _inpainting(folder):
    shutil.rmtree(folder / "unet")
    config = {**tiny.pipeline().unet.config, "in_channels": 9}
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")


def _narrow_text(folder):
    shutil.rmtree(folder / "text_encoder")
    tiny.pipeline(width=8).text_encoder.save_pretrained(folder / "text_encoder")


def _pickled_text(folder):
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")


def _larger_tokenizer(folder):
    words = tiny.tokenizer()
    words.add_tokens(["<my-concept>"])
    words.save_pretrained(folder / "tokenizer")


def _no_tokenizer(folder):
    shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_second_encoder, ConfigError, "text_encoder_2"),
        (_inpainting, ConfigError, "none for inpainting"),
        (_narrow_text, ConfigError, "a text encoder of the width"),
        (_pickled_text, ArtifactError, "they can run code"),
        (_larger_tokenizer, ConfigError, "54 tokens at most, got 'one of 55'"),
        (_no_tokenizer, ArtifactError, "no tokenizer here"),
    ],
)
def test_models_of_another_class_and_broken_ones_are_refused(model, tmp_path, damage, error, message):
    shutil.copytree(model, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    (tmp_path / "target").mkdir()

    with pytest.raises(error, match=message):
        normalise_base(tmp_path / "damaged", tmp_path / "target")


def test_prompts_for_an_unconditional_model_and_none_for_this_one_are_configuration_errors(base):
    config = Config.from_mapping({"model": {"source": "x"}, "sampler": {"steps": STEPS}})
    with pytest.raises(ConfigError, match=r"prompts.*text-to-image"):
        load_policy(config, base, base)


def test_embeddings_survive_their_file(base, tmp_path):
    embeddings = StableDiffusion().embed_prompts(base, tiny.PROMPTS, negative="")
    embeddings.save(tmp_path)
    back = PromptEmbeddings.load(tmp_path)

    assert torch.equal(back.prompts, embeddings.prompts)
    assert torch.equal(back.negative, embeddings.negative)
    with pytest.raises(ArtifactError, match="run `prepare` again"):
        PromptEmbeddings.load(tmp_path / "absent")


@pytest.mark.parametrize("option", ["gradient_checkpointing", "bfloat16"])
def test_gradients_with_checkpointing_are_the_same_and_in_bfloat16_close(base, fresh, option):
    changes = {"gradient_checkpointing": {"gradient_checkpointing": True}, "bfloat16": {"forward_dtype": "bfloat16"}}
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps, prompts = torch.tensor([0, 3]), torch.tensor([0, 1])
    gradients = []
    for model in ({}, changes[option]):
        policy = policy_for(base, fresh, model=model, **LORA)
        # Larger ones saturate the attention, whose gradients then are chaotic in either precision.
        moved(policy, 0.05)
        mean, _ = policy.transition(states, steps, prompts=prompts)
        with torch.no_grad():
            policy.as_reference().transition(states, steps, prompts=prompts)
        assert mean.dtype == torch.float32
        mean.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.denoiser.parameters() if p.requires_grad]))

    exact, other = gradients
    tolerance = 1e-6 if option == "gradient_checkpointing" else 0.1
    assert float((exact - other).norm() / exact.norm()) < tolerance
    if option == "bfloat16":
        assert not torch.equal(exact, other)


def test_guidance_is_taken_in_the_states_precision(base):
    """A bfloat16 forward gives two close answers; their difference is taken, and multiplied, in float32."""
    embeddings = PromptEmbeddings.load(base)
    conditioning = TextConditioning(embeddings=embeddings, call=kind_of(base).ask, guidance_scale=7.5)
    unet = policy_for(base).denoiser
    states, timesteps, prompts = torch.randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.tensor([0, 1])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = conditioning.ask(unet, states, timesteps, prompts)

    assert output.dtype == torch.float32
    assert not torch.equal(output, output.bfloat16().float())
