"""A denoiser and a noise schedule, seen as a policy; and the split policy, whose early steps are the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrf.core.schedule import NoiseSchedule, Prediction, denoised, skip, transition
from hrf.policies.conditioning import UNCONDITIONAL, Conditioning
from hrf.policies.decoding import PIXELS, Decoder


@dataclass(frozen=True, kw_only=True)
class DiffusionPolicy:
    """A diffusion model whose denoising steps are actions.

    Sampling and training call the same `transition`, so that they see the same function: same dtype, evaluation mode
    (dropout off), same clamp.
    """

    denoiser: nn.Module
    """The trained weights; `conditioning` knows how it is called."""
    schedule: NoiseSchedule
    prediction: Prediction
    clip_range: float | None
    """Clamp of the estimated sample; None for none."""
    sample_shape: tuple[int, int, int]
    """(C, H, W) of a sample."""
    reference: nn.Module | None = None
    """The frozen weights that the run started from; needed by a split policy and by a KL penalty."""
    switch_step: int = 0
    """Steps before this one use the reference's weights (split policy); 0 for no split."""
    evaluation_schedule: NoiseSchedule | None = None
    """Of evaluations, which may have other steps and another amount of noise; None for a policy that has none."""
    forward_dtype: torch.dtype = torch.float32
    """Precision of the denoiser's forward pass. States and the sampler's arithmetic are always float32."""
    conditioning: Conditioning = UNCONDITIONAL
    """How the denoiser is asked: of a state alone, or of a state and a prompt."""
    decoder: Decoder = PIXELS
    """Finished samples to pictures in [-1, 1]."""

    def __post_init__(self) -> None:
        if self.switch_step > 0 and self.reference is None:
            raise ValueError(f"a split policy (switch_step={self.switch_step}) needs the reference's weights")

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def forwards(self) -> int:
        """Forward passes per denoiser evaluation: 2 with guidance, else 1."""
        return self.conditioning.forwards

    def with_schedule(self, schedule: NoiseSchedule) -> DiffusionPolicy:
        """The same weights under another sampler of as many steps."""
        return DiffusionPolicy(**{**self.__dict__, "schedule": schedule})

    def as_evaluated(self) -> DiffusionPolicy:
        """The same weights under the sampler of evaluations, split at the same noise level, or below it.

        Raises:
            ValueError: If this policy has none, or its tuned weights have no step there.
        """
        if self.evaluation_schedule is None:
            raise ValueError("this policy was made without a schedule for evaluations")
        step = self.evaluation_schedule.step_of(self.switch_step, self.schedule)
        return DiffusionPolicy(**{**self.__dict__, "schedule": self.evaluation_schedule, "switch_step": step})

    def unguided(self) -> DiffusionPolicy:
        """The same weights, asked without guidance; the policy itself where there is none."""
        return DiffusionPolicy(**{**self.__dict__, "conditioning": self.conditioning.unguided()})

    def as_reference(self) -> DiffusionPolicy:
        """The policy that uses the reference's weights at every step.

        Raises:
            ValueError: If this policy has no reference.
        """
        if self.reference is None:
            raise ValueError("this policy was loaded without its reference")
        return DiffusionPolicy(**{**self.__dict__, "denoiser": self.reference, "switch_step": 0})

    def transition(
        self, states: Tensor, steps: Tensor, *, prompts: Tensor | None = None, call_size: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The Gaussian over the next state.

        Args:
            states: [B, C, H, W] float32 on the policy's device.
            steps: [B] int64, the step that each state is at; they may differ.
            prompts: [B] int64, each state's prompt; None for an unconditional model.
            call_size: Fill every call of the denoiser up to this many samples: how a sample is rounded depends on how
                many there are, and on nothing else about the others. 0: calls are as large as they come.

        Returns:
            (mean [B, C, H, W], std [B, 1, 1, 1]), float32.
        """
        x0, noise = self._estimates(states, steps, prompts, call_size)
        return transition(self.schedule, x0, noise, steps)

    def estimate(self, states: Tensor, steps: Tensor, *, prompts: Tensor | None = None) -> Tensor:
        """The estimate of the finished sample [B, C, H, W] at `states`; arguments as of `transition`."""
        return self._estimates(states, steps, prompts, call_size=0)[0]

    def skip(
        self, states: Tensor, steps: Tensor, targets: Tensor, *, prompts: Tensor | None = None, call_size: int = 0
    ) -> Tensor:
        """Go to later steps `targets` [B] at once and without noise, [B, C, H, W]; other arguments as of `transition`.

        From a step to K it is the one-step estimate of the finished sample.
        """
        x0, noise = self._estimates(states, steps, prompts, call_size)
        return skip(self.schedule, x0, noise, targets)

    def _estimates(
        self, states: Tensor, steps: Tensor, prompts: Tensor | None, call_size: int
    ) -> tuple[Tensor, Tensor]:
        output = self._denoise(states, steps, prompts, call_size)
        return denoised(self.schedule, states, steps, output, prediction=self.prediction, clip_range=self.clip_range)

    def decode(self, samples: Tensor) -> Tensor:
        """Pictures of finished samples: [B, C, H, W] -> [B, 3, H', W'] nominally in [-1, 1]."""
        return self.decoder(samples)

    def _denoise(self, states: Tensor, steps: Tensor, prompts: Tensor | None, call_size: int) -> Tensor:
        """Run the denoiser that owns each sample's step: one call, or two where a batch lies on both sides."""
        timesteps = self.schedule.timesteps[steps.cpu()].to(states.device)
        early = steps < self.switch_step
        if not early.any():
            return self._call(self.denoiser, states, timesteps, prompts, call_size)
        assert self.reference is not None
        if early.all():
            return self._call(self.reference, states, timesteps, prompts, call_size)
        output = torch.empty_like(states)
        for denoiser, chosen in ((self.reference, early), (self.denoiser, ~early)):
            part = chosen.to(states.device)
            of_part = None if prompts is None else prompts[chosen.to(prompts.device)]
            output[part] = self._call(denoiser, states[part], timesteps[part], of_part, call_size)
        return output

    def _call(
        self, denoiser: nn.Module, states: Tensor, timesteps: Tensor, prompts: Tensor | None, call_size: int
    ) -> Tensor:
        count = len(states)
        if count < call_size:
            filled = torch.arange(call_size, device=states.device).clamp(max=count - 1)
            states, timesteps = states[filled], timesteps[filled]
            prompts = None if prompts is None else prompts[filled.to(prompts.device)]
        low_precision = self.forward_dtype != torch.float32
        # A call asks each weight once: to keep their copies until its end would only fill the memory.
        with torch.autocast(states.device.type, self.forward_dtype, enabled=low_precision, cache_enabled=False):
            output = self.conditioning.ask(denoiser, states, timesteps, prompts)
        return output[:count].to(states.dtype)
