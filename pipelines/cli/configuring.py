"""From what is typed to a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hrf.config import Config

Settings = Annotated[
    list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. update.learning_rate=5e-5.")
]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A configuration, and the two parameters that say it again to the pipeline."""

    config: Config
    preset: str
    overrides: str
    title: str


def choose(name: str, settings: list[str], run: dict[str, Any]) -> Chosen:
    """Resolve what a user named.

    Args:
        name: A preset, or a YAML file with a whole configuration (which may `extends:` a preset).
        settings: `--set` options.
        run: Values of the section `run` that have options of their own, such as `--epochs`.

    Raises:
        ConfigError: Anything in it is wrong.
    """
    from hrf.config import resolve
    from hrf.config.overrides import from_settings, lay_over

    changes = from_settings(settings, {f"run.{field}": value for field, value in run.items()})
    if not name.endswith((".yaml", ".yml")):
        overrides = lay_over("", changes)
        return Chosen(config=resolve(name, overrides), preset=name, overrides=overrides, title=name)
    overrides = lay_over(_read(Path(name)), changes)
    return Chosen(config=resolve("", overrides), preset="", overrides=overrides, title=Path(name).name)


def _read(file: Path) -> str:
    from hrf.errors import ConfigError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "preset", expected="a preset or a readable YAML file", got=str(file), fix=f"check the file: {error}"
        ) from error
