"""Sample a policy on the fixed seeds and measure the pictures: shared by `baseline` and `evaluate`."""

from __future__ import annotations

from PIL.Image import Image

from hrf.evaluation.measure import measure
from hrf.evaluation.measured import Measured
from hrf.images import grid, to_images
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import build_embedder
from hrf.policies.diffusion import DiffusionPolicy
from hrf.rewards import build_reward
from hrf.steps.context import RunContext
from hrf.trainer.rollout import OnAdvance
from hrf.trainer.trainer import EvaluationStarts, evaluation_samples

_GRID_IMAGES = 32
"""How many of the fixed seeds the sample grids show."""


def measure_policy(
    context: RunContext, policy: DiffusionPolicy, starts: EvaluationStarts, on_advance: OnAdvance | None
) -> tuple[Measured, Image]:
    """Sample the fixed seeds: what is measured on each, and a grid of the first pictures.

    The pictures themselves end here: as float32 they are hundreds of megabytes, and nobody reads them again.
    """
    config = context.config
    folder = context.classifier("evaluation")
    classifier = ImageClassifier.from_pretrained(folder) if folder else None
    held_out = config.evaluation.held_out_reward
    samples = evaluation_samples(policy, starts, config, on_advance)
    table, asked = context.prompts, starts.prompts
    measured = measure(
        samples,
        reward=build_reward(config.reward, context.classifier("reward")),
        held_out_reward=build_reward(held_out, context.classifier("held_out")) if held_out else None,
        embedder=build_embedder(config.evaluation, classifier),
        classifier=classifier,
        prompts=table.texts_of(asked.tolist()) if table and asked is not None else None,
    )
    return measured, grid(to_images(samples[:_GRID_IMAGES]), columns=8)
