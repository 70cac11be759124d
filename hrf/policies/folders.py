"""Diffusion models in diffusers' folder layout: load them, and save a tuned one so that plain diffusers can run it.

A policy folder holds the tuned weights (see `hrf.policies.weights`), `policy.json`, which says how they sample and what
they came from, and of an unconditional model the rest of its pipeline (`DDPMPipeline.from_pretrained` loads it).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrf.config import Config, Sampler
from hrf.core.schedule import NoiseSchedule, build_flow_schedule, build_schedule
from hrf.distributed.ranks import ALONE, Ranks
from hrf.distributed.sharding import shard
from hrf.errors import ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.conditioning import PromptEmbeddings
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.kinds import kind_of, kind_of_denoiser
from hrf.policies.policy_folder import denoiser_folder
from hrf.policies.schedulers import Timing, flow_steps, is_flow, prediction_of, training_scheduler
from hrf.policies.weights import AdapterOff, FullWeights, LoraWeights, TunedWeights, average_folder, round_frozen_layers
from hrf.storage.names import POLICY_FILE

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def schedule_of(model: Architecture, config: Config) -> NoiseSchedule:
    """The tables of a configuration's sampler for a base model and the size of its pictures.

    Raises:
        ConfigError: As `noise_schedule`, or if the model is of no kind, or makes no pictures of the configured size.
    """
    return noise_schedule(model.scheduler, config, _timing(model, config))


def noise_schedule(scheduler: Mapping[str, Any], config: Config, timing: Timing | None = None) -> NoiseSchedule:
    """The sampler's tables from the model's own betas, offset and final signal fraction, or from its sigmas.

    Args:
        scheduler: A scheduler configuration as diffusers writes it.
        config: Its `sampler` part decides on steps, spacing, kind, eta and min_std.
        timing: What its kind says of a flow.

    Raises:
        ConfigError: If the model was trained under another noise process, or the sampler's settings don't fit it.
    """
    sampler = config.sampler
    schedule = _tables(scheduler, sampler, timing)
    if schedule.num_trained_steps == 0:
        raise ConfigError(
            "sampler.min_std",
            expected=f"at most the largest step std, {float(schedule.stds.max()):.3g}",
            got=sampler.min_std,
            fix="lower it: no step would be trained",
        )
    return schedule


def evaluation_schedule(model: Architecture, config: Config) -> NoiseSchedule:
    """The same sampler's tables with the steps and the noise of evaluations.

    Args:
        model: The base model.
        config: Its `sampler` part, and of `evaluation` steps and eta.

    Raises:
        ConfigError: As `schedule_of`, or if the model has no such steps.
    """
    # Nothing is trained there, so it doesn't matter which steps could be.
    quiet = config.sampler.model_copy(update={"steps": config.evaluation_steps, "eta": 0.0, "min_std": 0.0})
    try:
        return _tables(model.scheduler, quiet, _timing(model, config)).with_eta(config.evaluation.eta)
    except ConfigError as error:
        if config.evaluation.steps is None or error.field != "sampler":
            raise
        raise ConfigError(
            "evaluation.steps",
            expected=error.expected,
            got=config.evaluation.steps,
            fix="change it, or leave it out for as many as in training",
        ) from error


def evaluated_from(model: Architecture, config: Config, switch_step: int | None = None) -> int:
    """The first step of an evaluation that a policy's tuned weights take.

    Args:
        model: The base model.
        config: As of `evaluation_schedule`.
        switch_step: Of the policy, which a diversity floor may have moved; None: as configured.

    Raises:
        ConfigError: If they take none.
    """
    step = config.switch_step if switch_step is None else switch_step
    try:
        return evaluation_schedule(model, config).step_of(step, schedule_of(model, config))
    except ValueError as error:
        raise ConfigError(
            "evaluation.steps",
            expected=f"enough steps that the tuned weights take one, from step {step} of {config.sampler.steps} on",
            got=f"{config.evaluation.steps}: {error}",
            fix="raise it",
        ) from error


def _timing(model: Architecture, config: Config) -> Timing | None:
    kind = kind_of_denoiser(model.denoiser)
    return kind.timing(model.settings, kind.sample_shape(model, config.model.picture_size))


def _tables(scheduler: Mapping[str, Any], sampler: Sampler, timing: Timing | None) -> NoiseSchedule:
    return _flow(scheduler, sampler, timing) if is_flow(scheduler) else _variance_preserving(scheduler, sampler)


def _variance_preserving(scheduler: Mapping[str, Any], sampler: Sampler) -> NoiseSchedule:
    reference = training_scheduler(scheduler)
    if sampler.kind in ("flow_sde", "dance_sde"):
        raise ConfigError(
            "sampler.kind",
            expected="'ancestral' or 'cps', as the model is no flow",
            got=sampler.kind,
            fix="choose one of them, or a model whose scheduler is a FlowMatchEulerDiscreteScheduler",
        )
    try:
        schedule = build_schedule(
            reference.alphas_cumprod,
            num_steps=sampler.steps,
            spacing=sampler.spacing,
            steps_offset=int(reference.config.steps_offset) if sampler.spacing == "leading" else 0,
            final_alpha_bar=float(reference.final_alpha_cumprod),
            sampler=sampler.kind,
            eta=sampler.eta,
            min_std=sampler.min_std,
        )
    except ValueError as error:
        raise ConfigError(
            "sampler",
            expected=f"settings that fit the model's {len(reference.alphas_cumprod)} training timesteps",
            got=str(error),
            fix="change sampler.steps, sampler.spacing or sampler.min_std",
        ) from error
    if prediction_of(scheduler) == "epsilon" and bool((schedule.levels[:-1] == 0).any()):
        raise ConfigError(
            "sampler.spacing",
            expected="steps at which alpha_bar is above 0, as the model predicts epsilon: from nothing but noise, the "
            "noise says nothing of the sample",
            got=f"{sampler.spacing}, whose first step is at alpha_bar 0 (rescale_betas_zero_snr: "
            f"{scheduler.get('rescale_betas_zero_snr', False)}, prediction_type: epsilon)",
            fix="set sampler.spacing: leading with sampler.steps below the number of timesteps, or choose a model that "
            "predicts v_prediction or sample",
        )
    return schedule


def _flow(scheduler: Mapping[str, Any], sampler: Sampler, timing: Timing | None) -> NoiseSchedule:
    if sampler.spacing != "leading":
        raise ConfigError(
            "sampler.spacing",
            expected="'leading', its default: where a flow's steps lie, its own scheduler says",
            got=sampler.spacing,
            fix="leave it out; the shift is in the model's scheduler_config.json",
        )
    sigmas, timesteps = flow_steps(scheduler, sampler.steps, timing)
    try:
        return build_flow_schedule(sigmas, timesteps, sampler=sampler.kind, eta=sampler.eta, min_std=sampler.min_std)
    except ValueError as error:
        raise ConfigError(
            "sampler",
            expected="settings that fit the model's own sigmas",
            got=str(error),
            fix="change sampler.steps, sampler.kind, sampler.eta or sampler.min_std",
        ) from error


def load_policy(
    config: Config,
    base: Path,
    weights: Path,
    *,
    average: bool = False,
    prompts: Path | None = None,
    reference: bool = False,
    ranks: Ranks = ALONE,
) -> DiffusionPolicy:
    """Put a policy together from the base model's folder and a policy folder.

    Args:
        config: How to sample and train.
        base: The reference, in diffusers' pipeline layout.
        weights: The policy folder with the weights being tuned; `base` itself for an untrained policy.
        average: Take the moving average of the weights, where the folder has one.
        prompts: Folder of the prompts' embeddings; for text-to-image models, which need it.
        reference: Load the base's weights, too, as a KL penalty needs them; those of a split policy are in any case.
        ranks: Those that share the networks' weights out between them (`hrf.distributed.sharding`).

    Returns:
        The policy on the configured device; the reference's weights frozen.

    Raises:
        ArtifactError: If a folder is damaged.
        ConfigError: If the model is of another kind than the configuration's, or the device is absent.
    """
    device = _device(config)
    kind, model = kind_of(base), Architecture.of(base)
    kind.check(config, model)
    embeddings = PromptEmbeddings.load(prompts) if prompts else None
    switch_step = _switch_step(config, base, weights)
    denoiser, frozen = weights_of(config).load(
        base, average_folder(weights) if average else weights, reference=reference or switch_step > 0
    )
    forward_dtype = _DTYPES[config.model.forward_dtype]
    if config.policy.lora:
        round_frozen_layers(denoiser, forward_dtype)
    networks = [network for network in (denoiser, frozen) if network is not None]
    if config.model.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if config.model.compile:
        for network in networks:
            network.compile()
    for network in networks:
        # An adapter's reference is its denoiser, which is sharded once.
        if ranks.count == 1:
            network.to(device)
        elif not isinstance(network, AdapterOff):
            shard(network, network._no_split_modules or (), ranks=ranks, device=device)
    return DiffusionPolicy(
        denoiser=denoiser,
        schedule=schedule_of(model, config),
        evaluation_schedule=evaluation_schedule(model, config),
        prediction=prediction_of(model.scheduler),
        clip_range=kind.clip_range(model.scheduler),
        sample_shape=kind.sample_shape(model, config.model.picture_size),
        reference=frozen,
        switch_step=switch_step,
        forward_dtype=forward_dtype,
        conditioning=kind.conditioning(config, embeddings),
        decoder=kind.decoder(base, device),
    )


def _switch_step(config: Config, base: Path, weights: Path) -> int:
    """As configured; of what was tuned under a diversity floor, which may move it, as the policy itself says."""
    if config.diversity_floor is None or weights == base:
        return config.switch_step
    return int(json.loads((weights / POLICY_FILE).read_text(encoding="utf-8"))["switch_step"])


def weights_of(config: Config) -> TunedWeights:
    """How this configuration's tuned weights are stored."""
    return LoraWeights(config.policy.lora) if config.policy.lora else FullWeights()


def save_policy(
    folder: Path,
    denoiser: nn.Module,
    base: Path,
    about: Mapping[str, Any],
    average: Mapping[str, Tensor] | None,
    weights: TunedWeights | None = None,
) -> None:
    """Write a policy folder into an existing empty folder.

    Args:
        folder: Where.
        denoiser: The tuned weights, saved in float32.
        base: Whose scheduler and pipeline description go with them.
        about: What `policy.json` says: switch step, sampler, origin.
        average: Moving average of the weights, by parameter name; None for none.
        weights: How they are stored: all of them, unless told otherwise.
    """
    weights = weights or FullWeights()
    weights.save(denoiser, folder)
    copy_policy_files(base, folder)
    (folder / POLICY_FILE).write_text(json.dumps(dict(about), indent=2) + "\n", encoding="utf-8")
    if average is not None:
        weights.save_average(denoiser, average, folder)


def load_unsharded(config: Config, base: Path, weights: Path, tuned: Mapping[str, Tensor]) -> Any:
    """What a sharded denoiser is as a whole, in memory: these tuned parameters, all else as in a policy folder."""
    denoiser, _ = weights_of(config).load(base, weights, reference=False)
    with torch.no_grad():
        for name, value in tuned.items():
            denoiser.get_parameter(name).copy_(value)
    return denoiser


def save_fresh_policy(folder: Path, config: Config, base: Path, about: Mapping[str, Any], *, run_seed: int) -> None:
    """Write the policy folder of an untrained policy into an existing empty folder.

    Args:
        folder: Where.
        config: What is tuned.
        base: The base model.
        about: What `policy.json` says.
        run_seed: An adapter's first weights are drawn from it.

    Raises:
        ConfigError: If one of `policy.lora.targets` is no layer's name.
    """
    weights_of(config).save_fresh(base, folder, run_seed=run_seed)
    copy_policy_files(base, folder)
    (folder / POLICY_FILE).write_text(json.dumps(dict(about), indent=2) + "\n", encoding="utf-8")


def copy_policy_files(base: Path, folder: Path) -> None:
    """Copy what of a base model goes with a whole denoiser; an adapter goes alone."""
    if denoiser_folder(folder) == folder:
        return
    for name in kind_of(base).policy_files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base / name, folder / name)


def _device(config: Config) -> torch.device:
    device = torch.device(config.model.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device", expected="a device that this machine has", got="cuda", fix="write `cpu`, or run on a GPU"
        )
    return device
