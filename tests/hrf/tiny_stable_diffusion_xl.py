"""A Stable Diffusion XL of some ten thousand parameters, built from its parts' configurations."""

from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.tiny_stable_diffusion_3 import clip

PROMPTS = tiny.PROMPTS
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 36,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 12 + 6 * 8,
}


def pipeline(seed: int = 0, *, zeros: bool = True, **unet: Any) -> StableDiffusionXLPipeline:
    """Latents [4, 8, 8] of pictures [3, 16, 16]; SDXL's betas under the scheduler that it comes with."""
    small = tiny.pipeline(seed)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        denoiser = UNet2DConditionModel(**{**UNET, **unet})
        second = clip(20, 12)
    # As SDXL's autoencoder says of half precision; here all of it is in float32.
    small.vae.register_to_config(force_upcast=True)
    return StableDiffusionXLPipeline(
        unet=denoiser.eval(),
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=second.eval(),
        tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def save(folder: Path, **options: Any) -> Path:
    """Build one and save it."""
    pipeline(**options).save_pretrained(folder)
    return folder
