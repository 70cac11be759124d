"""Prompts to what a denoiser reads, by the model's own tokenizers and text encoders; once per run.

They are read one after another: a prompt's bits don't depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hrf.errors import ArtifactError, ConfigError


class TextEncoder(NamedTuple):
    """One of a model's text encoders, and the tokenizer that belongs to it."""

    end: str = ""
    """What the names of their folders end in, after `text_encoder` and `tokenizer`."""
    kind: str = "CLIPTextModel"
    """Class of the text encoder in transformers."""
    tokenizer_kind: str = "CLIPTokenizer"
    """Class of its tokenizer."""
    optional: bool = False
    """Whether a model may be without it."""

    @property
    def name(self) -> str:
        """Folder of the text encoder."""
        return f"text_encoder{self.end}"

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer."""
        return f"tokenizer{self.end}"

    def load(self, base: Path) -> tuple[Any, Any]:
        """(tokenizer, text encoder) of a model in diffusers' layout.

        Raises:
            ArtifactError: If one can't be loaded.
        """
        return load_tokenizer(base / self.tokenizer, self.tokenizer_kind), load_text_encoder(
            base / self.name, self.kind
        )


@torch.no_grad()
def read_by_clip(
    base: Path, clip: TextEncoder, asked: Sequence[tuple[str, str]], *, states: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as a model's CLIP reads them.

    Args:
        base: A model in diffusers' layout.
        clip: Which of its text encoders.
        asked: P prompts, and the fields of the configuration that they are from.
        states: Which hidden states: -1 for the last ones, after the final normalisation, or -2 for those before.

    Returns:
        (hidden states [P, L, D], padded to the text encoder's length; each prompt as a whole [P, E]: its projection, or
        of a text encoder without them, its last state at the end).

    Raises:
        ConfigError: If a prompt is longer than the text encoder reads.
        ArtifactError: If the tokenizer or the text encoder can't be loaded.
    """
    tokenizer, encoder = clip.load(base)
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
    answers = [
        encoder(tokens_of(tokenizer, text, field, length=length), output_hidden_states=True) for text, field in asked
    ]
    whole = [answer.text_embeds if "text_embeds" in answer else answer.pooler_output for answer in answers]
    read = [answer.last_hidden_state if states == -1 else answer.hidden_states[states] for answer in answers]
    return torch.cat(read), torch.cat(whole)


@torch.no_grad()
def read_by_t5(base: Path, t5: TextEncoder, asked: Sequence[tuple[str, str]], *, length: int) -> torch.Tensor:
    """The same for a T5: its states [P, L, D] at so many tokens; other arguments and errors as of `read_by_clip`."""
    tokenizer, encoder = t5.load(base)
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


def load_tokenizer(folder: Path, kind: str) -> Any:
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


def load_text_encoder(folder: Path, kind: str) -> Any:
    """Load a text encoder of a class of transformers in float32, in evaluation mode.

    Raises:
        ArtifactError: If it is missing, damaged, pickled, or holds other tensors than such a text encoder's.
    """
    from hrf.networks.pretrained import load_model

    return load_model(kind, folder)
