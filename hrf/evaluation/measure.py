"""What a policy's fixed-seed images are worth: reward, diversity, fidelity and drift, against the base's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hrf.config import Evaluation, Monitors
from hrf.core import diversity, statistics
from hrf.core.statistics import mean_interval, means_by, paired_difference
from hrf.errors import NumericalError
from hrf.evaluation.measured import Measured, mode_entropy, mode_histogram, prompt_numbers
from hrf.evaluation.monitors import (
    colour_entropy,
    dark_pixel_fraction,
    edge_density,
    hue_vectors,
    mean_hue,
    photographic_variance,
    read_monitor,
    saturation_value_contrast,
)
from hrf.evaluation.record import (
    Diversity,
    Estimate,
    EvaluationRecord,
    Fidelity,
    Interval,
    MeanAndDeviation,
    MonitorReading,
    NamedEstimate,
    PromptReward,
)
from hrf.images import to_images
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import CLASSIFIER_BATCH, Embedder
from hrf.networks.labels import UNRECOGNISED
from hrf.rewards import Prompts, Reward

NUM_NEIGHBOURS = 5
"""k of coverage and density (their paper: 5)."""

INCEPTION_SPLITS = 10
"""Splits of the Inception score (the HRF paper: 10)."""

__all__ = ["Measured", "evaluation_record", "measure"]


def measure(
    samples: NDArray[np.float32],
    *,
    reward: Reward,
    held_out_reward: Reward | None,
    embedder: Embedder,
    classifier: ImageClassifier | None,
    prompts: Prompts = None,
) -> Measured:
    """Measure finished samples one by one.

    Args:
        samples: [n, 3, H, W], float32 nominally in [-1, 1], one per evaluation seed.
        reward: What the policy is trained on.
        held_out_reward: What it is never trained on, or None.
        embedder: Images to features; see `hrf.networks.features.build_embedder`.
        classifier: Counts modes; None leaves them out.
        prompts: What each image was made from; None for an unconditional model.
    """
    images = to_images(samples)
    return Measured(
        rewards=reward.of_samples(samples, prompts),
        reward_name=reward.name,
        held_out_rewards=None if held_out_reward is None else held_out_reward.of_samples(samples, prompts),
        held_out_reward_name=None if held_out_reward is None else held_out_reward.name,
        features=embedder(images).numpy(),
        dark_pixel_fraction=dark_pixel_fraction(images),
        edge_density=edge_density(images),
        colour_entropy=colour_entropy(images),
        hue_vectors=hue_vectors(images),
        exposures=saturation_value_contrast(images),
        probabilities=None if classifier is None else _probabilities(images, classifier),
        labels=None if classifier is None else classifier.labels,
        prompts=None if prompts is None else tuple(prompts),
    )


def evaluation_record(
    candidate: Measured,
    base: Measured,
    *,
    settings: Evaluation,
    limits: Monitors,
    epoch: int,
    num_evaluations: int,
    strength: float = 1.0,
) -> EvaluationRecord:
    """Make the record that promotion decides on and the report shows (`evaluation.json`).

    A base's own record is made with the base as candidate: differences 0 and diversity ratio 1 with intervals of
    width 0, coverage 1, density 1 (but for ties of distance), Fréchet distance 0 up to rounding, no monitor tripped.

    Args:
        candidate: Measured on the evaluation seeds.
        base: The same for the base model, with the same reward, features and classifier.
        settings: The evaluation's settings.
        limits: Largest allowed drift, per monitor.
        epoch: Epoch that made the candidate.
        num_evaluations: Denoiser evaluations (forward equivalents) spent on it so far.
        strength: That the candidate was measured at.

    Returns:
        The record. What was not measured is None: no held-out reward, no classifier, too few samples for splits.

    Raises:
        ValueError: Candidate and base were not measured alike.
        NumericalError: Samples on which a metric has no value, such as features of length zero.
    """
    _check_comparable(candidate, base, settings)
    confidence = settings.confidence
    groups = prompt_numbers(candidate)
    held_out, held_out_vs_base = _held_out(candidate, base, confidence, groups)
    try:
        diversity_part = _diversity(candidate, base, settings)
        fidelity = _fidelity(candidate, base, settings)
        monitors = _monitors(candidate, base, limits)
    except ValueError as error:
        raise NumericalError(
            f"a metric has no value on these samples: {error}",
            where=f"evaluation, epoch={epoch}, evaluation seed={settings.seed}, {len(candidate)} samples",
            fix="look at the sample grid; a collapsed policy needs a lower learning rate, a tiny sample a larger n",
        ) from error
    probabilities = candidate.probabilities
    return EvaluationRecord(
        epoch=epoch,
        num_samples=len(candidate),
        eta=settings.eta,
        evaluation_seed=settings.seed,
        num_evaluations=num_evaluations,
        reward=_named_mean(candidate.reward_name, candidate.rewards, confidence, groups),
        reward_vs_base=_difference(candidate.rewards, base.rewards, confidence, groups),
        held_out_reward=held_out,
        held_out_reward_vs_base=held_out_vs_base,
        diversity=diversity_part,
        fidelity=fidelity,
        modes=mode_histogram(candidate),
        mode_entropy=mode_entropy(candidate),
        mean_confidence=None if probabilities is None else float(probabilities.max(axis=1).mean()),
        monitors=monitors,
        rewards=candidate.rewards.tolist(),
        prompts=groups,
        by_prompt=None if groups is None else _by_prompt(candidate, base, groups),
        strength=strength,
    )


def _probabilities(images: NDArray[np.float32], classifier: ImageClassifier) -> NDArray[np.float64]:
    with torch.inference_mode():
        logits = torch.cat([classifier(batch) for batch in torch.split(torch.from_numpy(images), CLASSIFIER_BATCH)])
        probabilities: NDArray[np.float64] = logits.double().softmax(dim=1).numpy()
    return probabilities


def _check_comparable(candidate: Measured, base: Measured, settings: Evaluation) -> None:
    for name in ("reward_name", "held_out_reward_name", "labels", "prompts"):
        ours, theirs = getattr(candidate, name), getattr(base, name)
        if ours != theirs:
            raise ValueError(f"candidate and base differ in {name}: {ours!r} and {theirs!r}")
    if candidate.features.shape != base.features.shape:
        raise ValueError(
            f"candidate and base differ in the shape of features: {candidate.features.shape} and {base.features.shape}"
        )
    if len(candidate) != settings.num_samples:
        raise ValueError(f"the settings ask for {settings.num_samples} samples, {len(candidate)} were measured")


def _held_out(
    candidate: Measured, base: Measured, confidence: float, groups: Sequence[int] | None
) -> tuple[NamedEstimate | None, Estimate | None]:
    if candidate.held_out_rewards is None or base.held_out_rewards is None or candidate.held_out_reward_name is None:
        return None, None
    return (
        _named_mean(candidate.held_out_reward_name, candidate.held_out_rewards, confidence, groups),
        _difference(candidate.held_out_rewards, base.held_out_rewards, confidence, groups),
    )


def _named_mean(
    name: str, values: NDArray[np.float64], confidence: float, groups: Sequence[int] | None
) -> NamedEstimate:
    return NamedEstimate(name=name, **vars(mean_interval(_independent(values, groups), confidence)))


def _difference(
    a: NDArray[np.float64], b: NDArray[np.float64], confidence: float, groups: Sequence[int] | None
) -> Estimate:
    return Estimate(**vars(paired_difference(_independent(a, groups), _independent(b, groups), confidence)))


def _independent(values: NDArray[np.float64], groups: Sequence[int] | None) -> list[float]:
    """The independent observations: seeds, or prompts where there are some."""
    return values.tolist() if groups is None else means_by(values.tolist(), groups)


def _by_prompt(candidate: Measured, base: Measured, groups: Sequence[int]) -> list[PromptReward]:
    """Mean reward of each evaluation prompt, and the base's."""
    texts = list(dict.fromkeys(candidate.prompts or ()))
    ours, theirs = (means_by(measured.rewards.tolist(), groups) for measured in (candidate, base))
    return [
        PromptReward(prompt=text, reward=reward, base_reward=base_reward)
        for text, reward, base_reward in zip(texts, ours, theirs, strict=True)
    ]


def _diversity(candidate: Measured, base: Measured, settings: Evaluation) -> Diversity:
    """With prompts, order 2 is measured among the samples of a prompt: what the gate looks at."""
    features, base_features = torch.from_numpy(candidate.features), torch.from_numpy(base.features)
    groups, confidence = prompt_numbers(candidate), settings.confidence
    if groups is None:
        score = diversity.vendi_order2_interval(features, confidence)
        ratio = diversity.vendi_order2_ratio_interval(features, base_features, confidence)
        across = None
    else:
        prompts = torch.tensor(groups)
        score = diversity.within_prompt_vendi_order2_interval(features, prompts, confidence)
        ratio = diversity.within_prompt_vendi_order2_ratio_interval(features, base_features, prompts, confidence)
        across = diversity.across_prompt_vendi_order2(features, prompts)
    return Diversity(
        vendi_order2=_ends(score),
        vendi_order2_ratio=_ends(ratio),
        across_prompts_vendi_order2=across,
        vendi_order1=diversity.vendi_score(features),
        mean_pairwise_distance=diversity.mean_pairwise_distance(features),
        features=settings.features,
    )


def _ends(interval: statistics.Interval) -> Interval:
    return Interval(value=interval.value, low=interval.low, high=interval.high)


def _fidelity(candidate: Measured, base: Measured, settings: Evaluation) -> Fidelity:
    features, base_features = torch.from_numpy(candidate.features), torch.from_numpy(base.features)
    coverage, density = diversity.coverage_density(features, base_features, NUM_NEIGHBOURS)
    by_classifier = settings.features == "classifier"
    return Fidelity(
        coverage=coverage,
        density=density,
        classifier_frechet_distance=diversity.frechet_distance(features, base_features) if by_classifier else None,
        classifier_inception_score=_inception_score(candidate),
    )


def _inception_score(measured: Measured) -> MeanAndDeviation | None:
    if measured.probabilities is None or len(measured) < 2 * INCEPTION_SPLITS:
        return None
    mean, deviation = diversity.classifier_inception_score(torch.from_numpy(measured.probabilities), INCEPTION_SPLITS)
    return MeanAndDeviation(mean=mean, std=deviation)


def _monitors(candidate: Measured, base: Measured, limits: Monitors) -> dict[str, MonitorReading]:
    values, base_values = _statistics(candidate), _statistics(base)
    return {
        name: read_monitor(name, value=value, base=base_values[name], limit=getattr(limits, name))
        for name, value in values.items()
    }


def _statistics(measured: Measured) -> dict[str, float | None]:
    """Each monitor's value over all images; the share of unrecognised ones only where there is a classifier."""
    values: dict[str, float | None] = {
        "dark_pixel_fraction": float(measured.dark_pixel_fraction.mean()),
        "edge_density": float(measured.edge_density.mean()),
        "colour_entropy": float(measured.colour_entropy.mean()),
        "mean_hue": mean_hue(measured.hue_vectors),
        "photographic_variance": photographic_variance(measured.exposures),
    }
    counts = mode_histogram(measured)
    if counts is not None:
        values["unrecognised_fraction"] = counts[UNRECOGNISED] / len(measured)
    return values
