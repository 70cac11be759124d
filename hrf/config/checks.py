"""Rules between fields: options that contradict each other, and options that could not take effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hrf.core.window import WindowError, WindowSchedule, WindowSpec, build_schedule
from hrf.errors import ConfigError

if TYPE_CHECKING:
    from hrf.config.tree import Config


def problems(config: Config) -> Iterator[ConfigError]:
    """Everything that is wrong with a configuration whose single values are all right."""
    yield from ()


def window_schedule(config: Config, num_trained_steps: int) -> WindowSchedule:
    """Build the schedule of `config.starts`, reporting problems by their field."""
    starts = config.starts
    specs = [WindowSpec(fractions=entry.fractions, steps=entry.steps, epochs=entry.epochs) for entry in starts.windows]
    try:
        return build_schedule(
            starts.schedule,
            specs,
            width=starts.width,
            num_epochs=config.run.epochs,
            num_steps=config.sampler.steps,
            num_trained_steps=num_trained_steps,
            switch_step=config.switch_step,
        )
    except WindowError as error:
        raise ConfigError("starts.windows", expected=error.expected, got=error.got, fix="see the rule") from error
