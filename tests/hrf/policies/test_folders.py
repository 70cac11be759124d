"""Models in diffusers' layouts: what loads, what is refused, and that plain diffusers runs what we save."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from hrf.config import Config
from hrf.errors import ArtifactError, ConfigError, StorageError
from hrf.policies.architecture import Architecture
from hrf.policies.folders import evaluated_from, evaluation_schedule, load_policy, noise_schedule, save_policy
from hrf.policies.kinds import normalise_base
from hrf.policies.sources import fetch_model
from hrf.seeds import Purpose, stream
from hrf.storage.shipped import shipped_folder
from hrf.trainer.rollout import Batch, denoise, draw_noise
from tests.hrf.toys import small_unet


def config_for(source, **changes) -> Config:
    values = {"model": {"source": str(source)}, "sampler": {"steps": 6}}
    for section, fields in changes.items():
        values.setdefault(section, {}).update(fields)
    return Config.from_mapping(values)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler(beta_schedule="linear")).save_pretrained(folder)
    return folder


@pytest.fixture
def base(model, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    normalise_base(model, folder)
    return folder


def samples_of(policy, count=3, seed=0):
    streams = [stream(seed, Purpose.EVALUATION, i) for i in range(count)]
    return denoise(policy, Batch.from_noise(policy, streams), batch_size=count)


def test_a_saved_policy_is_a_pipeline_for_plain_diffusers_with_the_same_pictures(base, tmp_path):
    """DDIMPipeline with eta 0 from the same noise gives our deterministic samples."""
    config = config_for("unused", sampler={"eta": 0.5})
    policy = load_policy(config, base, base)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.01)
    saved = tmp_path / "policy"
    saved.mkdir()
    save_policy(saved, policy.denoiser, base, {"kind": "full"}, None)

    pipeline = DDPMPipeline.from_pretrained(saved)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(6)
    streams = [stream(0, Purpose.EVALUATION, i) for i in range(3)]
    states = draw_noise(streams, policy.sample_shape, torch.device("cpu"))
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            output = pipeline.unet(states, timestep).sample
        states = scheduler.step(output, timestep, states, eta=0.0).prev_sample

    ours = samples_of(policy.with_schedule(policy.schedule.with_eta(0.0)))
    torch.testing.assert_close(ours, states, rtol=1e-4, atol=1e-4)


def test_the_flat_layout_of_early_hub_models_loads_too(model, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (model / "unet").iterdir():
        (flat / file.name).write_bytes(file.read_bytes())
    (flat / "scheduler_config.json").write_bytes((model / "scheduler" / "scheduler_config.json").read_bytes())
    target = tmp_path / "normal"
    target.mkdir()

    normalise_base(flat, target)

    ours, theirs = DDPMPipeline.from_pretrained(target).unet, DDPMPipeline.from_pretrained(model).unet
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_pickled_weights_are_refused(model, tmp_path):
    """Kills: a loader that falls back to the pickle format."""
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(model / "unet" / "diffusion_pytorch_model.bin")

    with pytest.raises(ArtifactError, match=r"safetensors.*they can run code"):
        normalise_base(model, tmp_path)


def test_damaged_weights_are_an_artifact_error(model, tmp_path):
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ArtifactError, match="not a loadable UNet2DModel"):
        normalise_base(model, tmp_path)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_models_own_prediction_type_decides(base, prediction):
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": prediction}))

    assert load_policy(config_for("x"), base, base).prediction == prediction


def test_an_unknown_prediction_type_is_refused(base):
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "score"}))

    with pytest.raises(ConfigError, match="epsilon, v_prediction or sample"):
        load_policy(config_for("x"), base, base)


def test_evaluations_with_steps_that_the_model_has_not_are_refused_by_their_own_name():
    """Kills: an error that names the training's steps, which are right; a switch after the last step."""

    def of(**scheduler: int) -> Architecture:
        denoiser = {"_class_name": "UNet2DModel", "sample_size": 8}
        return Architecture(denoiser=denoiser, scheduler={"_class_name": "DDIMScheduler", **scheduler})

    with pytest.raises(ConfigError, match="50 training timesteps") as caught:
        evaluation_schedule(of(num_train_timesteps=50), config_for("x", evaluation={"steps": 60}))
    assert (caught.value.field, caught.value.got) == ("evaluation.steps", 60)
    # The last of two is at timestep 499, the switch at 166.
    asked = {"sampler": {"steps": 6, "spacing": "trailing"}, "policy": {"split": 0.6}, "evaluation": {"steps": 2}}
    with pytest.raises(ConfigError, match="take one, from step 4 of 6 on") as caught:
        evaluated_from(of(), config_for("x", **asked))
    assert caught.value.field == "evaluation.steps"


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({"set_alpha_to_one": False, "steps_offset": 1}, "leading"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "leading"),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "trailing"),
    ],
)
def test_tables_come_from_the_schedulers_own_betas_offset_and_final_alpha(changes, spacing):
    scheduler = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear", **changes}
    reference = DDIMScheduler.from_config(scheduler, timestep_spacing=spacing)
    reference.set_timesteps(20)

    schedule = noise_schedule(scheduler, config_for("x", sampler={"steps": 20, "spacing": spacing}))

    assert schedule.timesteps.tolist() == reference.timesteps.tolist()
    assert float(schedule.levels[-1]) == pytest.approx(float(reference.final_alpha_cumprod))
    for k, timestep in enumerate(reference.timesteps):
        variance = reference._get_variance(timestep, timestep - 50)
        assert float(schedule.stds[k]) == pytest.approx(float(variance) ** 0.5, rel=1e-3, abs=1e-6)


def test_a_min_std_above_every_step_is_a_configuration_error(base):
    with pytest.raises(ConfigError, match=r"sampler\.min_std.*no step would be trained"):
        load_policy(config_for("x", sampler={"min_std": 0.999}), base, base)


def test_the_reference_is_loaded_only_where_it_is_needed(base):
    assert load_policy(config_for("x"), base, base).reference is None
    asked = load_policy(config_for("x"), base, base, reference=True)
    split = load_policy(config_for("x", policy={"split": 0.5}), base, base)
    for policy in (asked, split):
        assert policy.reference is not policy.denoiser
        assert not any(parameter.requires_grad for parameter in policy.reference.parameters())


def test_the_average_is_loaded_only_when_asked_for(base, tmp_path):
    policy = load_policy(config_for("x"), base, base)
    average = {name: torch.full_like(value, 0.5) for name, value in policy.denoiser.named_parameters()}
    saved = tmp_path / "policy"
    saved.mkdir()
    save_policy(saved, policy.denoiser, base, {}, average)

    plain, averaged = (load_policy(config_for("x"), base, saved, average=flag) for flag in (False, True))

    assert all(bool((value == 0.5).all()) for value in averaged.denoiser.parameters())
    assert not all(bool((value == 0.5).all()) for value in plain.denoiser.parameters())


def test_a_bfloat16_forward_gives_float32_transitions_close_to_the_float32_ones(base):
    """Trap 3: only the denoiser's own arithmetic may be coarse."""
    exact = load_policy(config_for("x"), base, base)
    coarse = load_policy(config_for("x", model={"forward_dtype": "bfloat16"}), base, base)

    ours, theirs = samples_of(coarse), samples_of(exact)

    assert ours.dtype == torch.float32
    assert not torch.equal(ours, theirs)
    assert float((ours - theirs).abs().mean()) < 0.05


def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu(base):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"model\.device"):
        load_policy(config_for("x", model={"device": "cuda"}), base, base)


def test_a_shipped_model_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ConfigError, match="avatars-32"):
        shipped_folder("nosuch")


def test_a_folder_that_does_not_exist_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.source"):
        fetch_model(config_for(tmp_path / "absent").model, tmp_path)


def test_a_hub_that_cannot_be_reached_is_a_storage_error_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = config_for("hf:google/ddpm-celebahq-256", model={"revision": "a" * 40}).model

    with pytest.raises(StorageError, match="copy the model to S3 or a folder"):
        fetch_model(model, tmp_path / "target")


def test_a_model_in_object_storage_is_fetched(model, storage, tmp_path):
    for file in model.rglob("*"):
        if file.is_file():
            storage.upload_file(file, f"models/tiny/{file.relative_to(model).as_posix()}")
    source = config_for(storage.url("models/tiny")).model

    folder = fetch_model(source, tmp_path / "fetched")

    assert DDPMPipeline.from_pretrained(folder).unet.config.sample_size == 8
