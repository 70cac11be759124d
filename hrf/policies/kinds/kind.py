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
from hrf.policies.components import read_json
from hrf.policies.conditioning import Conditioning, PromptEmbeddings, Text, TextConditioning
from hrf.policies.decoding import Decoder, LatentDecoder
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

    def check(self, config: Config) -> None:
        """Refuse a configuration for another kind of model."""
        ...

    def question(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What its denoiser is called with for one sample, of zeros; the first is the sample.

        Args:
            config: The denoiser's.
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

    def picture_size(self, base: Path) -> tuple[int, int]:
        """Height and width of its pictures, in pixels."""
        ...


class TextToImage(ABC):
    """What kinds with prompts and an autoencoder share."""

    component: str

    @staticmethod
    @abstractmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Call the denoiser: states, timesteps [B] and the prompt of each sample to its output."""

    def check(self, config: Config) -> None:
        """Demand prompts.

        Raises:
            ConfigError: If there are none.
        """
        if config.prompts is None:
            raise ConfigError(
                "prompts",
                expected="prompts, as the model is a text-to-image one",
                got=None,
                fix="write `prompts: {}` for the animals of the DDPO paper, or name a file of your own",
            )

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

    def picture_size(self, base: Path) -> tuple[int, int]:
        """That of the latents, times what the autoencoder's stages but the first scale them by, two each."""
        height, width = sides(read_json(base / self.component / "config.json")["sample_size"])
        scale = 2 ** (len(read_json(base / "vae" / "config.json")["block_out_channels"]) - 1)
        return scale * height, scale * width


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
