"""From what is typed to a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrf.errors import ConfigError

if TYPE_CHECKING:
    from hrf.config import Config

Preset = Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset, or a configuration file.")]
Experiment = Annotated[str, typer.Option(help="Runs of one experiment share a promoted model.")]
Epochs = Annotated[int, typer.Option(min=0, help="Instead of run.epochs; 0 leaves it.")]
StartFrom = Annotated[str, typer.Option(metavar="promoted|base", help="Instead of what the configuration says.")]
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


def choose(name: str, settings: list[str], *, epochs: int = 0, start_from: str = "") -> Chosen:
    """Resolve what a user named.

    Raises:
        ConfigError: Anything in it is wrong.
    """
    from hrf.config import resolve
    from hrf.config.overrides import from_settings, lay_over

    options = {"run.epochs": epochs, "run.start_from": start_from}
    changes = from_settings(settings, {field: value for field, value in options.items() if value})
    if not name.endswith((".yaml", ".yml")):
        overrides = lay_over("", changes)
        return Chosen(config=resolve(name, overrides), preset=name, overrides=overrides, title=name)
    overrides = lay_over(_read(Path(name)), changes)
    return Chosen(config=resolve("", overrides), preset="", overrides=overrides, title=Path(name).name)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "preset", expected="a preset or a readable YAML file", got=str(file), fix=f"check the file: {error}"
        ) from error
