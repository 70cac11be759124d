"""What a folder is, is decided by what is in it: other models than those that can be tuned are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
    VQModel,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from hrf.config import Config, Model
from hrf.core.schedule import NoiseSchedule
from hrf.errors import ArtifactError, ConfigError, HrfError
from hrf.policies.architecture import Architecture
from hrf.policies.folders import load_policy, noise_schedule
from hrf.policies.kinds import kind_of, normalise_base, picture_size
from hrf.policies.schedulers import SCHEDULERS, training_scheduler
from hrf.policies.sources import HUB_FILES, fetch_base
from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.toys import small_unet

PIXELS = Config.from_mapping({"model": {"source": "x"}, "sampler": {"steps": 6}})
OTHER_PROCESSES = (
    "AmusedScheduler",
    "CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler",
    "DDPMWuerstchenScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "IPNDMScheduler",
    "KarrasVeScheduler",
    "LCMScheduler",
    "RePaintScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "VQDiffusionScheduler",
    "no.such.Scheduler",
    None,
)


def unet(**changes: object) -> UNet2DModel:
    """A small one with other settings."""
    settings = {name: value for name, value in small_unet().config.items() if name[0] != "_"}
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return UNet2DModel(**{**settings, **changes})


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "ddpm"
    DDPMPipeline(small_unet(kind=UNet2DModel), DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture
def model(pixels: Path, tmp_path: Path) -> Path:
    """A pixel model to change."""
    return Path(shutil.copytree(pixels, tmp_path / "model"))


@pytest.fixture
def latent_model(stable_diffusion: Path, tmp_path: Path) -> Path:
    """A Stable Diffusion to change."""
    return Path(shutil.copytree(stable_diffusion, tmp_path / "latent"))


def normalised(source: Path) -> Path:
    target = source.parent / f"{source.name}-normalised"
    target.mkdir()
    normalise_base(source, target)
    return target


def with_scheduler(source: Path, **changes: object) -> Path:
    tiny.edit_json(source / "scheduler" / "scheduler_config.json", **changes)
    return source


def refused(source: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        normalised(source)
    assert caught.value.field == "model.source"
    assert caught.value.fix
    return str(caught.value)


class TestParts:
    def test_an_ldm_is_no_model_of_pixels_though_its_latents_have_three_channels(self, tmp_path: Path) -> None:
        vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=8)
        LDMPipeline(vqvae, small_unet(kind=UNet2DModel), DDIMScheduler()).save_pretrained(tmp_path / "ldm")
        said = refused(tmp_path / "ldm")
        assert "LDMPipeline with" in said
        assert "vqvae (VQModel)" in said
        shutil.rmtree(tmp_path / "ldm-normalised")
        (tmp_path / "ldm" / "model_index.json").unlink()
        assert "vqvae (VQModel)" in refused(tmp_path / "ldm")

    @pytest.mark.parametrize("scheduler", [DDIMScheduler(), DDPMScheduler(), PNDMScheduler()])
    def test_a_ddim_pipeline_is_one_of_unet_and_scheduler(self, tmp_path: Path, scheduler: object) -> None:
        DDIMPipeline(small_unet(kind=UNet2DModel), scheduler).save_pretrained(tmp_path / "ddim")
        tiny.edit_json(tmp_path / "ddim" / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])
        scheduler.save_pretrained(tmp_path / "ddim" / "scheduler")
        assert kind_of(normalised(tmp_path / "ddim")).pipeline == "DDPMPipeline"

    @pytest.mark.parametrize(
        ("part", "entry"),
        [
            ("controlnet", ["diffusers", "ControlNetModel"]),
            ("image_encoder", ["transformers", "CLIPVisionModelWithProjection"]),
            ("text_encoder_2", ["transformers", "CLIPTextModelWithProjection"]),
        ],
    )
    def test_a_part_that_would_be_ignored_is_refused(self, latent_model: Path, part: str, entry: list[str]) -> None:
        tiny.edit_json(latent_model / "model_index.json", **{part: entry})
        assert f"{part} ({entry[1]})" in refused(latent_model)

    def test_a_safety_checker_is_left_out(self, latent_model: Path) -> None:
        checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
        tiny.edit_json(latent_model / "model_index.json", **checker, feature_extractor=["transformers", "X"])
        assert json.loads((normalised(latent_model) / "model_index.json").read_text())["safety_checker"] == [None, None]

    def test_a_transformer_is_no_unet(self, model: Path) -> None:
        index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
        (model / "model_index.json").write_text(json.dumps(index))
        shutil.rmtree(model / "unet")
        assert "DiTPipeline with transformer" in refused(model)

    @pytest.mark.parametrize("name", ["UNet1DModel", "UNet3DConditionModel", "AutoencoderKL", None])
    def test_a_denoiser_of_another_class_is_refused_by_its_name(self, model: Path, name: str | None) -> None:
        tiny.edit_json(model / "unet" / "config.json", _class_name=name)
        assert f"got 'a {name}'" in refused(model)

    @pytest.mark.parametrize("name", ["AutoencoderTiny", "VQModel"])
    def test_another_autoencoder_is_refused_by_its_name(self, latent_model: Path, name: str) -> None:
        tiny.edit_json(latent_model / "vae" / "config.json", _class_name=name)
        with pytest.raises(ArtifactError, match=f"of a {name}, not a AutoencoderKL"):
            normalised(latent_model)


class TestUnet:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"class_embed_type": "timestep"}, "class_embed_type: timestep"),
            ({"class_embed_type": "identity"}, "class_embed_type: identity"),
            ({"num_class_embeds": 10}, "num_class_embeds: 10"),
            ({"in_channels": 1, "out_channels": 1}, "1 -> 1 channels"),
            ({"out_channels": 6}, "3 -> 6 channels"),
            ({"sample_size": None}, "sample_size"),
            # The answer of such a network is divided by the timestep, which can be 0 with a list of betas.
            ({"time_embedding_type": "fourier"}, "not finite"),
            ({"time_embedding_type": "learned", "num_train_timesteps": 10}, "IndexError"),
            # Halved once, 9 is 5, which doubled is 10.
            ({"sample_size": 9}, "RuntimeError"),
        ],
    )
    def test_one_that_does_not_answer_to_a_picture_and_a_timestep_is_refused(
        self, tmp_path: Path, changes: dict[str, object], words: str
    ) -> None:
        DDPMPipeline(unet(**changes), DDPMScheduler()).save_pretrained(tmp_path / "odd")
        assert words in refused(tmp_path / "odd")

    @pytest.mark.parametrize("size", ["8", 8.0, True, 0, [8], [8, 8, 8], [8, None]])
    def test_a_size_is_one_number_or_two(self, model: Path, size: object) -> None:
        tiny.edit_json(model / "unet" / "config.json", sample_size=size)
        assert "sample_size" in refused(model)

    def test_pictures_need_not_be_square(self, tmp_path: Path) -> None:
        DDPMPipeline(unet(sample_size=(8, 16)), DDPMScheduler()).save_pretrained(tmp_path / "wide")
        base = normalised(tmp_path / "wide")
        assert picture_size(Architecture.of(base), PIXELS) == (8, 16)
        assert load_policy(PIXELS, base, base).sample_shape == (3, 8, 16)

    def test_latents_decode_to_pictures_of_the_size_that_is_told(self, stable_diffusion: Path) -> None:
        decoder = kind_of(stable_diffusion).decoder(stable_diffusion, torch.device("cpu"))
        pictures = decoder(torch.zeros(1, 4, 8, 8))
        model = Architecture.of(stable_diffusion)
        assert tuple(pictures.shape[2:]) == picture_size(model, PIXELS) == (16, 16)
        with pytest.raises(ConfigError, match=r"model\.picture_size.*the model's own files"):
            picture_size(model, PIXELS.with_changes({"prompts": {}, "model": {"picture_size": 32}}))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers_are_refused(self, model: Path, value: float) -> None:
        file = model / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors["conv_out.bias"][0] = value
        save_file(tensors, file, metadata={"format": "pt"})
        assert "not finite" in refused(model)

    def test_a_setting_that_diffusers_does_not_know_is_not_ignored(self, model: Path) -> None:
        tiny.edit_json(model / "unet" / "config.json", cross_frame_attention=True, _from="a_trainer", unused=None)
        with pytest.raises(ArtifactError, match=r"does not know: cross_frame_attention: True"):
            normalised(model)

    def test_text_to_image_models_say_their_size_too(self, latent_model: Path) -> None:
        tiny.edit_json(latent_model / "unet" / "config.json", sample_size=None)
        assert "sample_size" in refused(latent_model)


class TestScheduler:
    @pytest.mark.parametrize("name", OTHER_PROCESSES)
    def test_another_noise_process_is_refused_by_its_class(self, model: Path, name: str | None) -> None:
        """Kills: taking what is not known for a DDPM with betas that nobody wrote."""
        assert f"got {name!r}" in refused(with_scheduler(model, _class_name=name))

    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_the_betas_of_a_known_one_are_its_own(self, name: str) -> None:
        """Its alphas_cumprod, whichever class reads the file."""
        kind = getattr(diffusers, name)
        settings = {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.013}
        scheduler = {"_class_name": name, "num_train_timesteps": 500, **settings}
        if name == "DPMSolverSDEScheduler" and not diffusers.utils.is_torchsde_available():
            with pytest.raises(ConfigError, match="torchsde"):
                training_scheduler(scheduler)
            return
        expected = kind(num_train_timesteps=500, **settings).alphas_cumprod
        torch.testing.assert_close(training_scheduler(scheduler).alphas_cumprod, torch.as_tensor(expected))

    @pytest.mark.parametrize("kind", [LMSDiscreteScheduler, EulerDiscreteScheduler])
    def test_betas_that_the_file_leaves_to_its_class_are_never_another_classs(self, kind: type) -> None:
        """LMS begins at 0.00085 where nothing is written, DDIM at 0.0001."""
        scheduler = {"_class_name": kind.__name__}
        own = torch.as_tensor(kind().alphas_cumprod)
        if torch.allclose(own, DDIMScheduler().alphas_cumprod):
            torch.testing.assert_close(training_scheduler(scheduler).alphas_cumprod, own)
        else:
            with pytest.raises(ConfigError, match="write num_train_timesteps, beta_schedule"):
                training_scheduler(scheduler)

    @pytest.mark.parametrize("schedule", ["sigmoid", "laplace", "cubic"])
    def test_a_beta_schedule_that_ddim_has_not_is_refused_by_name(self, model: Path, schedule: str) -> None:
        said = refused(with_scheduler(model, beta_schedule=schedule))
        assert f"beta_schedule: {schedule}" in said
        assert "trained_betas" in said

    def test_written_out_its_betas_are_taken(self, model: Path) -> None:
        own = DDPMScheduler(beta_schedule="sigmoid")
        base = normalised(with_scheduler(model, trained_betas=own.betas.tolist()))
        schedule = load_policy(PIXELS, base, base).schedule
        torch.testing.assert_close(schedule.levels[:-1], own.alphas_cumprod[schedule.timesteps].double())

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"thresholding": True}, "thresholding: True"),
            ({"use_flow_sigmas": True}, "use_flow_sigmas: True"),
            ({"timestep_type": "continuous"}, "timestep_type: continuous"),
            ({"prediction_type": "flow_prediction"}, "flow_prediction"),
            ({"trained_betas": [0.01] * 10}, "10 betas for 1000 timesteps"),
            ({"trained_betas": [0.0] + [0.01] * 999}, "a beta of 0"),
            ({"trained_betas": [0.01] * 500 + [1.0] + [0.01] * 499}, "a beta of 1"),
            ({"beta_end": 1.5}, "a beta of 1"),
            ({"beta_start": "small"}, "the configuration of a DDPMScheduler"),
            ({"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True}, "read alike"),
        ],
    )
    def test_a_setting_that_would_be_ignored_is_refused(
        self, model: Path, changes: dict[str, object], words: str
    ) -> None:
        assert words in refused(with_scheduler(model, **changes))

    @pytest.mark.parametrize("limit", [None, 0, -1.0, "1", True])
    def test_a_clip_range_is_a_positive_number(self, model: Path, limit: object) -> None:
        assert "clip_sample_range" in refused(with_scheduler(model, clip_sample_range=limit))

    def test_a_model_of_latents_is_clipped_only_where_its_file_says_so(self, latent_model: Path) -> None:
        file = latent_model / "scheduler" / "scheduler_config.json"
        content = json.loads(file.read_text())
        kind = kind_of(latent_model)
        assert kind.clip_range(content) is None
        assert kind.clip_range({name: value for name, value in content.items() if name != "clip_sample"}) is None
        assert kind.clip_range({**content, "clip_sample": True, "clip_sample_range": 2}) == 2.0


class TestZeroTerminalSnr:
    @staticmethod
    def schedule(prediction: str, **sampler: object) -> NoiseSchedule:
        config = Config.from_mapping({"model": {"source": "x"}, "sampler": {"steps": 10, **sampler}})
        scheduler = {"_class_name": "DDPMScheduler", "rescale_betas_zero_snr": True, "prediction_type": prediction}
        return noise_schedule(scheduler, config)

    def test_a_step_from_nothing_but_noise_says_nothing_of_the_sample_by_epsilon(self) -> None:
        """Division by zero, which the clamp hid."""
        with pytest.raises(ConfigError, match=r"rescale_betas_zero_snr: True, prediction_type: epsilon") as caught:
            self.schedule("epsilon", spacing="trailing")
        assert caught.value.field == "sampler.spacing"

    @pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
    def test_other_predictions_say_it(self, prediction: str) -> None:
        assert self.schedule(prediction, spacing="trailing").levels[0] == 0

    def test_a_sampler_that_begins_later_has_no_such_step(self) -> None:
        assert self.schedule("epsilon", spacing="leading").levels[0] > 0


def test_of_a_repository_the_networks_come_whole_or_in_shards_and_nothing_that_is_not_loaded() -> None:
    wanted = [
        *("model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "vqvae/config.json"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        *("unet/diffusion_pytorch_model.safetensors.index.json", "text_encoder/model-00001-of-00002.safetensors"),
        "vae/diffusion_pytorch_model-00002-of-00003.safetensors",
        *("transformer/config.json", "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"),
        *("text_encoder_3/model.safetensors.index.json", "tokenizer_3/tokenizer.json", "tokenizer_2/vocab.json"),
    ]
    left = [
        *(
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "v1-5-pruned.safetensors",
        ),
        *("text_encoder_3/model.fp16-00001-of-00002.safetensors", "sd3.5_medium.safetensors"),
        *("unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "safety_checker/model.safetensors"),
        *("unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "text_encoder/pytorch_model.bin"),
    ]
    assert list(filter_repo_objects([*wanted, *left], allow_patterns=HUB_FILES)) == wanted


def test_a_refusal_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    with_scheduler(model, _class_name="KarrasVeScheduler")
    with pytest.raises(HrfError):
        fetch_base(Model(source=str(model)), tmp_path / "base", {"step": "fetch"})
    assert not (tmp_path / "base").exists()
