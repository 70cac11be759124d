"""What a kind of base model has to say of itself, and what kinds share."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.conditioning import Conditioning, PromptEmbeddings, Text, TextConditioning
from hrf.policies.decoding import Decoder, LatentDecoder
from hrf.policies.schedulers import Timing
from hrf.policies.text import load_text_encoder, load_tokenizer

_TOKENIZER_FILES = ("*.json", "*.txt")


class Kind(Protocol):
    """A kind of base model."""

    pipeline: str
    """Class of its pipeline in diffusers."""
    component: str
    """Folder of its denoiser: `unet` or `transformer`."""
    denoiser: str
    """Class of its denoiser."""
    denoiser_settings: Mapping[str, Any]
    """What its denoiser's configuration says, and that of other kinds with the same class does not."""
    policy_files: tuple[str, ...]
    """What goes with tuned weights, besides them."""

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite any accepted layout as a pipeline folder with float32 safetensors."""
        ...

    def check(self, config: Config, model: Architecture) -> None:
        """Refuse a configuration for another kind of model."""
        ...

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """(C, H, W) of its samples.

        Args:
            model: The base model.
            picture_size: `model.picture_size`.
        """
        ...

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing | None:
        """Of a flow, what its scheduler is told; else None.

        Args:
            config: The denoiser's.
            shape: Of a sample.
        """
        ...

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """What its denoiser is called with for one sample, of zeros; the first is the sample.

        Args:
            config: The denoiser's.
            shape: Of the sample.
        """
        ...

    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts by the model's own text encoders, on the CPU; none of them is kept."""
        ...

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """How its denoiser is asked."""
        ...

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """Its finished samples to pictures."""
        ...

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """Clamp of its estimated sample; None for none."""
        ...


class TextToImage(ABC):
    """What kinds with prompts and an autoencoder share."""

    component: str

    @staticmethod
    @abstractmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Call the denoiser: states, timesteps [B] and the prompt of each sample to its output."""

    def check(self, config: Config, model: Architecture) -> None:
        """Demand prompts, and of a model that reads guidance as a number, that number.

        Raises:
            ConfigError: If there are none, or it reads none.
        """
        if config.prompts is None:
            raise ConfigError(
                "prompts",
                expected="prompts, as the model is a text-to-image one",
                got=None,
                fix="write `prompts: {}` for the animals of the DDPO paper, or name a file of your own",
            )
        guidance = config.model.embedded_guidance
        reads = model.settings.get("guidance_embeds", False)
        if reads and guidance is None:
            raise ConfigError(
                "model.embedded_guidance",
                expected="a number, which the model reads beside the prompt",
                got=None,
                fix="set it to 3.5, with which its pipeline draws",
            )
        if not reads and guidance is not None:
            raise ConfigError(
                "model.embedded_guidance",
                expected="null, as the model reads no such number",
                got=guidance,
                fix="leave it out; model.guidance_scale is classifier-free guidance, for all models",
            )

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """As the denoiser's configuration says."""
        return own_sample_shape(model, picture_size)

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing | None:
        """None: its process is a variance-preserving one."""
        del config, shape
        return None

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """Of a state and a prompt, guided as configured.

        Raises:
            ValueError: If there are no embeddings.
        """
        if embeddings is None:
            raise ValueError("a text-to-image policy needs the embeddings of its prompts")
        return TextConditioning(embeddings=embeddings, call=self.ask, guidance_scale=config.model.guidance_scale)

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """By the model's autoencoder."""
        return LatentDecoder(folder=base / "vae", device=device)


def own_sample_shape(model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
    """(C, H, W) of samples as the denoiser's configuration has it.

    Raises:
        ConfigError: If another picture size is wanted.
    """
    if picture_size is not None:
        raise ConfigError(
            "model.picture_size",
            expected="null, as the model's own files say how large its pictures are",
            got=picture_size,
            fix="leave it out",
        )
    return (int(model.settings["in_channels"]), *sides(model.settings["sample_size"]))


def latent_side(model: Architecture, picture_size: int, patch: int) -> int:
    """Side of the latents of pictures so large.

    Raises:
        ConfigError: If they are no number of patches of so many latents.
    """
    if picture_size % (model.scale * patch):
        raise ConfigError(
            "model.picture_size",
            expected=f"a multiple of {model.scale * patch}: the autoencoder's {model.scale} pixels to a latent, and "
            f"{patch} latents to a patch",
            got=picture_size,
            fix="choose one, such as half of what the model draws by itself",
        )
    return picture_size // model.scale


def sides(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a `sample_size`."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def rewrite_text_encoders(
    source: Path, target: Path, encoders: Mapping[str, str], tokenizers: Mapping[str, str]
) -> dict[str, Any]:
    """Rewrite text encoders and the tokenizer of each, one after the other: they may be larger than the denoiser.

    Args:
        source: A model in diffusers' layout.
        target: The pipeline folder.
        encoders: Component -> class of transformers.
        tokenizers: The same, in the same order.

    Returns:
        Component -> configuration of the text encoder.

    Raises:
        ArtifactError: If one can't be loaded.
        ConfigError: If a tokenizer has more tokens than its text encoder knows.
    """
    read = {}
    for (name, kind), (words, of) in zip(encoders.items(), tokenizers.items(), strict=True):
        num_tokens, encoder = len(load_tokenizer(source / words, of)), load_text_encoder(source / name, kind)
        if num_tokens > encoder.config.vocab_size:
            raise ConfigError(
                "model.source",
                expected=f"a tokenizer of {name}'s {encoder.config.vocab_size} tokens at most",
                got=f"one of {num_tokens}",
                fix="give the tokenizer that belongs to the text encoder, or one whose embeddings were added to it",
            )
        encoder.save_pretrained(target / name)
        read[name] = encoder.config
        del encoder
        (target / words).mkdir()
        for pattern in _TOKENIZER_FILES:
            for file in sorted((source / words).glob(pattern)):
                shutil.copyfile(file, target / words / file.name)
    return read


def write_scheduler(scheduler: Mapping[str, Any], target: Path) -> None:
    """Write the scheduler's configuration of a pipeline folder."""
    (target / "scheduler").mkdir()
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(scheduler), indent=2), encoding="utf-8")


def write_index(target: Path, index: Mapping[str, Any]) -> None:
    """Write what a pipeline folder consists of."""
    (target / "model_index.json").write_text(json.dumps(dict(index), indent=2), encoding="utf-8")
