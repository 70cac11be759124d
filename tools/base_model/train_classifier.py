"""Training the classifier on drawn pictures and on outliers that are made afresh for every pass."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrf.errors import NumericalError
from hrf.networks.classifier import ImageClassifier
from hrf.networks.labels import UNRECOGNISED
from hrf.seeds import derive_seed
from tools.base_model import outliers
from tools.base_model.dataset import STYLES, LabelledImages
from tools.base_model.initial_weights import reinitialise

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """How the classifier is trained."""

    num_epochs: int = 24
    """Passes."""
    images_per_epoch: int = 7200
    """Drawn pictures per pass."""
    outliers_per_kind: int = 200
    """Outliers of each kind per pass."""
    batch_size: int = 64
    """Pictures per update."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    seed: int = 7
    """Seed of the weights, the order, the augmentation and the outliers."""


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Turn bytes into what the classifier reads.

    Args:
        images: [N, H, W, 3].

    Returns:
        [N, 3, H, W] fp32 in [0, 1].
    """
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change pictures as much as a sample of the diffusion model may differ from a drawing, and no more.

    Half of the pictures stay as they are. For the others: a shift by up to 2 pixels, contrast and brightness within
    10%, a mild blur for a third of them, and noise of up to 5% of the range.

    Args:
        images: [B, 3, H, W] in [0, 1].
        generator: Source of all choices.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    originals = images
    count, _, size, _ = images.shape
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    shifts = torch.randint(0, 5, (2, count, 1), generator=generator)
    rows, columns = shifts + torch.arange(size)
    picked = torch.arange(count)[:, None, None]
    images = padded[picked, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    softened = nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    amount = torch.rand((count, 1, 1, 1), generator=generator)
    amount = torch.where(amount < 1 / 3, 1.5 * amount, 0.0)
    images = torch.lerp(images, softened, amount)

    contrast, brightness = torch.empty((2, count, 1, 1, 1)).uniform_(-0.1, 0.1, generator=generator)
    images = 0.5 + (1 + contrast) * (images - 0.5) + 0.5 * brightness
    strength = 0.05 * torch.rand((count, 1, 1, 1), generator=generator)
    images = (images + strength * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    return torch.where(torch.rand((count, 1, 1, 1), generator=generator) < 0.5, originals, images)


def train(data: LabelledImages, settings: ClassifierTraining) -> ImageClassifier:
    """Train the classifier.

    Args:
        data: Drawn pictures; the outliers are made from them.
        settings: Length, rate and seed.

    Returns:
        In evaluation mode.

    Raises:
        NumericalError: The loss is not finite.
    """
    model = ImageClassifier((*(style.name for style in STYLES), UNRECOGNISED))
    reinitialise(model, torch.Generator().manual_seed(derive_seed(settings.seed, "weights")))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    per_epoch = settings.images_per_epoch + settings.outliers_per_kind * len(outliers.KINDS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=settings.num_epochs * -(-per_epoch // settings.batch_size),
        pct_start=0.2,
    )
    for epoch in range(settings.num_epochs):
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "epoch", epoch))
        images, labels = _epoch_data(data, settings, epoch, generator)
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=generator).split(settings.batch_size):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if not np.isfinite(total):
            raise NumericalError(
                "the classifier's loss is not finite",
                where=f"epoch={epoch}, seed={settings.seed}",
                fix="lower the learning rate",
            )
        logger.info("classifier epoch %d: loss %.5f", epoch, total / len(labels))
    return model.eval()


def _epoch_data(
    data: LabelledImages, settings: ClassifierTraining, epoch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(derive_seed(settings.seed, "outliers", epoch))
    drawn = rng.choice(len(data), min(settings.images_per_epoch, len(data)), replace=False)
    strange = outliers.make_all(data, settings.outliers_per_kind, rng)
    images = torch.cat([augment(to_tensor(data.images[drawn]), generator), to_tensor(strange)])
    labels = np.concatenate([data.labels[drawn], np.full(len(strange), len(STYLES), dtype=np.int64)])
    return images, torch.from_numpy(labels)


@torch.no_grad()
def probabilities(model: ImageClassifier, images: NDArray[np.uint8], *, batch_size: int = 256) -> Tensor:
    """Class probabilities of many pictures.

    Args:
        model: The classifier.
        images: [N, H, W, 3] bytes.
        batch_size: Pictures at a time.

    Returns:
        [N, number of labels], rows summing to 1.
    """
    return torch.cat([model(batch).softmax(-1) for batch in to_tensor(images).split(batch_size)])


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation:
    """What the classifier does with pictures that it was not trained on."""

    num_images: int
    """Held-out drawn pictures."""
    accuracy: float
    """Fraction of them that are given their own style."""
    false_alarm_fraction: float
    """Fraction of them that are called unrecognised."""
    mean_confidence: float
    """Mean of the largest class probability."""
    outliers_per_kind: int
    """Held-out outliers of each kind."""
    recall_by_kind: dict[str, float]
    """Fraction of each kind of outlier that is called unrecognised."""


def evaluate(
    model: ImageClassifier, held_out: LabelledImages, *, outliers_per_kind: int, seed: int
) -> ClassifierEvaluation:
    """Judge the classifier.

    Args:
        model: The classifier.
        held_out: Drawn pictures that were not trained on; the outliers are made from them, too.
        outliers_per_kind: How many of each kind to try.
        seed: Of the outliers.

    Returns:
        Accuracy, false alarms and recall.
    """
    predicted = probabilities(model, held_out.images)
    winners = predicted.argmax(-1).numpy()
    rng = np.random.default_rng(derive_seed(seed, "held-out outliers"))
    recall = {
        kind: _unrecognised_fraction(model, outliers.make(kind, held_out, outliers_per_kind, rng))
        for kind in outliers.KINDS
    }
    return ClassifierEvaluation(
        num_images=len(held_out),
        accuracy=float((winners == held_out.labels).mean()),
        false_alarm_fraction=float((winners == len(STYLES)).mean()),
        mean_confidence=predicted.amax(-1).mean().item(),
        outliers_per_kind=outliers_per_kind,
        recall_by_kind=recall,
    )


def _unrecognised_fraction(model: ImageClassifier, images: NDArray[np.uint8]) -> float:
    return (probabilities(model, images).argmax(-1) == len(STYLES)).double().mean().item()
