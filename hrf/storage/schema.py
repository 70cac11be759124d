"""What all sections of a configuration have in common: how their values are typed, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hrf.errors import ConfigError
from hrf.storage.validation import dotted, from_validation_error
from hrf.storage.yaml_text import dump_yaml, parse_yaml

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# Beyond any machine, and within what a tensor can be asked for.
_MOST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=_MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=_MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Base of sections and records: frozen, strict about types, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Section(Strict):
    """Base of all sections of a configuration."""

    @classmethod
    def from_yaml(cls, text: str, *, origin: str = "configuration") -> Self:
        """Read what `to_yaml` wrote; `origin` is what messages call it.

        Raises:
            ConfigError: For the first problem; it names the fields of all others.
        """
        return cls.from_mapping(parse_yaml(text, origin=origin))

    def to_yaml(self) -> str:
        """All values, defaults included, as YAML."""
        return dump_yaml(self.model_dump(mode="json"))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Validate plain values, as they come out of YAML or JSON.

        Raises:
            ConfigError: For the first problem; it names the fields of all others.
        """
        try:
            text = json.dumps(values)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                "configuration",
                expected="text, numbers, true/false, null, lists and mappings",
                got=str(error),
                fix="remove what is none of them, or a value that holds itself",
            ) from error
        _check_texts(values)
        try:
            # JSON mode is strict about types, yet takes a list for a tuple: YAML has no tuples.
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise from_validation_error(error, cls) from error


def inert(section: Section, path: str, names: tuple[str, ...], when: str) -> Iterator[ConfigError]:
    """Options of a section that have no effect `when`: unless they are at their default, a run isn't what it says."""
    for name in names:
        default, value = type(section).model_fields[name].default, getattr(section, name)
        if value != default:
            shown = default.model_dump() if isinstance(default, Section) else default
            yield ConfigError(
                f"{path}.{name}",
                expected=f"nothing but its default {_yaml_like(shown)}, as it has no effect {when}",
                got=value.model_dump() if isinstance(value, Section) else value,
                fix=f"remove {path}.{name}, or set it back to {_yaml_like(shown)}",
            )


def _yaml_like(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return "[]" if value == () else repr(value)


def _check_texts(values: Any) -> None:
    """Refuse text that can't be handed on: a path or a database's text ends at a NUL, UTF-8 has no half a pair."""
    ahead: list[tuple[tuple[int | str, ...], Any]] = [((), values)]
    while ahead:
        place, value = ahead.pop()
        parts: list[tuple[int | str, Any]] = []
        if isinstance(value, Mapping):
            parts = [(str(key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        for text in (value, *(name for name, _ in parts)):
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= char <= "\udfff" for char in text)):
                raise ConfigError(
                    dotted(place) or "configuration",
                    expected="text without NUL and unpaired surrogates",
                    got=text,
                    fix="remove these characters",
                )
        ahead += [((*place, name), part) for name, part in parts]
