"""Sample a policy on the fixed seeds of an evaluation, and measure the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrf.config import Config
from hrf.evaluation.measure import measure
from hrf.evaluation.measured import Measured
from hrf.images import grid, to_images
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import build_embedder
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.prompts import PromptTable
from hrf.rewards import build_reward
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, OnAdvance, denoise, draw_noise

_STARTS_FILE = "evaluation_starts.safetensors"
_GRID_IMAGES = 32
"""How many of the fixed seeds the sample grids show."""


@dataclass(frozen=True, kw_only=True)
class EvaluationStarts:
    """The states of some seeds from which a candidate has to be denoised: noise, or a split policy's switch step."""

    states: Tensor
    """[n, C, H, W]."""
    step: int
    """Of an evaluation's steps, which may be others than training's."""
    prompts: Tensor | None = None
    """[n] int64: the evaluation prompts in turn; None for an unconditional model."""
    block: int | None = None
    """Whose seeds they are: a verdict's, by its number; None: the fixed ones, which candidates are selected on."""

    def save(self, folder: Path) -> None:
        """Write them into a folder, such as a baseline's."""
        tensors = {"states": self.states, "step": torch.tensor(self.step)}
        if self.prompts is not None:
            tensors["prompts"] = self.prompts
        if self.block is not None:
            tensors["block"] = torch.tensor(self.block)
        save_file(tensors, folder / _STARTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> EvaluationStarts:
        """Read them from a verified folder."""
        tensors = load_file(folder / _STARTS_FILE)
        block = int(tensors["block"]) if "block" in tensors else None
        return cls(states=tensors["states"], step=int(tensors["step"]), prompts=tensors.get("prompts"), block=block)


def _streams(config: Config, count: int, block: int | None) -> list[torch.Generator]:
    """A stream of noise for each of the fixed seeds, or of those of a verdict, which nothing else ever draws from."""
    seed = config.evaluation.seed
    if block is None:
        return [stream(seed, Purpose.EVALUATION, index) for index in range(count)]
    return [stream(seed, Purpose.VERDICT, block, index) for index in range(count)]


def evaluation_starts(
    policy: DiffusionPolicy,
    config: Config,
    on_advance: OnAdvance | None,
    prompts: PromptTable | None = None,
    *,
    block: int | None = None,
) -> EvaluationStarts:
    """Noise of the fixed seeds, or a verdict's, taken through the reference's steps where the policy is split.

    Base, incumbent and candidate share them, so that differences are paired per seed.
    """
    streams = _streams(config, config.evaluation.num_samples if block is None else config.verdict_samples, block)
    prompt_numbers = torch.tensor(prompts.of_evaluation(len(streams))) if prompts else None
    sampler = policy.as_evaluated()
    states = denoise(
        sampler,
        Batch.from_noise(policy, streams, prompt_numbers),
        batch_size=config.model.batch_size,
        stop_step=sampler.switch_step,
        on_advance=on_advance,
    )
    return EvaluationStarts(states=states.cpu(), step=sampler.switch_step, prompts=prompt_numbers, block=block)


def evaluation_samples(
    policy: DiffusionPolicy, starts: EvaluationStarts, config: Config, on_advance: OnAdvance | None
) -> NDArray[np.float32]:
    """Finished, decoded samples of the starts' seeds, [n, 3, H, W] in [-1, 1]; the step noise, too, is each seed's own.

    A base measured for a split policy and one measured for another have the same noise, and so the same pictures.
    """
    count, sampler = len(starts.states), policy.as_evaluated()
    streams = _streams(config, count, starts.block)
    # The first state and the steps before the start have used up the beginning of each stream.
    for _ in range(1 + sum(step < starts.step for step in sampler.schedule.stochastic_steps)):
        draw_noise(streams, policy.sample_shape, policy.device)
    batch = Batch(
        states=starts.states.to(policy.device),
        steps=torch.full((count,), starts.step),
        prompts=starts.prompts,
        streams=streams,
    )
    samples = denoise(sampler, batch, batch_size=config.model.batch_size, on_advance=on_advance)
    result: NDArray[np.float32] = policy.decode(samples).cpu().numpy()
    return result


def measure_policy(
    policy: DiffusionPolicy,
    starts: EvaluationStarts,
    config: Config,
    *,
    classifier_folder: Callable[[str], Path | None],
    prompts: PromptTable | None,
    on_advance: OnAdvance | None,
) -> tuple[Measured, Image]:
    """Sample the starts' seeds: what is measured on each, and a grid of the first pictures.

    The pictures themselves end here: as float32 they are hundreds of megabytes, and nobody reads them again.
    """
    folder = classifier_folder("evaluation")
    classifier = ImageClassifier.from_pretrained(folder) if folder else None
    held_out = config.evaluation.held_out_reward
    samples = evaluation_samples(policy, starts, config, on_advance)
    measured = measure(
        samples,
        reward=build_reward(config.reward, classifier_folder("reward")),
        held_out_reward=build_reward(held_out, classifier_folder("held_out")) if held_out else None,
        embedder=build_embedder(config.evaluation, classifier),
        classifier=classifier,
        prompts=prompts.texts_of(starts.prompts.tolist()) if prompts and starts.prompts is not None else None,
    )
    return measured, grid(to_images(samples[:_GRID_IMAGES]), columns=8)
