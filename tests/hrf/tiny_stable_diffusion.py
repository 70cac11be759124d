"""A Stable Diffusion of some ten thousand parameters, built from its parts' configurations; or a larger one."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_TOKENS = 24
PROMPTS = tuple(f"a {name}" for name in ("red cat", "blue dog", "green bee", "old cow", "wet fox", "shy ant"))


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of letters, and no merges."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=MAX_TOKENS
    )


def autoencoder(**settings: Any) -> AutoencoderKL:
    """Pictures [3, 16, 16], or of other sizes, to latents of half the side and back."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        **settings,
    )


def clip(width: int, kind: type = CLIPTextModel, **settings: Any) -> Any:
    """A CLIP of a class of transformers, for the tokenizer above."""
    words = tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            **settings,
        )
    )


def pipeline(
    seed: int = 0, *, widths: tuple[int, ...] = (8, 16), width: int = 16, **scheduler: Any
) -> StableDiffusionPipeline:
    """Latents [4, 8, 8] of pictures [3, 16, 16]; Stable Diffusion's betas, offset and final signal fraction."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=widths,
            norm_num_groups=4,
            cross_attention_dim=width,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(widths) - 1)),
            up_block_types=(*["CrossAttnUpBlock2D"] * (len(widths) - 1), "UpBlock2D"),
        )
        vae, encoder = autoencoder(), clip(width)
        # As it is initialised, all texts embed nearly alike: no prompt would make a difference.
        for parameter in encoder.text_model.embeddings.parameters() if hasattr(encoder, "text_model") else ():
            parameter.data *= 50
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **scheduler}
    return StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(folder: Path, **options: Any) -> Path:
    """Build one and save it."""
    pipeline(**options).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
