"""Training the unconditional diffusion model (DDPM, Ho et al. 2020) on the drawn pictures.

Every random choice of update ``n`` comes from a generator seeded by (seed, n), so a training that was killed goes on
from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrf.errors import ArtifactError, NumericalError
from tools.base_model.dataset import IMAGE_SIZE, STYLES, LabelledImages
from tools.base_model.initial_weights import reinitialise

logger = logging.getLogger(__name__)

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class DiffusionTraining:
    """How the diffusion model is trained."""

    num_updates: int = 4_400
    """Optimizer updates in all; the learning-rate schedule has this length."""
    batch_size: int = 32
    """Pictures per update."""
    learning_rate: float = 8e-4
    """Peak learning rate of AdamW."""
    num_warmup_updates: int = 300
    """Updates over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.35
    """Last part of the training, over which the learning rate falls along a half cosine to 1% of its peak."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, which is what ships."""
    seed: int = 20_250_101
    """Seed of the initial weights, the batches, the timesteps and the noise."""
    updates_per_checkpoint: int = 250
    """Distance of two checkpoints."""


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes while the model trains."""

    model: UNet2DModel
    """The model that takes the gradients."""
    ema: dict[str, Tensor]
    """Moving average of the model's parameters, by name, fp32."""
    optimizer: torch.optim.AdamW
    """AdamW over the model's parameters, in their order."""
    num_updates_done: int = 0
    """Updates behind us."""
    elapsed_seconds: float = 0.0
    """Wall time spent training, over all resumptions."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each stretch of 100 updates."""


def make_unet() -> UNet2DModel:
    """Build the denoiser: 2.74 million parameters, attention at 8 x 8 only (at 16 x 16 it would halve the speed).

    Returns:
        An untrained model that maps (noisy [B, 3, 32, 32], timestep [B]) to the predicted noise.
    """
    return UNet2DModel(
        sample_size=IMAGE_SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
    )


def make_noise_scheduler() -> DDPMScheduler:
    """Build the noise schedule that the model is trained with.

    Returns:
        Linear betas from 1e-4 to 0.02 over 1000 timesteps; the predicted picture is clamped to [-1, 1].
    """
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="epsilon",
        clip_sample=True,
        timestep_spacing="leading",
    )


def generator_for(seed: int, index: int) -> torch.Generator:
    """Make the generator of one update.

    Args:
        seed: Seed of the training.
        index: Number of the update; 0 is the weights' initialisation.

    Returns:
        A CPU generator, distinct for every pair.
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def learning_rate(settings: DiffusionTraining, update: int) -> float:
    """Learning rate of an update: warm-up, plateau, half cosine.

    Args:
        settings: The schedule.
        update: Number of the update, from 1.

    Returns:
        The rate.
    """
    if update <= settings.num_warmup_updates:
        return settings.learning_rate * update / settings.num_warmup_updates
    decay_start = round(settings.num_updates * (1 - settings.decay_fraction))
    if update <= decay_start:
        return settings.learning_rate
    progress = min(1.0, (update - decay_start) / (settings.num_updates - decay_start))
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def start(settings: DiffusionTraining) -> TrainingState:
    """Make the state before the first update.

    Args:
        settings: Of the training.

    Returns:
        Freshly initialised.
    """
    model = make_unet()
    generator = generator_for(settings.seed, 0)
    reinitialise(model, generator)
    # Predicting zero noise at first costs loss 1, not more, and lets the first updates count.
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)
    ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    return TrainingState(model=model, ema=ema, optimizer=optimizer)


def batch_indices(weights: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Choose the pictures of a batch.

    Args:
        weights: [N] relative frequency of each picture.
        batch_size: B.
        generator: Source of the choice.

    Returns:
        [B] indices, drawn with replacement.
    """
    return torch.multinomial(weights, batch_size, replacement=True, generator=generator)


def mirrored(images: Tensor, may_mirror: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures that may be mirrored.

    Args:
        images: [B, 3, H, W].
        may_mirror: [B] booleans.
        generator: Source of the choice.

    Returns:
        [B, 3, H, W].
    """
    chosen = may_mirror & (torch.rand(len(images), generator=generator) < 0.5)
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def stratified_timesteps(batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps that cover the noise levels evenly within a batch, each one uniform over all levels.

    Args:
        batch_size: B.
        generator: Source of the offset within each stratum, and of the order.

    Returns:
        [B] integers in [0, 1000).
    """
    offsets = torch.rand(batch_size, generator=generator)
    positions = (torch.randperm(batch_size, generator=generator) + offsets) / batch_size
    return (positions * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)


def denoising_loss(model: UNet2DModel, scheduler: DDPMScheduler, clean: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise, DDPM eq. 14.

    Args:
        model: The denoiser.
        scheduler: The noise schedule.
        clean: [B, 3, H, W] pictures in [-1, 1].
        generator: Source of the timesteps and of the noise.

    Returns:
        A scalar.
    """
    timesteps = stratified_timesteps(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(noisy, timesteps).sample
    return nn.functional.mse_loss(predicted.float(), noise)


@torch.no_grad()
def average_weights(state: TrainingState, decay: float) -> None:
    """Move the averaged weights towards the model's.

    Args:
        state: Its ``ema`` is changed in place.
        decay: The limit of the decay; early on it is smaller, so that the initial weights are soon forgotten.
    """
    done = state.num_updates_done
    share = 1 - min(decay, (1 + done) / (10 + done))
    for name, parameter in state.model.named_parameters():
        state.ema[name].lerp_(parameter, share)


def train(
    data: LabelledImages,
    settings: DiffusionTraining,
    *,
    scratch: Path,
    on_checkpoint: Callable[[TrainingState], None] | None = None,
) -> TrainingState:
    """Train, going on from the checkpoint in ``scratch`` where there is one.

    Args:
        data: The pictures.
        settings: Length, rates and seed.
        scratch: Folder for the checkpoint; it is replaced every ``updates_per_checkpoint`` updates.
        on_checkpoint: Called after each checkpoint.

    Returns:
        The state after the last update.

    Raises:
        NumericalError: The loss is not finite.
        ArtifactError: The checkpoint belongs to other settings.
    """
    scheduler = make_noise_scheduler()
    # Bytes in memory, floats only for a batch: a fourth of the space.
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()
    weights = torch.tensor([style.weight for style in STYLES])[torch.from_numpy(data.labels)]
    may_mirror = torch.tensor([style.mirrors for style in STYLES])[torch.from_numpy(data.labels)]
    state = load_checkpoint(scratch, settings) or start(settings)
    state.model.train()
    recent: list[float] = []
    clock = time.perf_counter()
    for update in range(state.num_updates_done + 1, settings.num_updates + 1):
        generator = generator_for(settings.seed, update)
        chosen = batch_indices(weights, settings.batch_size, generator)
        clean = mirrored(images[chosen], may_mirror[chosen], generator).float() / 127.5 - 1
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, update)
        loss = denoising_loss(state.model, scheduler, clean, generator)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.max_grad_norm)
        state.optimizer.step()
        state.num_updates_done = update
        average_weights(state, settings.ema_decay)
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise NumericalError(
                f"the loss is {recent[-1]}",
                where=f"update={update}, seed={settings.seed}",
                fix="lower the learning rate and start in an empty scratch folder",
            )
        if update % 100 == 0:
            state.elapsed_seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            state.losses.append(sum(recent) / len(recent))
            recent.clear()
            logger.info("update %d: loss %.5f, %.0f s", update, state.losses[-1], state.elapsed_seconds)
        if update % settings.updates_per_checkpoint == 0 or update == settings.num_updates:
            save_checkpoint(scratch, state, settings)
            if on_checkpoint is not None:
                on_checkpoint(state)
    return state


def averaged_unet(state: TrainingState) -> UNet2DModel:
    """Copy the averaged weights into a model of their own.

    Args:
        state: Of a training.

    Returns:
        A model in evaluation mode.
    """
    model = make_unet()
    model.load_state_dict(state.ema)
    return model.eval()


def save_checkpoint(folder: Path, state: TrainingState, settings: DiffusionTraining) -> None:
    """Write all that a resumption needs, replacing the previous checkpoint in one rename.

    Args:
        folder: Made if need be.
        state: What to write.
        settings: Recorded, so that a checkpoint is not continued under other ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state[parameter]
        tensors[f"model/{name}"] = parameter.detach()
        tensors[f"ema/{name}"] = state.ema[name]
        tensors[f"exp_avg/{name}"] = moments["exp_avg"]
        tensors[f"exp_avg_sq/{name}"] = moments["exp_avg_sq"]
    record = {
        "settings": asdict(settings),
        "num_updates_done": state.num_updates_done,
        "elapsed_seconds": state.elapsed_seconds,
        "losses": state.losses,
    }
    # The record travels in the same file as the tensors: they can't get out of step.
    partial = folder / "checkpoint.partial"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"record": json.dumps(record)})
    os.replace(partial, folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, settings: DiffusionTraining) -> TrainingState | None:
    """Read a checkpoint.

    Args:
        folder: Where ``save_checkpoint`` wrote.
        settings: Must equal the recorded ones.

    Returns:
        The state, or None where there is no checkpoint.

    Raises:
        ArtifactError: The checkpoint belongs to other settings.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return None
    record = _read_record(path)
    # How often a checkpoint is written changes nothing in it.
    if {**record["settings"], "updates_per_checkpoint": settings.updates_per_checkpoint} != asdict(settings):
        raise ArtifactError(
            path,
            problem=f"a checkpoint of other settings, {record['settings']}, not {asdict(settings)}",
            producer="train_diffusion.save_checkpoint",
            fix="give an empty scratch folder, or the settings of the checkpoint",
        )
    tensors = load_file(path)
    state = start(settings)
    state.num_updates_done = record["num_updates_done"]
    state.elapsed_seconds = record["elapsed_seconds"]
    state.losses = record["losses"]
    with torch.no_grad():
        for name, parameter in state.model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            state.ema[name].copy_(tensors[f"ema/{name}"])
            state.optimizer.state[parameter] = {
                "step": torch.tensor(float(state.num_updates_done)),
                "exp_avg": tensors[f"exp_avg/{name}"],
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
            }
    return state


def _read_record(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record: dict[str, Any] = json.loads(file.metadata()["record"])
    return record
