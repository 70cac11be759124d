"""Judging the diffusion model: samples, the mode histogram, a picture of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hrf.networks.classifier import ImageClassifier
from hrf.seeds import derive_seed
from tools.base_model.dataset import IMAGE_SIZE
from tools.base_model.train_classifier import probabilities
from tools.base_model.train_diffusion import make_noise_scheduler

NUM_STEPS = 20
"""Denoising steps of the default sampler."""

ETA = 1.0
"""Stochasticity of the default sampler: 1 is ancestral sampling. At 0 this model's samples are visibly worse."""


def make_sampler() -> DDIMScheduler:
    """Build the default sampler: timesteps 950, 900, ..., 0, the last step to the clean picture.

    Returns:
        A DDIM scheduler with its timesteps set.
    """
    sampler = DDIMScheduler.from_config(
        make_noise_scheduler().config, set_alpha_to_one=True, steps_offset=0, timestep_spacing="leading"
    )
    sampler.set_timesteps(NUM_STEPS)
    return sampler


@torch.no_grad()
def sample(model: UNet2DModel, *, num_samples: int, seed: int, batch_size: int = 64) -> NDArray[np.uint8]:
    """Draw pictures from the model with the default sampler.

    Args:
        model: In evaluation mode.
        num_samples: N.
        seed: Of the noise; sample i depends on it, on i and, in the last bits, on the batch size.
        batch_size: Samples at a time.

    Returns:
        [N, 32, 32, 3] bytes.
    """
    sampler = make_sampler()
    parts = []
    for start in range(0, num_samples, batch_size):
        generators = [
            torch.Generator().manual_seed(derive_seed(seed, "sample", index))
            for index in range(start, min(start + batch_size, num_samples))
        ]
        state = _noise(generators)
        for timestep in sampler.timesteps:
            predicted = model(state, timestep).sample
            state = sampler.step(predicted, timestep, state, eta=ETA, variance_noise=_noise(generators)).prev_sample
        parts.append(((state.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()


def _noise(generators: list[torch.Generator]) -> Tensor:
    shape = (3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


@dataclass(frozen=True, kw_only=True)
class SampleEvaluation:
    """What the classifier says about samples."""

    num_samples: int
    """Samples judged."""
    seed: int
    """Seed of their noise."""
    histogram: dict[str, int]
    """Samples per class, "unrecognised" included."""
    mean_confidence: float
    """Mean of the largest class probability."""

    def fraction(self, label: str) -> float:
        """Share of one class, in [0, 1]."""
        return self.histogram[label] / self.num_samples


def judge(images: NDArray[np.uint8], classifier: ImageClassifier, *, seed: int) -> SampleEvaluation:
    """Count the modes of samples.

    Args:
        images: [N, 32, 32, 3] bytes.
        classifier: Names the mode of each.
        seed: What the samples were drawn with, for the record.

    Returns:
        The histogram and the mean confidence.
    """
    predicted = probabilities(classifier, images)
    counts = torch.bincount(predicted.argmax(-1), minlength=len(classifier.labels)).tolist()
    return SampleEvaluation(
        num_samples=len(images),
        seed=seed,
        histogram=dict(zip(classifier.labels, counts, strict=True)),
        mean_confidence=predicted.amax(-1).mean().item(),
    )


def save_grid(images: NDArray[np.uint8], path: Path, *, columns: int, scale: int = 2) -> None:
    """Write pictures side by side as one PNG.

    Args:
        images: [N, H, W, 3] bytes; what does not fill a row is left out.
        path: File to write.
        columns: Pictures in a row.
        scale: Size of a pixel.
    """
    rows = len(images) // columns
    _, height, width, _ = images.shape
    tiles = images[: rows * columns].reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    sheet = Image.fromarray(tiles.reshape(rows * height, columns * width, 3))
    enlarged = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    enlarged.save(path, optimize=True)
