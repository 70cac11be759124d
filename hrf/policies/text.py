"""Prompts to what a denoiser reads, by the model's own tokenizer and text encoder; once per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hrf.errors import ArtifactError, ConfigError
from hrf.policies.conditioning import PromptEmbeddings


@torch.no_grad()
def embed_prompts(base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
    """Embed prompts on the CPU, one after another: a prompt's bits don't depend on the others.

    Args:
        base: A Stable Diffusion model in diffusers' layout.
        texts: P prompts.
        negative: What guidance leads away from; may be empty.

    Returns:
        The last hidden state of each, padded to the text encoder's length, as StableDiffusionPipeline has it.

    Raises:
        ConfigError: If a prompt is longer than the text encoder reads.
        ArtifactError: If the tokenizer or the text encoder can't be loaded.
    """
    tokenizer, encoder = load_tokenizer(base / "tokenizer"), load_text_encoder(base / "text_encoder")
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))

    def embed(text: str, field: str) -> torch.Tensor:
        tokens = tokenizer(text, padding="max_length", max_length=length, return_tensors="pt").input_ids
        if tokens.shape[1] > length:
            raise ConfigError(
                field,
                expected=f"prompts of at most {length} tokens, with those of their start and end",
                got=f"{tokens.shape[1]} tokens: {text!r}",
                fix="shorten it: the text encoder reads no further",
            )
        states: torch.Tensor = encoder(tokens).last_hidden_state[0]
        return states

    return PromptEmbeddings(
        prompts=torch.stack([embed(text, "prompts") for text in texts]), negative=embed(negative, "prompts.negative")
    )


def load_tokenizer(folder: Path) -> Any:
    """Load a CLIP tokenizer.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        raise ArtifactError(folder, problem="no tokenizer here", fix="give a model with a CLIP tokenizer")
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            folder, problem=f"not a loadable CLIPTokenizer: {error}", fix="give a model with a CLIP tokenizer"
        ) from error


def load_text_encoder(folder: Path) -> Any:
    """Load a CLIP text encoder in float32, in evaluation mode.

    Raises:
        ArtifactError: If it is missing, damaged, pickled, or holds other tensors than a CLIP text encoder's.
    """
    from hrf.networks.pretrained import load_model

    return load_model("CLIPTextModel", folder)
