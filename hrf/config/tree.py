"""The whole configuration tree, its text form and its digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from hrf.config import checks, messages
from hrf.config.base import Section
from hrf.config.rewards import JpegReward, Reward, family_name
from hrf.config.sections import (
    Evaluation,
    Gate,
    Model,
    Policy,
    Prompts,
    Rollout,
    Run,
    Sampler,
    Starts,
    Update,
)
from hrf.config.yaml_text import dump_yaml, parse_yaml
from hrf.core.window import WindowSchedule, first_step_from
from hrf.errors import ConfigError

_REWARDS = frozenset({"reward", "held_out_reward"})


class Config(Section):
    """A run's configuration. Immutable, complete, and checked as a whole: one that exists can be run."""

    description: str = ""
    """What the configuration is for, in one sentence."""
    model: Model = Model()
    prompts: Prompts | None = None
    """For text-to-image models, which need it; null for unconditional ones."""
    sampler: Sampler = Sampler()
    policy: Policy = Policy()
    starts: Starts = Starts()
    rollout: Rollout = Rollout()
    reward: Reward = JpegReward()
    update: Update = Update()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    diversity_floor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What the lower end of the diversity ratio to the base must exceed. The run steers by it (see
    `hrf.promotion.floor`): with a split by the switch step and the learning rate, without one by the rate alone. The
    gate takes it in the place of its margin. null: the run does not steer."""
    run: Run = Run()

    @model_validator(mode="after")
    def _check_fields_together(self) -> Self:
        problems = list(checks.problems(self))
        if problems:
            raise messages.combine(problems)
        return self

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Validate plain values, as they come out of YAML or JSON.

        Raises:
            ConfigError: For the first problem; it names the fields of all others.
        """
        try:
            text = json.dumps(values)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                "configuration",
                expected="text, numbers, true/false, null, lists and mappings",
                got=str(error),
                fix="remove what is none of them, or a value that holds itself",
            ) from error
        _check_texts(values)
        try:
            # JSON mode is strict about types, yet takes a list for a tuple: YAML has no tuples.
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise messages.from_validation_error(error, cls) from error

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read what `to_yaml` wrote.

        Raises:
            ConfigError: If the text is no valid configuration.
        """
        return cls.from_mapping(parse_yaml(text, origin="configuration"))

    def to_mapping(self) -> dict[str, Any]:
        """All values, defaults included, as plain mappings, lists and scalars."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """All values, defaults included, as YAML."""
        return dump_yaml(self.to_mapping())

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """This configuration with some values replaced, such as `{"run": {"epochs": 5}}`, checked again.

        Raises:
            ConfigError: If the result is no valid configuration.
        """
        return self.from_mapping(deep_merge(self.to_mapping(), changes))

    def digest(self) -> str:
        """Sha256 of the configuration as JSON with sorted keys; equal configurations have equal digests."""
        text = json.dumps(self.to_mapping(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def switch_step(self) -> int:
        """The first step that the tuned weights denoise: the first k with k/K >= policy.split; 0 without a split."""
        return first_step_from(self.policy.split, self.sampler.steps)

    @property
    def narrowest_window(self) -> int:
        """The fewest start steps that a window can have: two candidates where they are selected, else one."""
        return self.starts.selection.stride + 1 if self.starts.kind == "selected" else 1

    @property
    def gate_floor(self) -> float:
        """What the lower end of a candidate's diversity ratio must exceed to pass the gate."""
        return 1.0 - self.gate.diversity_margin if self.diversity_floor is None else self.diversity_floor

    @property
    def first_loss_step(self) -> int:
        """The first step of an episode that starts from noise and is trained."""
        return max(self.switch_step, first_step_from(self.starts.loss_from, self.sampler.steps))

    @property
    def forwards(self) -> int:
        """Forward passes of the denoiser per evaluation of a policy: 2 with guidance, else 1."""
        return 2 if self.model.guidance_scale > 1 else 1

    @property
    def episode_forwards(self) -> int:
        """The same for the episodes that are trained on."""
        return self.forwards if self.update.guidance else 1

    def window_schedule(self, num_trained_steps: int, *, switch_step: int | None = None) -> WindowSchedule | None:
        """Epoch -> window for this run; None for noise starts, which have no window.

        Args:
            num_trained_steps: How many steps have a standard deviation of at least `sampler.min_std`; it depends on
                the model's noise schedule, which a configuration does not know.
            switch_step: Of the policy, which a diversity floor may have moved; None: as configured.

        Raises:
            ConfigError: If a window is not within the trained steps, or has too few of them.
        """
        if self.starts.kind == "noise":
            return None
        moved = self.switch_step if switch_step is None else switch_step
        return checks.window_schedule(self, num_trained_steps, moved)


def _check_texts(values: Any) -> None:
    """Refuse text that can't be handed on: a path or a database's text ends at a NUL, UTF-8 has no half a pair."""
    ahead: list[tuple[tuple[int | str, ...], Any]] = [((), values)]
    while ahead:
        place, value = ahead.pop()
        parts: list[tuple[int | str, Any]] = []
        if isinstance(value, Mapping):
            parts = [(str(key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        for text in (value, *(name for name, _ in parts)):
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= char <= "\udfff" for char in text)):
                raise ConfigError(
                    messages.dotted(place) or "configuration",
                    expected="text without NUL and unpaired surrogates",
                    got=text,
                    fix="remove these characters",
                )
        ahead += [((*place, name), part) for name, part in parts]


def deep_merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top: mappings are merged key by key, everything else, lists too, is replaced.

    So is a reward by one of another family: the options of the one say nothing about the other.
    """
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not _other_family(key, below, value):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = value
    return merged


def _other_family(key: str, below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return key in _REWARDS and "name" in value and family_name(value) != family_name(below)
