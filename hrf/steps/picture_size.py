"""Whether all that looks at a run's pictures takes pictures of the model's size: known before any is drawn."""

from __future__ import annotations

from pathlib import Path

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import PIXEL_GRID


def check_pixel_grid(config: Config, size: tuple[int, int]) -> None:
    """Refuse averages over a grid of boxes for pictures, of this height and width, that don't divide into it.

    Raises:
        ConfigError: If diversity or start steps are measured by them.
    """
    for field, value, on_grid in (
        ("evaluation.features", config.evaluation.features, "pixels"),
        ("starts.kind", config.starts.kind, "selected"),
    ):
        if value == on_grid and any(side % PIXEL_GRID for side in size):
            raise ConfigError(
                field,
                expected=f"something else for pictures of {size[0]} x {size[1]}, as the model makes them: {on_grid!r} "
                f"compares averages over {PIXEL_GRID} x {PIXEL_GRID} boxes, whose number divides both sides",
                got=value,
                fix=f"choose another {field}, or a model whose pictures have sides that are multiples of {PIXEL_GRID}",
            )


def check_classifier(folder: Path, field: str, size: tuple[int, int]) -> None:
    """Refuse a classifier, which the section `field` names, of pictures of another height and width.

    Raises:
        ArtifactError: If the folder holds no classifier.
        ConfigError: If it doesn't fit.
    """
    side = ImageClassifier.from_pretrained(folder).image_size
    if (side, side) != size:
        without = "evaluation.classifier: '' with other features and gate.monitors.unrecognised_fraction: null"
        raise ConfigError(
            f"{field}.classifier",
            expected=f"a classifier of {size[0]} x {size[1]} pictures, as the model makes them",
            got=f"one of {side} x {side} pictures",
            fix="name one that was trained on pictures of the model's size, or "
            + (without if field == "evaluation" else "choose another reward"),
        )
