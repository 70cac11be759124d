"""What a run will take: denoiser evaluations, FLOPs, time, memory, bytes. Computed from its configuration.

Evaluations are counted as training counts them (`hrf.planning.cost`), a denoiser's FLOPs by running it without contents
(`hrf.planning.footprint`). Time is those FLOPs at a stated share of what a GPU can do; `assumptions` says all that is
assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hrf.config import Config
from hrf.core.schedule import NoiseSchedule
from hrf.errors import ConfigError
from hrf.planning.cost import (
    BACKWARD,
    call_size,
    expected_epoch_evaluations,
    expected_loss_pairs,
    expected_pairs,
    expected_sampling_evaluations,
    pooled_steps,
    root_steps,
)
from hrf.planning.footprint import Footprint
from hrf.planning.sizes import artifact_bytes, device_memory

OPERATION_SECONDS = 20e-6
"""From Python to one kernel: what an operation takes at least, however small (eager PyTorch; ours)."""
DEFAULT_UTILISATION = 0.3


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a GPU can do at most, without sparsity, by its maker's data sheet."""

    name: str
    bfloat16_flops: float
    """Per second, on tensor cores; half of it in TF32."""
    float32_flops: float
    """Per second, outside tensor cores."""
    memory_bytes: float


GPUS = {
    "a100": Gpu(name="A100 SXM 80 GB", bfloat16_flops=312e12, float32_flops=19.5e12, memory_bytes=80e9),
    "h100": Gpu(name="H100 SXM 80 GB", bfloat16_flops=989e12, float32_flops=67e12, memory_bytes=80e9),
    "l40s": Gpu(name="L40S 48 GB", bfloat16_flops=362e12, float32_flops=91.6e12, memory_bytes=48e9),
    "l4": Gpu(name="L4 24 GB", bfloat16_flops=121e12, float32_flops=30.3e12, memory_bytes=24e9),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part of a run."""

    evaluations: float
    """Denoiser evaluations of one sample: forward 1, forward and backward 3."""
    flops: float
    """Of those evaluations, and of decoding finished samples."""
    seconds: float

    def __add__(self, other: Work) -> Work:
        return Work(
            evaluations=self.evaluations + other.evaluations,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
        )

    def times(self, count: int) -> Work:
        """So often."""
        return Work(evaluations=count * self.evaluations, flops=count * self.flops, seconds=count * self.seconds)

    def shared_by(self, count: int) -> Work:
        """The same work, by so many processes at once."""
        return Work(evaluations=self.evaluations, flops=self.flops, seconds=self.seconds / count)

    def side_by_side(self, count: int) -> Work:
        """So often at a time, on a GPU each."""
        return Work(evaluations=count * self.evaluations, flops=count * self.flops, seconds=self.seconds)


NOTHING = Work(evaluations=0.0, flops=0.0, seconds=0.0)


@dataclass(frozen=True, kw_only=True)
class EpochForecast:
    """Epochs of one window, which all cost the same."""

    first_epoch: int
    num_epochs: int
    window: tuple[int, int] | None
    """[start, stop); None for starts from noise."""
    sample: Work
    """Of one of them, in all replicas."""
    update: Work
    """Likewise."""
    artifact_bytes: dict[str, int]
    """What the steps of one of them write in one replica, by artifact."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take."""

    gpu: str
    num_parameters: int
    forward_flops: int
    """Of the denoiser, for one sample."""
    sigmas: tuple[float, ...]
    """Noise level of each step, noise / (signal + noise)."""
    switch_step: int
    """The first step of the tuned weights."""
    evaluation_steps: int
    evaluated_from: int
    """The first of those that the tuned weights take."""
    epochs: tuple[EpochForecast, ...]
    once: dict[str, Work]
    """What is done once in a run, or several times in all of it: `baseline`, `prefix_pool`, `evaluations`, and
    `verdicts`, as many as there can be."""
    total: Work
    memory_bytes: dict[str, int]
    """On the GPU, by what it is for: `sample` and `update` are their peaks, and `update_checkpointed` the update's with
    gradient checkpointing."""
    gpu_memory_bytes: int
    assumptions: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def forecast(
    config: Config,
    schedule: NoiseSchedule,
    denoiser: Footprint,
    decoder: Footprint | None = None,
    *,
    evaluated_from: int | None = None,
    gpu: str = "a100",
    utilisation: float = DEFAULT_UTILISATION,
) -> Forecast:
    """Compute what a run will take on one GPU, or one for each process and replica, whatever `model.device` says.

    Args:
        config: Of the run.
        schedule: Its sampler's tables.
        denoiser: What one sample takes.
        decoder: What decoding one sample takes; None for a model in pixels.
        evaluated_from: The first of an evaluation's steps that the tuned weights take; None: that of training, where
            it has as many.
        gpu: One of `GPUS`.
        utilisation: Share of the GPU's FLOPs that is reached, in (0, 1].

    Raises:
        ConfigError: If there is no such GPU, or the utilisation is no share.
        ValueError: If an evaluation has other steps than training, and it is not said from which on.
    """
    if evaluated_from is None:
        if config.evaluation_steps != config.sampler.steps:
            raise ValueError("an evaluation with other steps than training: say from which on the weights are tuned")
        evaluated_from = config.switch_step
    if gpu not in GPUS:
        raise ConfigError("--gpu", expected=f"one of {', '.join(GPUS)}", got=gpu, fix="choose one of them")
    if not 0 < utilisation <= 1:
        raise ConfigError("--utilisation", expected="a number in (0, 1]", got=utilisation, fix="0.3 is usual")
    clock = _Clock(GPUS[gpu], utilisation, config.model.forward_dtype, denoiser, decoder)
    epochs = _epochs(config, schedule, denoiser, decoder, clock)
    once = _once(config, evaluated_from, clock)
    total = NOTHING
    for epoch in epochs:
        total += (epoch.sample + epoch.update).times(epoch.num_epochs)
    for work in once.values():
        total += work
    return Forecast(
        gpu=GPUS[gpu].name,
        num_parameters=denoiser.num_parameters,
        forward_flops=denoiser.forward_flops,
        sigmas=tuple(schedule.sigmas),
        switch_step=config.switch_step,
        evaluation_steps=config.evaluation_steps,
        evaluated_from=evaluated_from,
        epochs=epochs,
        once=once,
        total=total,
        memory_bytes=device_memory(config, denoiser, decoder),
        gpu_memory_bytes=int(GPUS[gpu].memory_bytes),
        assumptions=_assumptions(config, GPUS[gpu], utilisation),
    )


def num_calls(lengths: Sequence[int], size: int) -> int:
    """Denoiser calls of `size` samples that `hrf.trainer.rollout.denoise` makes for samples of so many steps each.

    The longest go first. The last calls are filled up; so what is computed is more than what is asked for.
    """
    waiting = sorted(length for length in lengths if length > 0)
    active: list[int] = []
    calls = 0
    while waiting or active:
        while waiting and len(active) < size:
            active.append(waiting.pop())
        # Nothing changes until the first of them is finished.
        shortest = min(active)
        calls += shortest
        active = [left - shortest for left in active if left > shortest]
    return calls


class _Clock:
    """Turns work on the denoiser and the decoder into FLOPs and seconds."""

    def __init__(
        self, gpu: Gpu, utilisation: float, forward_dtype: str, denoiser: Footprint, decoder: Footprint | None
    ) -> None:
        low = forward_dtype == "bfloat16"
        # Float32 convolutions run in TF32 unless PyTorch is told otherwise, other products don't.
        convolutions = gpu.bfloat16_flops if low else gpu.bfloat16_flops / 2
        others = gpu.bfloat16_flops if low else gpu.float32_flops
        self._seconds = (denoiser.convolution_flops / convolutions + denoiser.other_flops / others) / utilisation
        self._denoiser = denoiser
        self._decode_flops, self._decode_seconds = 0, 0.0
        if decoder:
            seconds = decoder.convolution_flops / (gpu.bfloat16_flops / 2) + decoder.other_flops / gpu.float32_flops
            self._decode_flops = decoder.forward_flops
            self._decode_seconds = max(seconds / utilisation, decoder.num_operations * OPERATION_SECONDS)

    def passes(self, evaluations: float, *, calls: float, batch_size: int, passes: float, flops: float = 0.0) -> Work:
        """Calls of the denoiser with `batch_size` samples, each worth so many forward passes."""
        # As long as its FLOPs take, or as long as it takes to ask for them.
        seconds = max(batch_size * self._seconds, self._denoiser.num_operations * OPERATION_SECONDS)
        return Work(
            evaluations=evaluations,
            flops=flops or evaluations * self._denoiser.forward_flops,
            seconds=calls * passes * seconds,
        )

    def decoding(self, samples: int) -> Work:
        """Finished samples to images."""
        return Work(evaluations=0.0, flops=samples * self._decode_flops, seconds=samples * self._decode_seconds)


def _epochs(
    config: Config, schedule: NoiseSchedule, denoiser: Footprint, decoder: Footprint | None, clock: _Clock
) -> tuple[EpochForecast, ...]:
    """Runs of epochs with the same window."""
    windows = config.window_schedule(schedule.num_trained_steps)
    found: list[EpochForecast] = []
    for epoch in range(config.run.epochs):
        window = windows.window(epoch) if windows else None
        bounds = (window.start, window.stop) if window else None
        if found and found[-1].window == bounds:
            found[-1] = EpochForecast(**{**found[-1].__dict__, "num_epochs": found[-1].num_epochs + 1})
            continue
        sampling = expected_sampling_evaluations(config, schedule, epoch)
        updating = expected_epoch_evaluations(config, schedule, epoch) - sampling
        with_loss = expected_loss_pairs(config, schedule, epoch)
        processes, replicas = config.model.num_processes, config.run.replicas
        sampled = _sampling(config, schedule, sampling, bounds, clock).shared_by(processes)
        updated = _updating(config, denoiser, updating, with_loss, clock).shared_by(processes)
        found.append(
            EpochForecast(
                first_epoch=epoch,
                num_epochs=1,
                window=bounds,
                sample=sampled.side_by_side(replicas),
                update=updated.side_by_side(replicas),
                artifact_bytes=artifact_bytes(config, denoiser, decoder, expected_pairs(config, schedule, epoch)),
            )
        )
    return tuple(found)


def _updating(config: Config, denoiser: Footprint, evaluations: float, pairs: float, clock: _Clock) -> Work:
    """Forward and backward passes over an epoch's (branch, trained step) pairs with a loss."""
    update, forwards = config.update, config.episode_forwards
    # With gradient checkpointing, the backward pass does the forward pass again.
    passes = evaluations / (pairs * update.inner_epochs * forwards) + config.model.gradient_checkpointing
    return clock.passes(
        evaluations,
        calls=pairs * update.inner_epochs / update.microbatch,
        batch_size=update.microbatch * forwards,
        passes=passes,
        flops=pairs * update.inner_epochs * forwards * passes * denoiser.forward_flops,
    )


def _sampling(
    config: Config, schedule: NoiseSchedule, evaluations: float, window: tuple[int, int] | None, clock: _Clock
) -> Work:
    """Roots, choice of steps and branches of an epoch, with starts spread evenly over the window."""
    rollout, steps, size = config.rollout, schedule.num_steps, config.model.batch_size
    if window is None:
        count, first = rollout.roots * rollout.branches, config.first_loss_step
        roots, tails = [first - pooled_steps(config)] * count, [steps - first] * count
    else:
        start, stop = window
        spread = [start + (stop - start) * (2 * root + 1) // (2 * rollout.roots) for root in range(rollout.roots)]
        roots = [root_steps(config, steps, start)] * rollout.roots
        tails = [steps - step for step in spread for _ in range(rollout.branches)]
    guided, episode = config.forwards, config.episode_forwards
    of_roots, of_tails = call_size(len(roots), size), call_size(len(tails), size)
    work = clock.passes(sum(roots) * guided, calls=num_calls(roots, of_roots), batch_size=of_roots * guided, passes=1)
    branches = evaluations - sum(roots) * guided
    if config.starts.kind == "selected" and window is not None:
        branches = min(branches, rollout.branches * rollout.roots * (steps - _middle(config, window)) * episode)
        selecting = evaluations - sum(roots) * guided - branches
        calls = selecting / guided / size
        work += clock.passes(selecting, calls=calls, batch_size=size * guided, passes=1)
    work += clock.passes(branches, calls=num_calls(tails, of_tails), batch_size=of_tails * episode, passes=1)
    return work + clock.decoding(rollout.roots * rollout.branches)


def _middle(config: Config, window: tuple[int, int]) -> float:
    """Mean of the candidate steps, as `hrf.planning.cost` assumes them."""
    steps = range(*window, config.starts.selection.stride)
    return sum(steps) / len(steps)


def _once(config: Config, evaluated_from: int, clock: _Clock) -> dict[str, Work]:
    """The baseline (of a run from the base), the prefix pool, all evaluations, and a verdict after each of them."""
    count, guided = config.evaluation.num_samples, config.forwards
    steps, every = config.evaluation_steps, config.evaluation.every

    def sampled(samples: int, num_steps: int) -> Work:
        size = call_size(samples, config.model.batch_size)
        calls = num_calls([num_steps] * samples, size)
        return clock.passes(samples * num_steps * guided, calls=calls, batch_size=size * guided, passes=1)

    def measured(samples: int) -> Work:
        return sampled(samples, steps - evaluated_from) + clock.decoding(samples)

    fresh = config.verdict_samples
    evaluations = sum((epoch + 1) % every == 0 or epoch + 1 == config.run.epochs for epoch in range(config.run.epochs))
    return {
        "baseline": sampled(count, evaluated_from) + measured(count),
        "prefix_pool": sampled(config.policy.prefix_pool, config.switch_step),
        "evaluations": measured(count).times(evaluations * (1 + config.evaluation.num_strengths)),
        # Base, incumbent and candidate.
        "verdicts": (sampled(fresh, evaluated_from) + measured(fresh).times(3)).times(evaluations),
    }


def _assumptions(config: Config, gpu: Gpu, utilisation: float) -> tuple[str, ...]:
    low = config.model.forward_dtype == "bfloat16"
    peak = (
        f"{gpu.bfloat16_flops / 1e12:g} TFLOP/s in bfloat16"
        if low
        else f"{gpu.bfloat16_flops / 2e12:g} TFLOP/s in TF32 for convolutions (PyTorch's default), "
        f"{gpu.float32_flops / 1e12:g} in float32 for the rest"
    )
    assumed = [
        f"{gpu.name} at {utilisation:.0%} of {peak}",
        f"no operation is faster than {OPERATION_SECONDS * 1e6:g} microseconds; nothing waits for storage or start-up",
        f"a backward pass takes {BACKWARD} forward passes; 2 FLOPs per multiply-add, elementwise operations left out",
        "start steps are spread evenly over their window; a batch is filled up where samples end",
        "attention by a fused kernel; memory without the allocator's reserve and the kernels' workspaces, and without "
        "the networks of rewards and features, which are on the GPU only while they score",
        "the time of the reward, and of measuring diversity, is not in it",
        "every candidate passes its selection and has a verdict against a promoted model, and the bucket has none of "
        "the base's measurements for it: an upper bound",
    ]
    if low:
        assumed.append("activations take half of float32's memory in bfloat16; normalisation takes more than that")
    if config.run.start_from == "promoted":
        assumed.append("the run starts from the base; from a promoted model, the baseline measures that one, too")
    if config.starts.kind == "selected":
        assumed.append("HRF-D chooses steps in the middle of its window; decoding its previews is not in it")
    if config.model.num_processes > 1:
        assumed.append(
            f"{config.model.num_processes} processes share sampling and updates evenly, on a GPU each; "
            "the time in which they exchange gradients is not in it"
        )
    if config.run.replicas > 1:
        assumed.append(
            f"{config.run.replicas} replicas train at the same time, on GPUs of their own, as on a cluster: on one "
            "machine, one after another, so many times the time; averaging their weights is not in it"
        )
    if config.evaluation.num_strengths:
        assumed.append(
            f"every evaluation measures all {config.evaluation.num_strengths} strengths beside 1: an upper bound"
        )
    if config.policy.lora:
        assumed.append("an adapter's update takes as long as that of all weights: an upper bound")
    if config.prompts:
        assumed.append("prompts are embedded once, which is not in it")
    return tuple(assumed)
