"""A FLUX of some ten thousand parameters, built from its parts' configurations; or a larger one."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tests.hrf import tiny_stable_diffusion as tiny
from tests.hrf.tiny_stable_diffusion_3 import T5_WIDTH, t5, t5_tokenizer
from tests.hrf.tiny_stable_diffusion_3 import pipeline as stable_diffusion_3

PROMPTS = tiny.PROMPTS
TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": T5_WIDTH,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}
DEV = {"shift": 3.0, "use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}
"""As FLUX.1-dev's, which shifts from 256 tokens to 4096: a picture of this model has 16."""
SCHNELL = {"shift": 1.0}


def pipeline(seed: int = 0, *, scheduler: dict[str, Any] = DEV, **transformer: Any) -> FluxPipeline:
    """Latents [4, S/2, S/2] of pictures [3, S, S], of any size that is a multiple of 4."""
    small = tiny.pipeline(seed)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        denoiser = FluxTransformer2DModel(**{**TRANSFORMER, **transformer})
        reader = t5()
    return FluxPipeline(
        transformer=denoiser.eval(),
        vae=stable_diffusion_3(seed).vae,
        text_encoder=small.text_encoder,
        text_encoder_2=reader.eval(),
        tokenizer=tiny.tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    )


def save(folder: Path, **options: Any) -> Path:
    """Build one and save it."""
    pipeline(**options).save_pretrained(folder)
    return folder
