"""The configuration's fields, from their declarations and docstrings, and the presets as they ship."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import hrf
from hrf.config import Config, list_presets

_NAMES = {bool: "true or false", float: "number", int: "integer", str: "text"}


def page() -> str:
    """A heading for each section, and below it each of its fields."""
    top, sections = [], []
    for name, field in Config.model_fields.items():
        inner = list(_sections_in(field.annotation))
        if not inner:
            top.append(_field(name, field))
        elif len(inner) == 1:
            sections.append(_section(name, inner[0], field))
        else:
            sections.append(_families(name, inner))
    shared = [_section(part.__name__, part) for part in _shared_parts()]
    return "\n\n".join([*sections, *shared, "## Of the whole run", *top])


def presets() -> str:
    """Each preset's file, with the comments that say where its numbers come from."""
    folder = Path(hrf.__file__).parent / "presets"
    texts = {preset.name: (folder / f"{preset.name}.yaml").read_text(encoding="utf-8") for preset in list_presets()}
    return "\n\n".join(f"## {name}\n\n```yaml\n{text}```" for name, text in texts.items())


@cache
def _shared_parts() -> list[type[BaseModel]]:
    """Sections that several kinds of one section have, such as where weights are: each is listed once."""
    parts: dict[str, type[BaseModel]] = {}
    for section in Config.model_fields.values():
        kinds = list(_sections_in(section.annotation))
        inner = [field.annotation for kind in kinds for field in kind.model_fields.values() if len(kinds) > 1]
        parts |= {part.__name__: part for annotation in inner for part in _sections_in(annotation) if part not in kinds}
    return [part for _, part in sorted(parts.items())]


def _section(name: str, section: type[BaseModel], field: FieldInfo | None = None, level: str = "##") -> str:
    """A section with its fields; sections within it come after them."""
    said = [f"{level} {name}", _text(section.__doc__)]
    said += [_text(field.description)] if field is not None and field.description else []
    inner = []
    for key, value in section.model_fields.items():
        below = list(_sections_in(value.annotation))
        if len(below) == 1 and below[0] not in _shared_parts():
            inner.append(_section(f"{name}.{key}", below[0], value, "###"))
        else:
            said.append(_field(f"{name}.{key}", value))
    return "\n\n".join(said + inner)


def _families(name: str, families: list[type[BaseModel]]) -> str:
    """A section that is one of several kinds, told apart by their `name`."""
    said = [f"## {name}", f"One of these, by `{name}.name`; each has its own fields only."]
    for family in families:
        names = ", ".join(_literals(family.model_fields["name"].annotation))
        said += [f"### {name}: {names}", _text(family.__doc__)]
        for key, field in family.model_fields.items():
            if key != "name" or len(_literals(field.annotation)) > 1:
                said.append(_field(f"{name}.{key}", field, anchor=f"{names.split(',')[0].strip('`')}.{key}"))
    return "\n\n".join(said)


def _field(name: str, field: FieldInfo, anchor: str = "") -> str:
    default = "required" if field.is_required() else f"default {_value(field.get_default(call_default_factory=True))}"
    kind = _kind(field.annotation, tuple(field.metadata))
    return f"#### `{name}` {{ #{anchor or name} }}\n\n{kind}; {default}\n\n{_text(field.description)}"


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "as listed there"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(one) for one in value)}]`"
    return '`""`' if value == "" else f"`{value}`"


def _kind(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """What a field takes, in words."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0], (*metadata, *get_args(annotation)[1:]))
    limits = _limits(metadata)
    if get_origin(annotation) is Literal:
        return " or ".join(_literals(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        sections = list(_sections_in(annotation))
        parts = [_kind(one, metadata) for one in get_args(annotation) if one is not type(None)]
        words = ["a reward, as in the section reward"] if len(sections) > 1 else list(dict.fromkeys(parts))
        return " or ".join([*words, *(["`null`"] if type(None) in get_args(annotation) else [])])
    if get_origin(annotation) is tuple:
        inner = [_kind(one) for one in get_args(annotation) if one is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in get_args(annotation) else f"[{', '.join(inner)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _NAMES.get(annotation, str(annotation)) + (f" {limits}" if limits else "")


def _limits(metadata: tuple[Any, ...]) -> str:
    """Bounds of a number, in signs; the one that is beyond any machine goes without saying."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    rules = [rule for one in metadata for rule in getattr(one, "metadata", [one])]
    bounds = {sign: getattr(rule, name) for rule in rules for name, sign in signs.items() if hasattr(rule, name)}
    return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound < 2**31 - 1)


def _literals(annotation: Any) -> list[str]:
    return [
        word
        for one in get_args(annotation)
        for word in (_literals(one) if get_origin(one) is Literal else [f"`{one}`"])
    ]


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Sections that an annotation names, at any depth of unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _sections_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, tuple):
        for one in get_args(annotation):
            yield from _sections_in(one)


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())
