"""The noise that a model was trained under: what its scheduler's configuration says of it, or a refusal.

A scheduler file describes a noise process and a sampler. The sampler is ours (`hrf.core.schedule`); two processes are
known here: the variance-preserving one with a list of betas, which diffusers has for many of its samplers, and flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from hrf.core.schedule import Prediction
from hrf.errors import ConfigError

SCHEDULERS = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
"""Classes of diffusers whose betas are those of x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise."""

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Those that DDIMScheduler knows, which draws from tuned models outside of this library."""
_OTHER_SETTINGS = {
    "thresholding": (False, None),
    "use_flow_sigmas": (False, None),
    "timestep_type": ("discrete", None),
}
"""Settings that make another function of the model, and the values at which they don't."""
_FLOW = "FlowMatchEulerDiscreteScheduler"
_OTHER_FLOW_SETTINGS = (
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)
"""Settings of a flow's scheduler that make another function of the model; off in the models that are tuned here."""
_SHIFT_LINE = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
"""The two points that a dynamic shift lies on a straight line through."""
_TOLERANCE = 1e-6
"""Of alpha_bar: some classes write 2^-24 for zero."""


def training_scheduler(scheduler: Mapping[str, Any]) -> DDIMScheduler:
    """The noise process of a model as diffusers' DDIMScheduler, with its betas, offset and final signal fraction.

    Args:
        scheduler: A scheduler's configuration as diffusers writes it.

    Raises:
        ConfigError: If it is of another process, or has a setting that is not known here.
    """
    name = scheduler.get("_class_name")
    if name not in SCHEDULERS:
        raise _refused(f"a scheduler of a variance-preserving process with betas: {', '.join(SCHEDULERS)}", name)
    prediction_of(scheduler)
    clip_range_of(scheduler, by_default=True)
    for setting, harmless in _OTHER_SETTINGS.items():
        if scheduler.get(setting) not in harmless:
            raise _refused(
                f"a scheduler without `{setting}`, which its {name} would draw with and this library doesn't know",
                f"{setting}: {scheduler[setting]}",
            )
    betas, schedule = scheduler.get("trained_betas"), scheduler.get("beta_schedule", "linear")
    if betas is None and schedule not in _BETA_SCHEDULES:
        raise _refused(
            f"a beta_schedule of DDIMScheduler's: {', '.join(_BETA_SCHEDULES)}",
            f"beta_schedule: {schedule}",
            fix=f"write the betas that {name} makes of it into `trained_betas` of scheduler_config.json",
        )
    try:
        own = getattr(diffusers, name).from_config(dict(scheduler))
        found = DDIMScheduler.from_config(dict(scheduler))
        alpha_bars = torch.as_tensor(own.alphas_cumprod)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, ImportError) as error:
        raise _refused(f"the configuration of a {name}", str(error)) from error
    _check_betas(found, alpha_bars, name)
    return found


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is of a flow, x = (1 - sigma) x0 + sigma eps."""
    return scheduler.get("_class_name") == _FLOW


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a flow's pipeline tells its scheduler, besides how many steps are wanted."""

    num_tokens: int
    """Of one picture, as the denoiser reads it: on it depends a dynamic shift."""
    even: bool = False
    """Whether sigma is 1, 1 - 1/K, ..., 1/K before the shift, in place of what the scheduler would begin with."""


def flow_steps(scheduler: Mapping[str, Any], num_steps: int, timing: Timing | None) -> tuple[Tensor, Tensor]:
    """Where a flow's steps lie: what its own scheduler makes of what its pipeline tells it.

    A dynamic shift is by exp(mu), or mu, with mu a straight line in the number of tokens through the scheduler's
    (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).

    Args:
        scheduler: Its configuration as diffusers writes it.
        num_steps: K.
        timing: What its kind of model says; None: nothing, which no dynamic shift can be computed from.

    Returns:
        (sigmas [K + 1], timesteps [K]), float32.

    Raises:
        ConfigError: As `flow_scheduler`.
    """
    own = flow_scheduler(scheduler)
    options: dict[str, Any] = {}
    if timing and own.config.use_dynamic_shifting:
        few, many = own.config.base_image_seq_len, own.config.max_image_seq_len
        slope = (own.config.max_shift - own.config.base_shift) / (many - few)
        options["mu"] = timing.num_tokens * slope + (own.config.base_shift - slope * few)
    if timing and timing.even:
        options["sigmas"] = np.linspace(1.0, 1 / num_steps, num_steps)
    own.set_timesteps(num_steps, **options)
    return own.sigmas, own.timesteps


def flow_scheduler(scheduler: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    """A flow's own scheduler, which says where its steps lie.

    Args:
        scheduler: Its configuration as diffusers writes it.

    Raises:
        ConfigError: If it is of another process, or has a setting that is not known here.
    """
    if not is_flow(scheduler):
        raise _refused(f"a {_FLOW}, as the model is a flow", scheduler.get("_class_name"))
    for setting in _OTHER_FLOW_SETTINGS:
        if scheduler.get(setting):
            raise _refused(
                f"a {_FLOW} without `{setting}`, which diffusers would draw with and this library doesn't know",
                f"{setting}: {scheduler[setting]}",
            )
    try:
        found = FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(f"the configuration of a {_FLOW}", str(error)) from error
    line = [found.config[name] for name in _SHIFT_LINE]
    if found.config.use_dynamic_shifting and (
        not all(isinstance(value, int | float) for value in line) or line[0] == line[1]
    ):
        raise _refused(f"numbers for {', '.join(_SHIFT_LINE)}, the first two not the same", line)
    return found


def prediction_of(scheduler: Mapping[str, Any]) -> Prediction:
    """What a model was trained to predict.

    Raises:
        ConfigError: If it is none of what can be trained here.
    """
    if is_flow(scheduler):
        return "flow"
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise _refused("a model that predicts epsilon, v_prediction or sample", prediction)
    return cast(Prediction, prediction)


def clip_range_of(scheduler: Mapping[str, Any], *, by_default: bool) -> float | None:
    """What a model's estimated sample is clamped to, [-range, range]; None for no clamp.

    Args:
        scheduler: A scheduler's configuration.
        by_default: Whether to clamp where it doesn't say.

    Raises:
        ConfigError: If the range is no positive number.
    """
    if not scheduler.get("clip_sample", by_default):
        return None
    limit = scheduler.get("clip_sample_range", 1.0)
    if not isinstance(limit, int | float) or isinstance(limit, bool) or limit <= 0:
        raise _refused("a positive number for `clip_sample_range`", limit)
    return float(limit)


def _check_betas(found: DDIMScheduler, alpha_bars: torch.Tensor, name: str) -> None:
    """Refuse betas that are none, and those that DDIMScheduler reads otherwise than the model's own class."""
    betas, total = found.betas, int(found.config.num_train_timesteps)
    inside = (betas > 0) & (betas < 1)
    inside[-1:] |= betas[-1:] == 1  # zero terminal SNR
    if len(betas) != total or not bool(inside.all()):
        raise _refused(
            "as many betas as `num_train_timesteps`, each in (0, 1); the last may be 1",
            f"{len(betas)} betas for {total} timesteps"
            if len(betas) != total
            else f"a beta of {float(betas[~inside][0]):.4g}",
        )
    gap = float((found.alphas_cumprod - alpha_bars).abs().max())
    if not gap <= _TOLERANCE:
        raise _refused(
            f"a configuration that {name} and DDIMScheduler, which draws from tuned models, read alike",
            f"alphas_cumprod that differ by {gap:.3g}: their defaults, or settings that one of them has not, differ",
            fix="write num_train_timesteps, beta_schedule, beta_start and beta_end (or trained_betas) out in "
            "scheduler_config.json",
        )


def _refused(expected: str, got: object, fix: str = "choose another model") -> ConfigError:
    return ConfigError("model.source", expected=expected, got=got, fix=fix)
