"""Fit the direction of a corrected cosine reward to pictures of the base."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hrf import __version__
from hrf.config import Config
from hrf.core import text_direction
from hrf.errors import ConfigError
from hrf.images import to_images
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.kinds import kind_of
from hrf.policies.prompts import resolve_prompts
from hrf.policies.sources import fetch_base
from hrf.rewards import missing_prompts
from hrf.rewards.direction import DirectionRecord, TextDirection, prompts_digest
from hrf.rewards.guided_text import corrected_by
from hrf.rewards.text_image import PairEncoder
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise


def fit_text_direction(
    config: Config, output: Path, *, num_samples: int, weight: float, norm: float, steps: int, learning_rate: float
) -> DirectionRecord:
    """Draw pictures of the base for the training prompts in turn, fit the direction to them, and write its folder.

    The same configuration and numbers give the same bytes again.

    The noise is that of `run.seed`, and of no training or evaluation; the other numbers are the options of the command.

    Raises:
        ConfigError: If the model is unconditional, the reward is no cosine, or there are fewer pictures than prompts.
        HrfError: For a base model or an encoder that cannot be had.
    """
    reward, field = corrected_by(config.reward, "reward")
    if config.prompts is None:
        raise missing_prompts(config.reward.name, "reward")
    table = resolve_prompts(config.prompts, seed=config.evaluation.seed)
    prompts = table.training
    if num_samples < len(prompts):
        raise ConfigError(
            "--num-samples",
            expected=f"at least {len(prompts)}, a picture for each of the training prompts",
            got=num_samples,
            fix="raise it",
        )
    encoder = reward.cosine(field, device=None).encoder
    numbers = torch.arange(num_samples) % len(prompts)
    producer = {"step": "fit-direction", "hrf": __version__, "config": config.digest()}
    with tempfile.TemporaryDirectory() as scratch:
        base, embeddings = Path(scratch) / "base", Path(scratch) / "prompts"
        base_digest = fetch_base(config.model, base, producer)
        embeddings.mkdir()
        kind_of(base).embed_prompts(base, prompts, negative=config.prompts.negative).save(embeddings)
        policy = load_policy(config, base, base, prompts=embeddings)
        images = _embedded_pictures(policy, config, encoder, numbers)
    texts, means = encoder.embed_texts(prompts).double(), text_direction.mean_images(images, numbers, len(prompts))
    vector = text_direction.fit_direction(
        means, texts, weight=weight, norm=norm, steps=steps, learning_rate=learning_rate
    )
    guided, short = text_direction.guided_texts(texts, vector, weight), text_direction.small_direction(means, texts, 1)
    record = DirectionRecord(
        encoder=reward.encoder_pins(),
        base=base_digest,
        prompts=prompts_digest(prompts),
        num_samples=num_samples,
        seed=config.run.seed,
        weight=weight,
        max_norm=norm,
        steps=steps,
        learning_rate=learning_rate,
        norm=float(vector.norm()),
        loss_before=-float(text_direction.mean_cosine(means, texts)),
        loss_after=-float(text_direction.mean_cosine(means, guided)),
        closed_form_cosine=float(torch.cosine_similarity(vector, short, dim=0)),
    )
    TextDirection(vector=vector, record=record).save(output, producer)
    return record


def _embedded_pictures(policy: DiffusionPolicy, config: Config, encoder: PairEncoder, prompts: Tensor) -> Tensor:
    """Embeddings [n, D] float64 of a picture for each of the prompts [n]; pictures are held a batch at a time."""
    size, parts = config.model.batch_size, []
    for part in torch.arange(len(prompts)).split(size):
        streams = [stream(config.run.seed, Purpose.TEXT_DIRECTION, index) for index in part.tolist()]
        batch = Batch.from_noise(policy, streams, prompts[part])
        samples = denoise(policy, batch, batch_size=size, total=len(prompts))
        parts.append(encoder.embed_images(to_images(policy.decode(samples).cpu().numpy())))
    return torch.cat(parts).double()
