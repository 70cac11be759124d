"""Turn pydantic's complaints into `ConfigError`s: dotted field, rule, value, fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hrf.errors import ConfigError


def from_validation_error(error: ValidationError, tree: type[BaseModel]) -> ConfigError:
    """The first problem of a validation, with the fields of the others named after it."""
    return combine([_convert(detail, tree) for detail in error.errors(include_url=False)])


def combine(problems: Sequence[ConfigError]) -> ConfigError:
    """The first of several problems; its fix names the fields of the rest."""
    first, rest = problems[0], problems[1:]
    if not rest:
        return first
    others = ", ".join(dict.fromkeys(problem.field for problem in rest))
    fix = f"{first.fix}. {len(rest)} more problem{'s' if len(rest) > 1 else ''}: {others}"
    return ConfigError(first.field, expected=first.expected, got=first.got, fix=fix)


def dotted(location: Iterable[int | str]) -> str:
    """`("starts", "windows", 0, "steps")` -> `starts.windows[0].steps`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` for the most similar known name, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _convert(detail: ErrorDetails, tree: type[BaseModel]) -> ConfigError:
    field, got, kind = dotted(detail["loc"]) or "configuration", detail["input"], detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(detail["loc"], tree, got)
    if kind == "literal_error":
        expected = f"one of {context['expected']}"
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return ConfigError(field, expected=expected, got=got, fix=f"choose one of them{suggest(str(got), choices)}")
    expected = _RULES.get(kind, detail["msg"].removeprefix("Input should be "))
    return ConfigError(field, expected=expected, got=got, fix=_fix(field, kind, got))


_RULES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "too_short": "a pair [a, b]",
    "too_long": "a pair [a, b]",
    "missing": "a pair [a, b]",
}


def _fix(field: str, kind: str, got: object) -> str:
    if kind in {"int_type", "float_type", "bool_type"} and isinstance(got, str):
        return f"write the value of {field} as a plain {_RULES[kind].split()[-1]}, without quotes"
    if kind == "string_type":
        return f"write the value of {field} in quotes"
    if kind in {"model_type", "model_attributes_type"}:
        return f"write `{field}: {{name: value}}`, or leave {field} out"
    return f"set {field} to {_RULES.get(kind, 'a value within the rule')}"


def _unknown_key(location: tuple[int | str, ...], tree: type[BaseModel], got: object) -> ConfigError:
    parent, name = location[:-1], str(location[-1])
    known = list(_section_at(tree, parent).model_fields)
    matches = difflib.get_close_matches(name, known, n=1)
    elsewhere = [path for path in _leaves(tree) if path.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    if matches:
        fix = f"did you mean {dotted((*parent, matches[0]))}?"
    elif elsewhere:
        section, _, leaf = elsewhere[0].rpartition(".")
        fix = f"that field is {elsewhere[0]}: write it nested, `{section}: {{{leaf}: ...}}`"
    else:
        fix = f"remove it; the fields here are {', '.join(known)}"
    return ConfigError(dotted(location), expected="a field that exists", got=got, fix=fix)


def _section_at(tree: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel]:
    section = tree
    for part in location:
        if isinstance(part, str):
            section = _nested(section.model_fields[part].annotation) or section
    return section


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The section class within an annotation such as `Reward | None` or `tuple[WindowEntry, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    candidates = (_nested(argument) for argument in getattr(annotation, "__args__", ()))
    return next((candidate for candidate in candidates if candidate is not None), None)


def _leaves(tree: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in tree.model_fields.items():
        nested = _nested(info.annotation)
        if nested is None:
            yield prefix + name
        else:
            yield from _leaves(nested, f"{prefix}{name}.")
