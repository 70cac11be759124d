"""Overrides of a configuration: from `--set` options to the one line of YAML that a pipeline's parameter takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hrf.config.tree import deep_merge
from hrf.config.yaml_text import parse_yaml
from hrf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def lay_over(overrides: str, values: Mapping[str, Any]) -> str:
    """Lay values over overrides.

    Args:
        overrides: YAML text of a mapping, or "".
        values: Section -> field -> value.

    Returns:
        One line of JSON, which is YAML too and ASCII whatever it holds; "" for nothing at all.

    Raises:
        ConfigError: The overrides are no YAML mapping.
    """
    merged = deep_merge(parse_yaml(overrides, origin="overrides"), values)
    return json.dumps(merged) if merged else ""


def from_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Read `--set` options.

    Args:
        settings: Each `dotted.field=value`, the value in YAML.

    Returns:
        A nested mapping, such as {"update": {"learning_rate": 5e-5}}.

    Raises:
        ConfigError: One without `=`, with an empty field, with a broken value, or that contradicts another one.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        dotted, equals, value = setting.partition("=")
        names = dotted.strip().split(".")
        if not equals or not all(names):
            raise ConfigError("--set", expected="dotted.field=value", got=setting, fix="e.g. --set run.epochs=5")
        inner = tree
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(dotted, expected="a field of its own", got=setting, fix="set it once")
        inner[names[-1]] = parse_yaml(f"value: {value}", origin=f"--set {dotted}")["value"]
    return tree
