"""What was measured on each image of one policy on the evaluation seeds: kept between steps without loss."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hrf.errors import ArtifactError
from hrf.networks.labels import UNRECOGNISED

_TENSORS, _NAMES = "measured.safetensors", "measured.json"
#: Axes of each array; the first is the images'.
_RANKS = {
    "rewards": 1,
    "held_out_rewards": 1,
    "features": 2,
    "dark_pixel_fraction": 1,
    "edge_density": 1,
    "colour_entropy": 1,
    "hue_vectors": 2,
    "exposures": 2,
    "probabilities": 2,
}
_broken = partial(ArtifactError, producer="hrf.evaluation.measure", fix="run the step that made this folder again")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Everything measured image by image on those of one policy on the evaluation seeds. Row i is seed i.

    Raises:
        ValueError: Arrays of different lengths or ranks, or a part without its name.
    """

    rewards: NDArray[np.float64]
    """[n]."""
    reward_name: str
    held_out_rewards: NDArray[np.float64] | None = None
    """[n], or None without a held-out reward."""
    held_out_reward_name: str | None = None
    features: NDArray[np.float32]
    """[n, D]."""
    dark_pixel_fraction: NDArray[np.float64]
    """[n], as the four below: what `hrf.evaluation.monitors` watches."""
    edge_density: NDArray[np.float64]
    """[n]."""
    colour_entropy: NDArray[np.float64]
    """[n]."""
    hue_vectors: NDArray[np.float64]
    """[n, 2]."""
    exposures: NDArray[np.float64]
    """[n, 3] of `hrf.evaluation.monitors.saturation_value_contrast`."""
    probabilities: NDArray[np.float64] | None = None
    """[n, C] of the classifier, or None without one."""
    labels: tuple[str, ...] | None = None
    """C names of the classifier's classes, the last one "unrecognised"; None without a classifier."""
    prompts: tuple[str, ...] | None = None
    """n prompts that the images were made from; None for an unconditional model."""

    def __post_init__(self) -> None:
        for name, rank in _RANKS.items():
            array = getattr(self, name)
            if array is not None and (array.ndim != rank or len(array) != len(self)):
                raise ValueError(f"{name} has shape {array.shape}, expected {rank} axes and {len(self)} rows")
        if (self.held_out_rewards is None) != (self.held_out_reward_name is None):
            raise ValueError("held-out rewards and their name come together")
        if self.prompts is not None and len(self.prompts) != len(self):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self)} images")
        num_classes = None if self.probabilities is None else self.probabilities.shape[1]
        if num_classes != (None if self.labels is None else len(self.labels)):
            raise ValueError("class probabilities need one label for each column, and labels need probabilities")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rewards)

    def save(self, folder: str | Path) -> None:
        """Write `measured.safetensors` and `measured.json` into an existing folder, without loss."""
        arrays = {name: getattr(self, name) for name in _RANKS}
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None},
            Path(folder) / _TENSORS,
        )
        text = {
            "reward_name": self.reward_name,
            "held_out_reward_name": self.held_out_reward_name,
            "labels": self.labels,
            **({} if self.prompts is None else {"prompts": self.prompts}),
        }
        (Path(folder) / _NAMES).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Measured:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing or is not what `save` writes.
        """
        for path in (Path(folder) / _TENSORS, Path(folder) / _NAMES):
            if not path.is_file():
                raise _broken(path, problem="there is no such file")
        try:
            names = json.loads((Path(folder) / _NAMES).read_text(encoding="utf-8"))
            labels, prompts = names.pop("labels"), names.pop("prompts", None)
            arrays: dict[str, Any] = load_file(Path(folder) / _TENSORS)
            return cls(
                **arrays,
                **names,
                labels=None if labels is None else tuple(labels),
                prompts=None if prompts is None else tuple(prompts),
            )
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(Path(folder), problem=f"not a set of measurements: {error!r}") from error


def prompt_numbers(measured: Measured) -> list[int] | None:
    """Which prompt each image was made from, numbered by first appearance; None for an unconditional model."""
    if measured.prompts is None:
        return None
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(measured.prompts))}
    return [numbers[prompt] for prompt in measured.prompts]


def mode_histogram(measured: Measured) -> dict[str, int] | None:
    """Count the samples of each class, "unrecognised" included; None without a classifier."""
    if measured.probabilities is None or measured.labels is None:
        return None
    counts = np.bincount(measured.probabilities.argmax(axis=1), minlength=len(measured.labels))
    return dict(zip(measured.labels, counts.tolist(), strict=True))


def mode_entropy(measured: Measured) -> float | None:
    """Entropy, in nats, of the shares of the modes among the recognised samples.

    Unrecognised samples are left out: as a mode of their own they would make nonsense count as diversity.
    None without a classifier, or when nothing is recognised.
    """
    counts = mode_histogram(measured)
    if counts is None:
        return None
    recognised = [count for label, count in counts.items() if label != UNRECOGNISED and count]
    total = sum(recognised)
    return -sum(count / total * math.log(count / total) for count in recognised) + 0.0 if total else None
