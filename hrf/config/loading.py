"""Named presets, and how overrides are laid over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from hrf.config.configuration import Config
from hrf.config.overrides import deep_merge
from hrf.errors import ConfigError
from hrf.storage.validation import suggest
from hrf.storage.yaml_text import parse_yaml

_EXTENDS = "extends"


@dataclass(frozen=True)
class PresetInfo:
    """A preset that comes with the library."""

    name: str
    description: str


def list_presets() -> list[PresetInfo]:
    """All presets, by name."""
    return [PresetInfo(name, str(_read_preset(name).get("description", ""))) for name in _preset_names()]


def resolve(preset: str, overrides: str = "") -> Config:
    """The configuration of a run: a preset with overrides on top.

    Args:
        preset: Name of a preset; empty if `overrides` is the whole configuration.
        overrides: YAML text, merged over the preset key by key (lists are replaced). Without a preset it may name one
            itself, with the top-level key `extends`.

    Raises:
        ConfigError: For an unknown preset, broken YAML, an unknown field, or a value that cannot be run.
    """
    changes = parse_yaml(overrides, origin="overrides")
    if preset:
        if _EXTENDS in changes:
            raise ConfigError(
                _EXTENDS,
                expected=f"no `extends` in overrides of the preset {preset!r}",
                got=changes[_EXTENDS],
                fix="remove `extends`, or choose no preset",
            )
        changes[_EXTENDS] = preset
    return Config.from_mapping(_extended(changes, field="preset" if preset else _EXTENDS, below=()))


def _extended(values: dict[str, Any], *, field: str, below: tuple[str, ...]) -> dict[str, Any]:
    """`values` over the preset that they extend, over the one that extends, and so on."""
    changes = {key: value for key, value in values.items() if key != _EXTENDS}
    if _EXTENDS not in values:
        return changes
    name = values[_EXTENDS]
    if name in below:
        raise ConfigError(
            _EXTENDS, expected="presets that do not extend each other", got=[*below, name], fix="break the circle"
        )
    return deep_merge(_extended(_read_preset(name, field), field=_EXTENDS, below=(*below, name)), changes)


def _read_preset(name: object, field: str = "preset") -> dict[str, Any]:
    names = _preset_names()
    if not isinstance(name, str) or name not in names:
        raise ConfigError(
            field,
            expected=f"one of {', '.join(names)}",
            got=name,
            fix=f"choose one of them{suggest(str(name), names)}, or leave it empty and give a whole configuration",
        )
    return _parsed(name)


@cache
def _parsed(name: str) -> dict[str, Any]:
    """A preset as its file has it: read once, since a study resolves hundreds of configurations. Not to be changed."""
    return parse_yaml(_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"), origin=f"preset {name}")


@cache
def _preset_names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _folder() -> Traversable:
    return resources.files("hrf").joinpath("presets")
