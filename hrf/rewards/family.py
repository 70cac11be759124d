"""What a family of rewards is: a section of the configuration, and all that is to be said of it, in one class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union, get_args

from pydantic import Discriminator, Tag

from hrf.errors import ConfigError
from hrf.storage.schema import Section
from hrf.storage.weights import pinned_in

if TYPE_CHECKING:
    from hrf.rewards.base import CheckedReward

REWARD_EXTRA = "hrf-pipelines[reward]"


@dataclass(frozen=True, kw_only=True)
class RewardRecord:
    """One reward, as `hrf rewards` prints it. All are better higher: one to be lowered gets a negative weight."""

    name: str
    """Of the configuration: `reward.name`."""
    measures: str
    range: str
    direction: str
    """What higher means."""
    needs_prompts: bool
    """Of one that only other settings decide for: false."""
    weights: str
    """What is loaded, and where it comes from."""
    licence: str
    """Of the weights, or of the code where there are none. The weights' pages decide; look before you publish."""
    cost: str
    """Per image, without resizing."""
    extra: str = ""
    """What to install for it, beyond the library."""


class RewardFamily(Section):
    """The settings of a reward. A family is a subclass, in a file of its own: it has a field `name`, a Literal.

    Its file starts without torch, since whoever reads a configuration imports it: `build` imports networks.
    """

    if TYPE_CHECKING:
        name: str = ""

    catalogue: ClassVar[tuple[RewardRecord, ...]]
    """What there is to know of each of its names."""
    unit: ClassVar[str] = ""
    """Of its numbers, for reports; empty for bare numbers."""

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """Make the reward; see `hrf.rewards.build_reward`.

        Args:
            field: Path of this section, for messages.
            folder: Where `pack_classifiers` has put its classifiers; None if it has none.
            device: Where networks run, in place of the configured device.
        """
        raise NotImplementedError

    def problems(self, path: str) -> Iterator[ConfigError]:
        """Everything that is wrong with this section, whose single values are all right, at a path."""
        for name, weights in pinned_in(self).items():
            yield from weights.problems(f"{path}.{name}")

    def leaves(self, path: str) -> Iterator[tuple[RewardFamily, str]]:
        """The sections that have weights of their own, with their paths: this one, or those within it."""
        yield self, path

    def check_fitted(self, path: str, *, base: str, prompts: Sequence[str]) -> None:
        """Refuse what was fitted for other runs; asked by `prepare` of each of `leaves`.

        Args:
            path: Of this section, for messages.
            base: Digest of the base model's contents.
            prompts: What is trained on.

        Raises:
            ConfigError: If the reward was made for another base or other prompts.
        """
        del path, base, prompts

    def measured(self) -> dict[str, Any]:
        """The settings that the reward's numbers depend on, as plain values."""
        return self.model_dump(mode="json")

    def input_digests(self, path: str) -> dict[str, str]:
        """Dotted field -> digest of what it names on this machine. Pinned weights are left out: the section says."""
        del path
        return {}

    def pack_classifiers(self, path: str, target: Path) -> Iterator[tuple[Path, str]]:
        """Copy classifiers of this project's kind, which go with a run, into a folder.

        Yields:
            Each copy, with the path of the section that names it.
        """
        del path, target
        yield from ()

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The rewards of the family: what `name` may be."""
        return get_args(cls.model_fields["name"].annotation)

    @classmethod
    def words(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """The reward in a sentence, with its direction, for the report.

        Args:
            settings: The section as a run has recorded it, maybe long ago: any field but `name` may be missing.
            built_name: What the run called the reward.
        """
        measures = next(record.measures for record in cls.catalogue if record.name == settings["name"])
        return f"{measures}{cls.chosen(settings, built_name)}: larger is better"

    @classmethod
    def chosen(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """For that sentence: what of all it could measure it was pointed at, such as ` (planets)`."""
        del settings, built_name
        return ""


def union_of(families: Sequence[type[RewardFamily]]) -> Any:
    """The type of a field that takes settings of any of the families; without a `name` they are the first one's."""
    tags = {name: family.__name__ for family in families for name in family.names()}
    assumed = next(iter(tags))

    def tag(value: Any) -> str | None:
        """An unknown name stands for itself; None for what is no mapping."""
        name = value.get("name", assumed) if isinstance(value, Mapping) else getattr(value, "name", None)
        return None if name is None else tags.get(name, name) if isinstance(name, str) else repr(name)

    # UP007: of classes that are known only here, there is no other way to write it.
    members = tuple(Annotated[family, Tag(family.__name__)] for family in families)
    return Annotated[Union[members], Discriminator(tag)]  # noqa: UP007
