"""The YAML that configurations are written in: YAML 1.2's plain scalars, no duplicate keys, and of bounded size.

PyYAML follows YAML 1.1, where `1e-4` is a string, `no` is false, `010` is eight and `1:30` is ninety; and it lets the
second of two equal keys win in silence. All of these change a run without a word, so none of them is taken over. Nor
are tags that make of a value what it does not look like, such as `!!binary`: no field takes it.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from hrf.errors import ConfigError

_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


# Far more than configurations and studies have; a line of aliases to aliases can stand for billions of values.
_MAX_DEPTH, _MAX_VALUES = 40, 20_000
_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep, or an alias within what it stands for"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's reading of plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        """Begin a list or mapping in brackets: the scanner, which reads ahead, needs a time quadratic in the depth."""
        self._check_depth()
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        """Begin an indented list or mapping, where the column says so."""
        self._check_depth()
        return bool(super().add_indent(column))

    def _check_depth(self) -> None:
        if self.flow_level + len(self.indents) > _MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, _TOO_DEEP, self.get_mark())

    def get_single_node(self) -> yaml.Node | None:
        """Read the document as a tree of nodes and check that, before any value is made of it."""
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _check(root, self)
        return root

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """Read a text; JSON, which is YAML, writes a character beyond U+FFFF as two escapes, and PyYAML reads two."""
        text: str = super().construct_scalar(node)
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")

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


def _check(root: yaml.Node, loader: _Loader) -> None:
    """Walk through a tree as it reads with every alias written out, as far as it is allowed to reach."""
    num_values, ahead = 0, [(root, 1)]
    while ahead:
        node, depth = ahead.pop()
        num_values += 1
        if num_values > _MAX_VALUES:
            _refuse(node, f"more than {_MAX_VALUES} values, aliases written out")
        if depth > _MAX_DEPTH:
            _refuse(node, _TOO_DEEP)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        reads_as = loader.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
        if node.tag != reads_as:
            _refuse(node, f"tag {node.tag.removeprefix('tag:yaml.org,2002:')!r} on what does not read as that")
        ahead += [(part, depth + 1) for part in _parts(node)]


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    """What a list or a mapping is made of; of a mapping, its keys too."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.composer.ComposerError(None, None, problem, node.start_mark)


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
        value = copy.deepcopy(_read(text))
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


@functools.lru_cache(maxsize=32)
def _read(text: str) -> Any:
    """What the YAML says: read once, as every step of a process reads the same configuration. Not to be changed."""
    return yaml.load(text, Loader=_Loader)


def dump_yaml(value: dict[str, Any]) -> str:
    """Write a mapping as YAML that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
