"""Turn pydantic's complaints into `ConfigError`s: dotted field, rule, value, fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hrf.errors import ConfigError, cut_short


def from_validation_error(error: ValidationError, tree: type[BaseModel]) -> ConfigError:
    """The first problem of a validation, with the fields of the others named after it."""
    first, *rest = error.errors(include_url=False)
    return _with_others(_convert(first, tree), [_field(detail, tree) for detail in rest])


def combine(problems: Sequence[ConfigError]) -> ConfigError:
    """The first of several problems; its fix names the fields of the rest."""
    first, *rest = problems
    return _with_others(first, [problem.field for problem in rest])


def _with_others(first: ConfigError, rest: Sequence[str]) -> ConfigError:
    if not rest:
        return first
    others = cut_short(", ".join(dict.fromkeys(rest)))
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


def _field(detail: ErrorDetails, tree: type[BaseModel]) -> str:
    """The field that a problem is told by: a reward of no known family is one of its name."""
    location, _ = _walk(tree, detail["loc"])
    return dotted((*location, "name") if detail["type"] == "union_tag_invalid" else location) or "configuration"


def _convert(detail: ErrorDetails, tree: type[BaseModel]) -> ConfigError:
    location, section = _walk(tree, detail["loc"])
    field, got, kind = _field(detail, tree), detail["input"], detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(location, section, tree, got)
    if kind == "union_tag_invalid":
        name = str(context["tag"])
        choices = [
            name
            for family in _families(tree)
            if f"'{family.__name__}'" in context["expected_tags"]
            for name in _names(family)
        ]
        expected = f"one of {', '.join(choices)}"
        fix = f"choose one of them{suggest(name, choices)}; `hrf rewards` describes them"
        return ConfigError(field, expected=expected, got=name, fix=fix)
    if kind == "union_tag_not_found":
        kind = "model_type"
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


def _unknown_key(
    location: tuple[int | str, ...], section: type[BaseModel], tree: type[BaseModel], got: object
) -> ConfigError:
    parent, name = location[:-1], str(location[-1])
    known = list(section.model_fields)
    matches = difflib.get_close_matches(name, known, n=1)
    families = list(_families(tree))
    owners = [choice for family in families if name in family.model_fields for choice in _names(family)]
    if not matches and owners and section in families:
        own = " or ".join(map(repr, _names(section)))
        return ConfigError(
            dotted(location),
            expected=f"a field of the reward {own} ({dotted((*parent, 'name'))}): another reward's has no effect on it",
            got=got,
            fix=f"remove it, or name the reward that has it: {', '.join(owners)}",
        )
    elsewhere = [path for path in _leaves(tree) if path.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    if matches:
        fix = f"did you mean {dotted((*parent, matches[0]))}?"
    elif elsewhere:
        owner, _, leaf = elsewhere[0].rpartition(".")
        fix = f"that field is {elsewhere[0]}: write it nested, `{owner}: {{{leaf}: ...}}`"
    else:
        fix = f"remove it; the fields here are {', '.join(known)}"
    return ConfigError(dotted(location), expected="a field that exists", got=got, fix=fix)


def _walk(tree: type[BaseModel], location: Iterable[int | str]) -> tuple[tuple[int | str, ...], type[BaseModel]]:
    """A problem's location without the parts that pydantic adds for unions, and the section that it is in."""
    section, shown = tree, list[int | str]()
    choices: tuple[type[BaseModel], ...] = (tree,)
    for part in location:
        if len(choices) > 1 and part in (names := [choice.__name__ for choice in choices]):
            choices = (choices[names.index(str(part))],)
            section = choices[0]
            continue
        shown.append(part)
        if isinstance(part, str) and choices:
            section = choices[0]
            info = section.model_fields.get(part)
            choices = _sections_in(info.annotation) if info else ()
    return tuple(shown), section


def _sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The section classes within an annotation such as `Reward | None` or `tuple[WindowEntry, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(section for argument in getattr(annotation, "__args__", ()) for section in _sections_in(argument))


def _names(family: type[BaseModel]) -> tuple[str, ...]:
    """What a reward of a family may be called."""
    return get_args(family.model_fields["name"].annotation)


def _families(tree: type[BaseModel]) -> dict[type[BaseModel], None]:
    """The families of rewards in a tree, in their order: the sections that are told apart by their name."""
    families: dict[type[BaseModel], None] = {}
    for info in tree.model_fields.values():
        sections = _sections_in(info.annotation)
        families |= dict.fromkeys(section for section in sections if len(sections) > 1)
        for section in sections:
            families |= _families(section)
    return families


def _leaves(tree: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in tree.model_fields.items():
        nested = _sections_in(info.annotation)
        if not nested:
            yield prefix + name
        for section in nested:
            yield from _leaves(section, f"{prefix}{name}.")
