"""Small real policies for tests: a linear chain with a closed form, and a UNet of a few thousand parameters."""

from types import SimpleNamespace

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from hrf.core.schedule import NoiseSchedule, build_schedule
from hrf.policies.diffusion import DiffusionPolicy

LINEAR_ALPHA_BARS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)


class CountingUNet(UNet2DModel):
    """A UNet that counts the samples it was asked for, step by step, and the batch sizes.

    Repetitions of a call's last sample fill the call up and are counted in the batch size only.
    """

    def forward(self, sample: Tensor, timestep: Tensor, **options: object) -> object:
        if not hasattr(self, "seen"):
            self.seen, self.batch_sizes = [], []
        repeated = (sample == sample[-1]).flatten(1).all(1) & (timestep == timestep[-1])
        self.seen += timestep[: len(sample) - int(repeated.sum()) + 1].tolist()
        self.batch_sizes.append(len(sample))
        return super().forward(sample, timestep, **options)


def small_unet(
    seed: int = 0, size: int = 8, dropout: float = 0.0, kind: type[UNet2DModel] = CountingUNet
) -> UNet2DModel:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        return kind(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            dropout=dropout,
        ).eval()


def small_policy(num_steps: int = 6, switch_step: int = 0, seed: int = 0, **options: object) -> DiffusionPolicy:
    schedule = build_schedule(LINEAR_ALPHA_BARS, num_steps=num_steps)
    return DiffusionPolicy(
        denoiser=small_unet(seed),
        reference=small_unet(seed).requires_grad_(False),
        schedule=schedule,
        evaluation_schedule=schedule.with_eta(1.0),
        prediction="epsilon",
        clip_range=1.0,
        sample_shape=(3, 8, 8),
        switch_step=switch_step,
        **options,
    )


class LinearChain(nn.Module):
    """A denoiser whose noise estimate at step k is the parameter theta_k, whatever the state.

    Its transitions are x_{k+1} = a_k x_k + b_k theta_k + s_k e, so that the expected final state, and with it any
    linear or quadratic reward and its gradient, has a closed form.
    """

    def __init__(self, schedule: NoiseSchedule, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())
        # Timesteps fall with the step; searchsorted wants them rising.
        self._rising = schedule.timesteps.flip(0)

    def forward(self, states: Tensor, timesteps: Tensor) -> SimpleNamespace:
        steps = len(self._rising) - 1 - torch.searchsorted(self._rising, timesteps)
        return SimpleNamespace(sample=self.theta[steps].reshape(-1, 1, 1, 1).expand_as(states))


def chain_coefficients(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """(a_k, b_k), each [K] float64, from DDIM's equation 12 written out by hand."""
    now, following = schedule.levels[:-1], schedule.levels[1:]
    a = (following / now).sqrt()
    b = (1 - following - schedule.stds**2).clamp(min=0).sqrt() - (following * (1 - now) / now).sqrt()
    return a, b
