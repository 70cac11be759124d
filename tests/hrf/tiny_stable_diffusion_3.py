"""A Stable Diffusion 3 of some ten thousand parameters, built from its parts' configurations; or a larger one."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tests.hrf import tiny_stable_diffusion as tiny

PROMPTS = tiny.PROMPTS
T5_WIDTH = 40
TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": T5_WIDTH,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 8,
}


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with a vocabulary of letters."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    return T5Tokenizer(vocab=[*marks, *((letter, -3.0) for letter in tiny.LETTERS)], extra_ids=0)


def clip(width: int, projection: int) -> CLIPTextModelWithProjection:
    """A CLIP whose texts don't embed alike."""
    encoder = tiny.clip(width, CLIPTextModelWithProjection, projection_dim=projection)
    for parameter in encoder.text_model.embeddings.parameters():
        parameter.data *= 50
    return encoder


def t5() -> T5EncoderModel:
    """A T5 for the tokenizer above."""
    return T5EncoderModel(
        T5Config(vocab_size=len(t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def autoencoder() -> AutoencoderKL:
    """With a scale and a shift of its latents."""
    return tiny.autoencoder(scaling_factor=1.5, shift_factor=0.06)


def pipeline(
    seed: int = 0, *, with_t5: bool = True, scheduler: dict[str, Any] | None = None, **transformer: Any
) -> StableDiffusion3Pipeline:
    """Latents [4, 8, 8] of pictures [3, 16, 16]; Stable Diffusion 3's shift, unless told otherwise."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        parts = {
            "transformer": SD3Transformer2DModel(**{**TRANSFORMER, **transformer}),
            "vae": autoencoder(),
            "text_encoder": clip(16, 8),
            "text_encoder_2": clip(20, 12),
            "text_encoder_3": t5(),
        }
    if not with_t5:
        parts["text_encoder_3"] = None
    return StableDiffusion3Pipeline(
        **{name: part and part.eval() for name, part in parts.items()},
        tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or {"shift": 3.0})),
    )


def save(folder: Path, **options: Any) -> Path:
    """Build one and save it."""
    pipeline(**options).save_pretrained(folder)
    return folder
