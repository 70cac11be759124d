"""A denoiser and a noise schedule, seen as a policy; and the split policy, whose early steps are the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hrf.core.schedule import NoiseSchedule, Prediction, denoised, transition


@dataclass(frozen=True, kw_only=True)
class DiffusionPolicy:
    """A diffusion model whose denoising steps are actions.

    Sampling and training call the same `transition`, so that they see the same function: same dtype, evaluation mode
    (dropout off), same clamp.
    """

    denoiser: nn.Module
    """The trained weights; called as denoiser(states, timesteps).sample."""
    schedule: NoiseSchedule
    prediction: Prediction
    clip_range: float | None
    """Clamp of the estimated sample; None for none."""
    reference: nn.Module | None = None
    """The frozen weights that the run started from; needed by a split policy and by a KL penalty."""
    switch_step: int = 0
    """Steps before this one use the reference's weights (split policy); 0 for no split."""
    forward_dtype: torch.dtype = torch.float32
    """Precision of the denoiser's forward pass. States and the sampler's arithmetic are always float32."""

    def __post_init__(self) -> None:
        if self.switch_step > 0 and self.reference is None:
            raise ValueError(f"a split policy (switch_step={self.switch_step}) needs the reference's weights")

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a sample."""
        config: Any = self.denoiser.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(width)

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return next(self.denoiser.parameters()).device

    def with_schedule(self, schedule: NoiseSchedule) -> DiffusionPolicy:
        """The same weights under another sampler of as many steps."""
        return DiffusionPolicy(**{**self.__dict__, "schedule": schedule})

    def as_reference(self) -> DiffusionPolicy:
        """The policy that uses the reference's weights at every step.

        Raises:
            ValueError: If this policy has no reference.
        """
        if self.reference is None:
            raise ValueError("this policy was loaded without its reference")
        return DiffusionPolicy(**{**self.__dict__, "denoiser": self.reference, "switch_step": 0})

    def transition(self, states: Tensor, steps: Tensor, *, call_size: int = 0) -> tuple[Tensor, Tensor]:
        """The Gaussian over the next state.

        Args:
            states: [B, C, H, W] float32 on the policy's device.
            steps: [B] int64, the step that each state is at; they may differ.
            call_size: Fill every call of the denoiser up to this many samples: how a sample is rounded depends on how
                many there are, and on nothing else about the others. 0: calls are as large as they come.

        Returns:
            (mean [B, C, H, W], std [B, 1, 1, 1]), float32.
        """
        x0, noise = denoised(
            self.schedule,
            states,
            steps,
            self._denoise(states, steps, call_size),
            prediction=self.prediction,
            clip_range=self.clip_range,
        )
        return transition(self.schedule, x0, noise, steps)

    def estimate(self, states: Tensor, steps: Tensor, *, call_size: int = 0) -> Tensor:
        """The one-step estimate of the finished samples; [B, C, H, W] -> [B, C, H, W]. `call_size` as above."""
        output = self._denoise(states, steps, call_size)
        return denoised(self.schedule, states, steps, output, prediction=self.prediction, clip_range=self.clip_range)[0]

    def _denoise(self, states: Tensor, steps: Tensor, call_size: int) -> Tensor:
        """Run the denoiser that owns each sample's step: one call, or two where a batch lies on both sides."""
        timesteps = self.schedule.timesteps[steps.cpu()].to(states.device)
        early = steps < self.switch_step
        if not early.any():
            return self._call(self.denoiser, states, timesteps, call_size)
        assert self.reference is not None
        if early.all():
            return self._call(self.reference, states, timesteps, call_size)
        output = torch.empty_like(states)
        early = early.to(states.device)
        output[early] = self._call(self.reference, states[early], timesteps[early], call_size)
        output[~early] = self._call(self.denoiser, states[~early], timesteps[~early], call_size)
        return output

    def _call(self, denoiser: nn.Module, states: Tensor, timesteps: Tensor, call_size: int) -> Tensor:
        count = len(states)
        if count < call_size:
            filled = torch.arange(call_size, device=states.device).clamp(max=count - 1)
            states, timesteps = states[filled], timesteps[filled]
        low_precision = self.forward_dtype != torch.float32
        with torch.autocast(states.device.type, dtype=self.forward_dtype, enabled=low_precision):
            output: Tensor = denoiser(states, timesteps).sample
        return output[:count].float()
