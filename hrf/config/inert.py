"""Options that have no effect: an error, or a run would not be what its user believes."""

from __future__ import annotations

from collections.abc import Iterator

from hrf.config.base import Section
from hrf.errors import ConfigError


def inert(section: Section, path: str, names: tuple[str, ...], when: str) -> Iterator[ConfigError]:
    """Options of a section that have no effect `when`: they must be at their default."""
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
