"""Text-to-image flows of the class of FLUX.1, dev and schnell: FluxPipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, scheduler_config
from hrf.policies.conditioning import Conditioning, PromptEmbeddings, Text, TextConditioning
from hrf.policies.kinds.kind import TextToImage, latent_side, rewrite_text_encoders, write_index, write_scheduler
from hrf.policies.schedulers import Timing, flow_scheduler
from hrf.policies.text import read_by_clip, read_by_t5

_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}
_TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"}
_T5_TOKENS = 512
_PATCH = 2
"""Side of the patches of latents that are packed into a token, as its pipeline has it."""
_LATENTS = 128
"""Side of the latents that its pipeline draws unless told otherwise; the model's files say nothing of it."""
_TIMESTEPS = 1000
"""Its transformer is asked at sigma, which is its scheduler's timestep divided by this."""


class Flux(TextToImage):
    """Text-to-image flows of the class of FLUX.1, dev and schnell: FluxPipeline."""

    pipeline = "FluxPipeline"
    component = "transformer"
    denoiser = "FluxTransformer2DModel"
    denoiser_settings: Mapping[str, Any] = {}
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite transformer, autoencoder, text encoders, tokenizers and scheduler, one network after the other.

        Raises:
            ConfigError: If it is a model of another class, such as one for filling in or for depth.
            ArtifactError: If a part is missing or damaged.
        """
        check_parts(
            source,
            (self.component, "vae", *_ENCODERS, *_TOKENIZERS, "scheduler"),
            left_out=("image_encoder", "feature_extractor"),
        )
        scheduler = scheduler_config(source)
        timesteps = flow_scheduler(scheduler).timesteps
        denoiser = load_component(source / self.component, self.denoiser)
        config = denoiser.config
        # Of four patches and one word: an answer of twelve billion parameters to more takes minutes.
        small = self.question(config, (config.in_channels // _PATCH**2, 2 * _PATCH, 2 * _PATCH), num_words=1)
        check_answers(denoiser, small, timesteps[[0, -1]] / _TIMESTEPS)
        denoiser.save_pretrained(target / self.component)
        del denoiser
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        autoencoder.save_pretrained(target / "vae")
        read = rewrite_text_encoders(source, target, _ENCODERS, _TOKENIZERS)
        _check_fits(config, autoencoder.config, *read.values())
        write_scheduler(scheduler, target)
        write_index(
            target,
            {
                "_class_name": self.pipeline,
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                **{name: ["transformers", kind] for name, kind in {**_ENCODERS, **_TOKENIZERS}.items()},
                "transformer": ["diffusers", self.denoiser],
                "vae": ["diffusers", "AutoencoderKL"],
            },
        )

    def check(self, config: Config, model: Architecture) -> None:
        """Demand prompts and the guidance that dev reads; refuse to re-noise what schnell draws.

        Raises:
            ConfigError: As said.
        """
        super().check(config, model)
        scheduler = flow_scheduler(model.scheduler).config
        shifts = scheduler.use_dynamic_shifting or scheduler.shift != 1
        if config.starts.kind != "noise" and not model.settings["guidance_embeds"] and not shifts:
            raise ConfigError(
                "starts.kind",
                expected="'noise', as the model is distilled to few steps by its files (it reads no guidance, and its "
                "scheduler doesn't shift): a re-noised start takes the velocity there for the mean over all samples "
                "that noise may have led from, which such a model has not learnt",
                got=config.starts.kind,
                fix="set it to noise, or choose FLUX.1-dev; if this model was trained for many steps, write how its "
                "scheduler is to shift (`shift`, or `use_dynamic_shifting`) into scheduler_config.json",
            )

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """Latents before they are packed, of the configured picture size, or of the pipeline's.

        Raises:
            ConfigError: If a picture size is no number of patches.
        """
        side = _LATENTS if picture_size is None else latent_side(model, picture_size, _PATCH)
        return model.settings["in_channels"] // _PATCH**2, side, side

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing:
        """The number of patches; and its pipeline says where the steps lie before the shift."""
        del config
        return Timing(num_tokens=shape[1] * shape[2] // _PATCH**2, even=True)

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """As of others, the embedded guidance with each question.

        Raises:
            ValueError: If there are no embeddings.
        """
        if embeddings is None:
            raise ValueError("a text-to-image policy needs the embeddings of its prompts")
        ask = partial(self.ask, guidance=config.model.embedded_guidance)
        return TextConditioning(embeddings=embeddings, call=ask, guidance_scale=config.model.guidance_scale)

    @staticmethod
    def ask(
        denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text, guidance: float | None = None
    ) -> Tensor:
        """Of latents packed into tokens, sigma, T5's tokens, CLIP's pooled text, and a guidance where it reads one."""
        rows, columns = (side // _PATCH for side in states.shape[2:])
        output: Tensor = denoiser(
            hidden_states=pixel_unshuffle(states, _PATCH).flatten(2).transpose(1, 2),
            timestep=timesteps / _TIMESTEPS,
            guidance=None if guidance is None else states.new_full((len(states),), guidance),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            **_positions(rows, columns, text.tokens.shape[1], states.device),
        ).sample
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), _PATCH)

    def question(
        self, config: Mapping[str, Any], shape: tuple[int, int, int], num_words: int = _T5_TOKENS
    ) -> dict[str, Any]:
        """As `ask` calls it."""
        rows, columns = (side // _PATCH for side in shape[1:])
        return {
            "hidden_states": torch.zeros(1, rows * columns, config["in_channels"]),
            "timestep": torch.zeros(1),
            "guidance": torch.zeros(1) if config["guidance_embeds"] else None,
            "encoder_hidden_states": torch.zeros(1, num_words, config["joint_attention_dim"]),
            "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
            **_positions(rows, columns, num_words, None),
        }

    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts on the CPU as FluxPipeline does, one text encoder after the other.

        T5's last states; as a whole, CLIP's state at the text's end.

        Args:
            base: A model that `normalise` wrote.
            texts: P prompts.
            negative: What classifier-free guidance leads away from; may be empty.

        Raises:
            ConfigError: If a prompt is longer than a text encoder reads.
            ArtifactError: If a tokenizer or a text encoder can't be loaded.
        """
        asked = [*((text, "prompts") for text in texts), (negative, "prompts.negative")]
        _, pooled = read_by_clip(base, "", _ENCODERS["text_encoder"], asked)
        tokens = read_by_t5(base, "_2", asked, length=_T5_TOKENS)
        return PromptEmbeddings(
            prompts=tokens[:-1], negative=tokens[-1], pooled=pooled[:-1], negative_pooled=pooled[-1]
        )

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None: latents are not clamped."""
        del scheduler
        return None


def _positions(rows: int, columns: int, num_words: int, device: torch.device | None) -> dict[str, Tensor]:
    """Where tokens are, for the rotary embedding: (0, row, column) of a patch, zeros of a word."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    grid = torch.cartesian_prod(torch.zeros(1, device=device), row.float(), column.float())
    return {"img_ids": grid, "txt_ids": torch.zeros(num_words, 3, device=device)}


def _check_fits(denoiser: Any, autoencoder: Any, clip: Any, t5: Any) -> None:
    """Refuse parts that don't belong together, and transformers that read more than a packed latent."""
    channels = (denoiser.in_channels, denoiser.out_channels or denoiser.in_channels)
    packed = autoencoder.latent_channels * _PATCH**2
    pooled, joint = (clip.hidden_size, denoiser.pooled_projection_dim), (t5.d_model, denoiser.joint_attention_dim)
    if {*channels} != {packed} or len({*pooled}) > 1 or len({*joint}) > 1 or autoencoder.out_channels != 3:
        raise ConfigError(
            "model.source",
            expected=f"a transformer of {packed} channels in and out, four for each of the autoencoder's, whose "
            "pictures are RGB, and text encoders of the widths that it reads",
            got=f"channels {channels} and {autoencoder.out_channels}, pooled widths {pooled}, joint widths {joint}",
            fix="choose a FLUX.1 text-to-image model, whole as it was published; none for filling in, depth or edges",
        )
