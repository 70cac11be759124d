"""The YAML that configurations are written in: YAML 1.2's plain scalars, no duplicate keys.

PyYAML follows YAML 1.1, where `1e-4` is a string, `no` is false, `010` is eight and `1:30` is ninety; and it lets the
second of two equal keys win in silence. All of these change a run without a word, so none of them is taken over.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from hrf.errors import ConfigError

_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's reading of plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, refusing keys that are repeated or are no strings."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no string", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes strings which only YAML 1.2 reads as numbers, such as `1e-4`.

    Strings with control characters and unusual line breaks go in double quotes, with escapes: PyYAML reads a line break
    such as U+0085 in another style as a blank.
    """

    def represent_text(self, value: str) -> yaml.ScalarNode:
        """Represent a string, escaped where needed."""
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, *, origin: str) -> dict[str, Any]:
    """Parse YAML text whose top level is a mapping; empty text is an empty mapping.

    Args:
        text: The YAML.
        origin: What to call the text in messages, such as `overrides`.

    Raises:
        ConfigError: For a syntax error (with line and column), a repeated key, or another top level than a mapping.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            origin, expected="valid YAML", got=f"{place}{error.problem or error.context}", fix="correct that line"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(origin, expected="valid YAML", got=str(error), fix="correct the text") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            origin,
            expected="a mapping such as `run: {epochs: 3}`",
            got=value,
            fix="write `section: {field: value}`, with a blank after each colon",
        )
    return value


def dump_yaml(value: dict[str, Any]) -> str:
    """Write a mapping as YAML that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
