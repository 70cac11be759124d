"""The direction that corrects a cosine reward, as a folder: the vector, and what it was fitted for.

Starts without torch, as all that a configuration of rewards needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hrf.errors import ConfigError
from hrf.storage.folders import canonical_json, read_folder, writing_folder
from hrf.storage.names import ABOUT_FILE
from hrf.storage.records import Record

if TYPE_CHECKING:
    from torch import Tensor

HUB_FILES = ("*.json", "*.safetensors")
_VECTOR_FILE = "direction.safetensors"


class DirectionRecord(Record):
    """What a direction was fitted for, and how."""

    encoder: dict[str, str]
    """Field -> sha256 of the encoder's weights, or commit; see `CosineReward.encoder_pins`."""
    base: str
    """Digest of the base model's contents."""
    prompts: str
    """`prompts_digest` of the training prompts."""
    num_samples: int
    """Pictures of the base."""
    seed: int
    """Of their noise."""
    weight: float
    """w that the fit had; a run's may be another one."""
    max_norm: float
    steps: int
    learning_rate: float
    norm: float
    """|b|."""
    loss_before: float
    """Minus the mean cosine of the pictures and their prompts."""
    loss_after: float
    """The same with the direction."""
    closed_form_cosine: float
    """Of b and the best of all short directions."""


@dataclass(frozen=True, kw_only=True)
class TextDirection:
    """A fitted direction."""

    vector: Tensor
    """b, [D] float64."""
    record: DirectionRecord

    def save(self, folder: Path, producer: Mapping[str, object]) -> None:
        """Write it, whole or not at all."""
        from safetensors.torch import save_file

        with writing_folder(folder, producer=producer) as target:
            save_file({"direction": self.vector}, target / _VECTOR_FILE)
            self.record.write(target / ABOUT_FILE, indent=2)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If it is damaged, or something else.
        """
        from safetensors.torch import load_file

        read_folder(folder)
        record = DirectionRecord.read(folder / ABOUT_FILE)
        return cls(vector=load_file(folder / _VECTOR_FILE)["direction"], record=record)

    def refuse_others(self, field: str, **own: str | dict[str, str]) -> None:
        """Refuse a run for which the direction was not fitted: that has something else in a field of the record.

        Raises:
            ConfigError: If any of it differs. It says what.
        """
        fitted = {name: getattr(self.record, name) for name in own}
        differing = [name for name in own if own[name] != fitted[name]]
        if differing:
            raise ConfigError(
                field,
                expected=f"a direction that was fitted for the run's own {' and '.join(differing)}: "
                + "; ".join(f"{name} {own[name]}" for name in differing),
                got="; ".join(f"{name} {fitted[name]}" for name in differing),
                fix="fit one for this configuration: hrf rewards fit-direction; or go back to what this one is for",
            )


def prompts_digest(texts: Sequence[str]) -> str:
    """Sha256 of a set of prompts, in whatever order."""
    return hashlib.sha256(canonical_json(sorted(texts))).hexdigest()
