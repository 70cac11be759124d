"""Text-to-image models of the class of Stable Diffusion XL: StableDiffusionXLPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts, check_sample_size
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, read_json, scheduler_config
from hrf.policies.conditioning import PromptEmbeddings, Text
from hrf.policies.kinds.kind import TextToImage, own_sample_shape, rewrite_text_encoders, write_index, write_scheduler
from hrf.policies.schedulers import clip_range_of, training_scheduler
from hrf.policies.text import read_by_clip

_PROMPT_TOKENS = 77
"""CLIP's context length."""
_SIZES = 6
"""How many numbers say a picture's size, where it was cut from, and the size that is wanted; height first."""
_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
_TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"}
_OTHER_DECODERS = ("vae_1_0", "vae_decoder", "vae_encoder")
"""Folders of the published repository that its index does not name: an older autoencoder, and the same one for ONNX."""
_INDEX = "model_index.json"
_ZEROS = "force_zeros_for_empty_prompt"


class StableDiffusionXL(TextToImage):
    """Text-to-image models of the class of Stable Diffusion XL: StableDiffusionXLPipeline."""

    pipeline = "StableDiffusionXLPipeline"
    component = "unet"
    denoiser = "UNet2DConditionModel"
    denoiser_settings: Mapping[str, Any] = {"addition_embed_type": "text_time"}
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite UNet, autoencoder, both text encoders and tokenizers, and scheduler, one network after the other.

        Raises:
            ConfigError: If it is a model of another class, such as SDXL's refiner.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(
            source,
            (self.component, "vae", *_ENCODERS, *_TOKENIZERS, "scheduler"),
            left_out=("image_encoder", "feature_extractor", *_OTHER_DECODERS),
        )
        scheduler = scheduler_config(source)
        num_timesteps = len(training_scheduler(scheduler).alphas_cumprod)
        denoiser = load_component(source / self.component, self.denoiser)
        config = denoiser.config
        _check_unet(config)
        shape = own_sample_shape(Architecture(denoiser=config, scheduler=scheduler), None)
        check_answers(denoiser, self.question(config, shape), torch.tensor([0, num_timesteps - 1]))
        denoiser.save_pretrained(target / self.component)
        del denoiser
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        autoencoder.save_pretrained(target / "vae")
        read = rewrite_text_encoders(source, target, _ENCODERS, _TOKENIZERS)
        _check_fits(config, autoencoder.config, read)
        # Absent, it would mean True to some of diffusers' schedulers and False to others; latents are not clamped.
        scheduler = {"clip_sample": False, **scheduler}
        write_scheduler(scheduler, target)
        index = read_json(source / _INDEX) if (source / _INDEX).is_file() else {}
        write_index(
            target,
            {
                "_class_name": self.pipeline,
                "feature_extractor": [None, None],
                _ZEROS: bool(index.get(_ZEROS, True)),
                "image_encoder": [None, None],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                **{name: ["transformers", kind] for name, kind in {**_ENCODERS, **_TOKENIZERS}.items()},
                "unet": ["diffusers", self.denoiser],
                "vae": ["diffusers", "AutoencoderKL"],
            },
        )

    @staticmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Of a latent, a timestep, the tokens of both text encoders, the pooled text, and the sizes behind it."""
        assert text.pooled is not None
        added = {"text_embeds": text.pooled[:, :-_SIZES], "time_ids": text.pooled[:, -_SIZES:]}
        output: Tensor = denoiser(states, timesteps, encoder_hidden_states=text.tokens, added_cond_kwargs=added).sample
        return output

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """As `ask` calls it."""
        pooled = config["projection_class_embeddings_input_dim"] - _SIZES * config["addition_time_embed_dim"]
        return {
            "sample": torch.zeros(1, *shape),
            "timestep": torch.zeros(1, dtype=torch.int64),
            "encoder_hidden_states": torch.zeros(1, _PROMPT_TOKENS, config["cross_attention_dim"]),
            "added_cond_kwargs": {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, _SIZES)},
        }

    @torch.no_grad()
    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts on the CPU as StableDiffusionXLPipeline does, one text encoder after the other.

        Both encoders' last states but one side by side; as a whole, the second one's projection, and behind it the
        size of the pictures, which are said to be uncut. An empty negative prompt is zeros, if the model says so.

        Args:
            base: A model that `normalise` wrote.
            texts: P prompts.
            negative: What guidance leads away from; may be empty.

        Raises:
            ConfigError: If a prompt is longer than the text encoders read.
            ArtifactError: If a tokenizer or a text encoder can't be loaded.
        """
        asked = [*((text, "prompts") for text in texts), (negative, "prompts.negative")]
        clips = [read_by_clip(base, end, kind, asked) for end, kind in zip(("", "_2"), _ENCODERS.values(), strict=True)]
        tokens, projections = torch.cat([states for states, _ in clips], dim=-1), clips[1][1]
        if not negative and read_json(base / _INDEX)[_ZEROS]:
            tokens[-1], projections[-1] = 0, 0
        model = Architecture.of(base)
        height, width = (model.scale * side for side in self.sample_shape(model, None)[1:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(len(asked), -1)
        pooled = torch.cat([projections, sizes], dim=-1)
        return PromptEmbeddings(
            prompts=tokens[:-1], negative=tokens[-1], pooled=pooled[:-1], negative_pooled=pooled[-1]
        )

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None, unless the scheduler asks for it."""
        return clip_range_of(scheduler, by_default=False)


def _check_unet(config: Any) -> None:
    """Refuse UNets that read more than a latent, a timestep, a text and sizes."""
    check_sample_size(config)
    extras = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
    found = [name for name in extras if config.get(name) is not None]
    pooled = (config.projection_class_embeddings_input_dim or 0) - _SIZES * (config.addition_time_embed_dim or 0)
    if found or pooled <= 0:
        raise _refused(", ".join(found) or f"a pooled text {pooled} wide")


def _check_fits(unet: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
    """Refuse parts that don't belong together."""
    channels = (unet.in_channels, unet.out_channels, autoencoder.latent_channels)
    widths = (sum(encoder.hidden_size for encoder in encoders.values()), unet.cross_attention_dim)
    sizes = _SIZES * unet.addition_time_embed_dim
    pooled = (encoders["text_encoder_2"].projection_dim, unet.projection_class_embeddings_input_dim - sizes)
    if len(set(channels)) > 1 or len(set(widths)) > 1 or len(set(pooled)) > 1 or autoencoder.out_channels != 3:
        raise _refused(f"channels {channels} and {autoencoder.out_channels}, widths {widths}, pooled widths {pooled}")


def _refused(got: str) -> ConfigError:
    return ConfigError(
        "model.source",
        expected="a UNet of latents, timesteps, one text and six sizes: as many channels in and out as the autoencoder "
        "has, whose pictures are RGB, and text encoders of the widths that it reads",
        got=got,
        fix="choose a Stable Diffusion XL base model; not its refiner, nor one for inpainting or distilled guidance",
    )
