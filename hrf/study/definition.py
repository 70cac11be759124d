"""What a study is, as its YAML file says it: checked as a whole, so that one that exists can be run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from hrf.config import Config, list_presets, resolve
from hrf.config.overrides import deep_merge
from hrf.errors import ConfigError
from hrf.storage.schema import Count, Positive, Section, Seed
from hrf.storage.validation import combine
from hrf.storage.yaml_text import dump_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
"""Of arms and rewards: part of file names, so lower-case letters, digits and single hyphens."""
Values = dict[str, Any]
"""Part of a configuration, as YAML says it."""
#: What decides how a run is measured, by section; () is all of it.
MEASURED: Mapping[str, tuple[str, ...]] = {
    "reward": (),
    "model": ("source", "revision", "forward_dtype"),
    "sampler": ("steps", "spacing"),
    "evaluation": (),
}
#: Sections that a study settles itself, and what no two presets have in common.
_SETTLED = ("description", "reward", "evaluation", "run")


class Arm(Section):
    """One way to train, or one way to sample what another arm has trained."""

    description: str
    """What it is, in a few words."""
    changes: Values = Field(default_factory=dict)
    """Laid over the study's configuration."""
    dial: float | None = None
    """Its position, where it is one of a series that differ in one number."""
    weights_of: str = ""
    """Of another arm: nothing is trained, that arm's weights are measured under these changes as well."""
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Rising: what `weights_of` has trained is measured at its end only, at each of these strengths a, as base + a
    (tuned - base). Its points go from weak to strong: a front in place of a path."""
    points: Annotated[int, Field(ge=0)] = 0
    """How often it is measured, where it needs more looks than the others: a diversity floor. 0: as often as they."""
    preliminary: bool = False
    """Left out of the comparison at matched reward: it helped to find a setting."""


class Matched(Section):
    """Where curves are compared."""

    reward_gains: dict[Name, tuple[Positive, ...]] = Field(default_factory=dict)
    """Gains over the base's reward, by reward, at which diversities are compared."""
    diversity_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.9, 0.8)
    """Shares of the base's diversity at which rewards are compared."""


class Reduction(Section):
    """A smaller form of a study, under a name of its own; what is not given stays."""

    arms: tuple[Name, ...] = ()
    rewards: tuple[Name, ...] = ()
    seeds: tuple[Seed, ...] = ()
    budget: Annotated[int, Field(ge=0)] = 0
    points: Annotated[int, Field(ge=0)] = 0
    overrides: Values = Field(default_factory=dict)


class Study(Section):
    """Arms x rewards x seeds: every run from the same base, with the same budget, on the same evaluation seeds."""

    description: str
    """The question."""
    preset: str
    """The configuration that all arms start from."""
    overrides: Values = Field(default_factory=dict)
    """Laid over the preset, for all arms."""
    budget: Count
    """Denoiser evaluations that a run may spend on training: a forward pass counts 1, forward and backward 3."""
    points: Count = 4
    """How often a run is measured, at equal parts of its budget; the base is measured besides."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Of the training noise; runs of one seed are paired."""
    rewards: Annotated[dict[Name, Values], Field(min_length=1)]
    """By name: what the configuration's `reward` becomes."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    """By name, in the order in which they are run."""
    reference: Name
    """The arm that the others are compared with."""
    matched: Matched = Matched()
    budgets: dict[Name, Reduction] = Field(default_factory=dict)
    """Smaller forms, for `hrf study --budget NAME`."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        problems = list(self._wrong_names())
        if problems:
            raise combine(problems)
        return self

    def _wrong_names(self) -> Iterator[ConfigError]:
        yield from _unknown("reference", [self.reference], self.arms)
        for name, arm in self.arms.items():
            if arm.weights_of:
                trained = [other for other, theirs in self.arms.items() if not theirs.weights_of]
                yield from _unknown(f"arms.{name}.weights_of", [arm.weights_of], trained)
            if arm.strengths:
                yield from _wrong_strengths(f"arms.{name}", arm)
        yield from _unknown("matched.reward_gains", self.matched.reward_gains, self.rewards)
        for name, reduction in self.budgets.items():
            yield from _unknown(f"budgets.{name}.arms", reduction.arms, self.arms)
            yield from _unknown(f"budgets.{name}.rewards", reduction.rewards, self.rewards)
        if len(set(self.seeds)) < len(self.seeds):
            yield ConfigError("seeds", expected="different seeds", got=list(self.seeds), fix="name each once")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a study file; every configuration of it is resolved once.

        Raises:
            ConfigError: The file is absent, or something in it cannot be run; the message names the field.
        """
        if not path.is_file():
            raise ConfigError("STUDY", expected="a YAML file", got=str(path), fix="correct the path")
        study = cls.from_yaml(path.read_text(encoding="utf-8"), origin=str(path))
        study.check()
        return study

    @classmethod
    def of_presets(
        cls,
        presets: Sequence[str],
        *,
        budget: int,
        num_seeds: int,
        rewards: Sequence[Values] = (),
        overrides: Values | None = None,
    ) -> Self:
        """Presets side by side: an arm is a preset as it ships, the first one is the reference.

        Seeds are 1 to `num_seeds`; without rewards it is the one that the presets have in common.

        Raises:
            ConfigError: They are measured differently, so that nothing could be compared, or one can't be run.
        """
        if not presets or len(set(presets)) < len(presets):
            raise ConfigError("--preset", expected="different presets", got=list(presets), fix="name each once")
        text = dump_yaml(overrides or {})
        configs = {preset: resolve(preset, text).to_mapping() for preset in presets}
        reference = configs[presets[0]]
        for preset, config in configs.items():
            for section, fields in measured_otherwise(reference, config).items():
                if section != "reward" or not rewards:
                    raise ConfigError(
                        ", ".join(f"{section}.{field}" for field in fields),
                        expected=f"the same in {presets[0]} and {preset}",
                        got="different values",
                        fix="choose presets that are measured alike, or set it for all of them: --set, --reward",
                    )
        own_rewards = {str(reward.get("name")).replace("_", "-"): reward for reward in rewards or [reference["reward"]]}
        if len(own_rewards) < len(rewards):
            raise ConfigError("--reward", expected="rewards of different names", got=len(rewards), fix="name each once")
        about = {info.name: info.description for info in list_presets()}
        study = cls.from_mapping(
            {
                "description": "Presets at the same budget",
                "preset": presets[0],
                "overrides": overrides or {},
                "budget": budget,
                "seeds": list(range(1, num_seeds + 1)),
                "rewards": own_rewards,
                "arms": {
                    preset: {"description": about[preset], "changes": _differences(reference, config)}
                    for preset, config in configs.items()
                },
                "reference": presets[0],
            }
        )
        study.check()
        return study

    def reduced(self, name: str) -> Study:
        """The smaller form of that name; the study itself for the empty name.

        Raises:
            ConfigError: There is none of that name.
        """
        if not name:
            return self
        if name not in self.budgets:
            raise ConfigError(
                "--budget",
                expected=f"one of {', '.join(self.budgets) or 'none: the study has no `budgets`'}",
                got=name,
                fix="choose one of them, or leave it out for the whole study",
            )
        smaller = self.budgets[name]
        values = self.model_dump(mode="json")
        if smaller.arms:
            values["arms"] = {arm: values["arms"][arm] for arm in smaller.arms}
            if self.reference not in smaller.arms:
                values["reference"] = smaller.arms[0]
        if smaller.rewards:
            values["rewards"] = {reward: self.rewards[reward] for reward in smaller.rewards}
            gains = values["matched"]["reward_gains"]
            values["matched"]["reward_gains"] = {reward: gains[reward] for reward in smaller.rewards if reward in gains}
        values |= {
            "seeds": smaller.seeds or self.seeds,
            "budget": smaller.budget or self.budget,
            "points": smaller.points or self.points,
            "overrides": deep_merge(self.overrides, smaller.overrides),
            "budgets": {},
        }
        return self.from_mapping(values)

    def check(self) -> None:
        """Resolve the configuration of every arm with every reward.

        Raises:
            ConfigError: One is not valid; its field is named together with the arm.
        """
        for arm in self.arms:
            for reward in self.rewards:
                self.config(arm, reward, self.seeds[0])

    def config(self, arm: str, reward: str, seed: int, *, epochs: int = 2) -> Config:
        """The configuration of one run.

        Raises:
            ConfigError: It is not valid.
        """
        run = {"seed": seed, "epochs": epochs, "epochs_per_step": 1, "start_from": "base"}
        always: Mapping[str, Any] = {"reward": self.rewards[reward], "run": run, "evaluation": {"every": 1}}
        # A front is sampled as its weights were trained.
        of = self.arms[arm].weights_of if self.arms[arm].strengths else arm
        changes = deep_merge(deep_merge(self.overrides, self.arms[of].changes), always)
        try:
            config = resolve(self.preset, dump_yaml(changes))
            if not config.is_in_steps:
                raise ConfigError(
                    "policy.split_sigma" if config.policy.split_sigma is not None else "starts.windows",
                    expected="windows and a split in steps or fractions of them: a study's tables name the steps",
                    got="noise levels",
                    fix="give steps; `hrf plan` says which they are",
                )
            return config
        except ConfigError as error:
            raise ConfigError(
                f"arm {arm}, reward {reward}: {error.field}", expected=error.expected, got=error.got, fix=error.fix
            ) from error


def _wrong_strengths(field: str, arm: Arm) -> Iterator[ConfigError]:
    if not arm.weights_of or arm.changes or arm.points:
        yield ConfigError(
            f"{field}.strengths",
            expected="none but with `weights_of`, and then neither `changes` nor `points`: it is the end of another "
            "arm that is measured, as that arm samples it",
            got=list(arm.strengths),
            fix="name the arm in `weights_of` and remove the others, or leave out `strengths`",
        )
    if list(arm.strengths) != sorted(set(arm.strengths)):
        yield ConfigError(
            f"{field}.strengths", expected="rising ones", got=list(arm.strengths), fix="sort them, and name each once"
        )


def measured_otherwise(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[str]]:
    """In what two runs are measured differently: sections of their configurations -> fields. Nothing: they compare."""
    found = {}
    for section, fields in MEASURED.items():
        ours, theirs = first.get(section) or {}, other.get(section) or {}
        # How often a run is measured is no part of how.
        names = [name for name in fields or dict.fromkeys([*ours, *theirs]) if name != "every"]
        if changed := [name for name in names if ours.get(name) != theirs.get(name)]:
            found[section] = changed
    return found


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Values:
    """What makes the one configuration out of the other, where both have the same fields."""
    return {
        name: _differences(first[name], value) if isinstance(value, Mapping) and first[name] else value
        for name, value in other.items()
        if name not in _SETTLED and value != first[name]
    }


def _unknown(field: str, names: Iterable[str], known: Iterable[str]) -> Iterator[ConfigError]:
    for name in names:
        if name not in list(known):
            yield ConfigError(field, expected=f"one of {', '.join(known)}", got=name, fix="name one of them")
