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
        states: torch.Tensor = encoder(tokens_of(tokenizer, text, field, length=length)).last_hidden_state[0]
        return states

    return PromptEmbeddings(
        prompts=torch.stack([embed(text, "prompts") for text in texts]), negative=embed(negative, "prompts.negative")
    )


@torch.no_grad()
def read_by_clip(
    base: Path, end: str, kind: str, asked: Sequence[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as models with several text encoders read them of one of their CLIPs.

    Args:
        base: A model in diffusers' layout.
        end: What the names of the text encoder and of its tokenizer end in.
        kind: Class of the text encoder.
        asked: P prompts, and the fields of the configuration that they are from.

    Returns:
        (the last hidden states but one [P, L, D], each prompt as a whole [P, E]: its projection, or of a text encoder
        without them, its last state at the end).

    Raises:
        ConfigError: If a prompt is longer than the text encoder reads.
        ArtifactError: If the tokenizer or the text encoder can't be loaded.
    """
    tokenizer, encoder = load_tokenizer(base / f"tokenizer{end}"), load_text_encoder(base / f"text_encoder{end}", kind)
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
    answers = [
        encoder(tokens_of(tokenizer, text, field, length=length), output_hidden_states=True) for text, field in asked
    ]
    whole = [answer.text_embeds if "text_embeds" in answer else answer.pooler_output for answer in answers]
    return torch.cat([answer.hidden_states[-2] for answer in answers]), torch.cat(whole)


@torch.no_grad()
def read_by_t5(base: Path, end: str, asked: Sequence[tuple[str, str]], *, length: int) -> torch.Tensor:
    """The same for a T5: its states [P, L, D] at so many tokens; other arguments and errors as of `read_by_clip`."""
    tokenizer = load_tokenizer(base / f"tokenizer{end}", "T5Tokenizer")
    encoder = load_text_encoder(base / f"text_encoder{end}", "T5EncoderModel")
    return torch.cat([encoder(tokens_of(tokenizer, text, field, length=length))[0] for text, field in asked])


def tokens_of(tokenizer: Any, text: str, field: str, *, length: int) -> torch.Tensor:
    """A prompt's tokens, padded to a length, [1, length].

    Args:
        tokenizer: As `load_tokenizer` gives it.
        text: The prompt.
        field: Of the configuration, for messages.
        length: As far as the text encoder reads.

    Raises:
        ConfigError: If it is longer.
    """
    tokens: torch.Tensor = tokenizer(text, padding="max_length", max_length=length, return_tensors="pt").input_ids
    if tokens.shape[1] > length:
        raise ConfigError(
            field,
            expected=f"prompts of at most {length} tokens, with those of their start and end",
            got=f"{tokens.shape[1]} tokens: {text!r}",
            fix="shorten it: the text encoder reads no further",
        )
    return tokens


def load_tokenizer(folder: Path, kind: str = "CLIPTokenizer") -> Any:
    """Load a tokenizer of a class of transformers.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    import transformers

    if not folder.is_dir():
        raise ArtifactError(folder, problem="no tokenizer here", fix=f"give a model with a {kind}")
    try:
        return getattr(transformers, kind).from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ArtifactError(
            folder, problem=f"not a loadable {kind}: {error}", fix=f"give a model with a {kind}"
        ) from error


def load_text_encoder(folder: Path, kind: str = "CLIPTextModel") -> Any:
    """Load a text encoder of a class of transformers in float32, in evaluation mode.

    Raises:
        ArtifactError: If it is missing, damaged, pickled, or holds other tensors than such a text encoder's.
    """
    from hrf.networks.pretrained import load_model

    return load_model(kind, folder)
