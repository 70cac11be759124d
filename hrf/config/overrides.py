"""Overrides of a configuration: how they are laid over it, from `--set` options to a pipeline's one line of YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hrf.errors import ConfigError
from hrf.rewards import DEFAULT_REWARD, family_of
from hrf.storage.yaml_text import parse_yaml

_REWARDS = frozenset({"reward", "held_out_reward"})


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
    return key in _REWARDS and "name" in value and _family(value) != _family(below)


def _family(reward: Mapping[str, Any]) -> object:
    """The family that a reward's settings belong to; an unknown name itself."""
    name = reward.get("name", DEFAULT_REWARD.name)
    return family_of(name) or name


def lay_over(overrides: str, values: Mapping[str, Any]) -> str:
    """Lay values, section -> field -> value, over overrides: YAML text of a mapping, or "".

    Returns:
        One line of JSON, which is YAML too and ASCII whatever it holds; "" for nothing at all.

    Raises:
        ConfigError: The overrides are no YAML mapping.
    """
    merged = deep_merge(parse_yaml(overrides, origin="overrides"), values)
    return json.dumps(merged) if merged else ""


def from_settings(settings: Iterable[str], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read `--set` options; in which order they are given makes no difference.

    `options` are fields that have an option of their own, with what it says.

    Returns:
        A nested mapping, such as {"update": {"learning_rate": 5e-5}}.

    Raises:
        ConfigError: One without `=`, with an empty field, with a broken value, or that contradicts another one.
    """
    tree: dict[str, Any] = {}
    for dotted, value in [*map(_read, settings), *(options or {}).items()]:
        names = dotted.split(".")
        for name in reversed(names):
            value = {name: value}
        tree = _joined(tree, value)
    return tree


def _read(setting: str) -> tuple[str, Any]:
    """Split a `--set` option into its field and what its value means."""
    dotted, equals, text = setting.partition("=")
    field = dotted.strip()
    if not equals or not all(field.split(".")):
        raise ConfigError("--set", expected="dotted.field=value", got=setting, fix="e.g. --set run.epochs=5")
    read = parse_yaml(f"value: {text}", origin=f"--set {field}")
    if len(read) > 1:
        raise ConfigError(f"--set {field}", expected="one value", got=text, fix="give every field a --set of its own")
    return field, read["value"]


def _joined(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Both of two mappings: what only one of them says, and what they agree on."""
    joined = {**one, **other}
    for name in one.keys() & other.keys():
        field, first, second = f"{path}{name}", one[name], other[name]
        if isinstance(first, dict) and isinstance(second, dict):
            joined[name] = _joined(first, second, f"{field}.")
        elif type(first) is not type(second) or first != second:
            raise ConfigError(field, expected="one value", got=[first, second], fix="set it once")
    return joined
