"""The whole configuration, its text form and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import model_validator

from hrf.config import checks
from hrf.config.overrides import deep_merge
from hrf.config.tree import Tree
from hrf.core.window import WindowSchedule
from hrf.storage.validation import combine

_CAME_LATER = {
    "": ("shaping",),
    "model": ("embedded_guidance", "picture_size", "shard_weights"),
    "policy": ("split_sigma",),
    "sampler": ("kind",),
    "rollout": ("share_start",),
    "run": ("replicas",),
    "update": ("objective", *checks.DIFFERENCE_ONLY, "trust_region", "divergence_limit", "sibling_distance_weight"),
    "gate": ("error", "num_samples"),
    "evaluation": ("num_strengths", "steps"),
}
"""Section -> fields that configurations with digests on record do not have; "" is the configuration itself."""


class Config(Tree):
    """A run's configuration. Immutable, complete, and checked as a whole: one that exists can be run."""

    @model_validator(mode="after")
    def _check_fields_together(self) -> Self:
        problems = list(checks.problems(self))
        if problems:
            raise combine(problems)
        return self

    def to_mapping(self) -> dict[str, Any]:
        """All values, defaults included, as plain mappings, lists and scalars."""
        return self.model_dump(mode="json")

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """This configuration with some values replaced, such as `{"run": {"epochs": 5}}`, checked again.

        Raises:
            ConfigError: If the result is no valid configuration.
        """
        return self.from_mapping(deep_merge(self.to_mapping(), changes))

    def recorded(self) -> dict[str, Any]:
        """All values as records from before some fields have them: those are left out at their default.

        What a configuration without them did is the same.
        """
        values = self.to_mapping()
        for section, names in _CAME_LATER.items():
            part, said = (getattr(self, section), values[section]) if section else (self, values)
            for name in names:
                if said[name] == type(part).model_fields[name].default:
                    del said[name]
        for window in values["starts"]["windows"]:
            if window["sigmas"] is None:
                del window["sigmas"]
        return values

    def digest(self) -> str:
        """Sha256 of the recorded values as JSON with sorted keys; equal configurations have equal digests."""
        text = json.dumps(self.recorded(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def in_steps(self, sigmas: Sequence[float], num_trained_steps: int) -> Self:
        """This configuration with windows and a split that are given by noise level in steps, and checked as such.

        Args:
            sigmas: [K] noise levels of the model's steps, falling.
            num_trained_steps: As of `window_schedule`.

        Raises:
            ConfigError: If there is no step where one is asked for, or the result can't be run.
        """
        return self if self.is_in_steps else self.with_changes(checks.in_steps(self, sigmas, num_trained_steps))

    def window_schedule(self, num_trained_steps: int, *, switch_step: int | None = None) -> WindowSchedule | None:
        """Epoch -> window for this run; None for noise starts, which have no window.

        Args:
            num_trained_steps: How many steps have a standard deviation of at least `sampler.min_std`; it depends on
                the model's noise schedule, which a configuration does not know.
            switch_step: Of the policy, which a diversity floor may have moved; None: as configured.

        Raises:
            ConfigError: If a window is not within the trained steps, or has too few of them.
            ValueError: Windows or the split are given by sigma: see `in_steps`.
        """
        if not self.is_in_steps:
            raise ValueError("windows or the split are given by sigma: the model's own levels say which steps they are")
        if self.starts.kind == "noise":
            return None
        moved = self.switch_step if switch_step is None else switch_step
        return checks.window_schedule(self, num_trained_steps, moved)
