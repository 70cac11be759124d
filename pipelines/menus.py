"""What the form in which a run is started offers to choose from."""

from __future__ import annotations

from typing import get_args

from hrf.config import Config, StartChoice, resolve
from hrf.config.loading import list_presets
from hrf.errors import ConfigError
from hrf.steps.check import check_shape, shape_of
from hrf_pipelines.forecasting import settle_epochs_per_step
from hrf_pipelines.placement import Placement, Site, check_accelerators, check_shards


def finetune_menus(config: Config, placement: Placement, *, preset: str, overrides: str = "") -> dict[str, list[str]]:
    """The menus of the fine-tuning pipeline.

    Without a preset the overrides are a whole configuration, which leaves no choice of another one.

    Returns:
        The values of each parameter that has a list, the default first.
    """
    config = settle_epochs_per_step(config, placement)
    others = [info.name for info in list_presets()] if preset else []
    presets = [name for name in others if _fits(name, overrides, config, placement)]
    return {
        "preset": list(dict.fromkeys([preset, *presets])),
        "start_from": list(get_args(StartChoice)),
    }


def _fits(preset: str, overrides: str, config: Config, placement: Placement) -> bool:
    """Whether a package can run another preset than the one that it was compiled for.

    Its tasks must be the same ones, in the images that the other preset needs, with its devices and what it downloads.
    """
    assert isinstance(config.run.epochs_per_step, int)
    try:
        other = resolve(preset, overrides)
        check_shape(other, **shape_of(config))
        check_accelerators(placement, other)
        check_shards(placement, other)
    except ConfigError:
        return False
    own, others = Site.of(config, placement), Site.of(other, placement)
    return (own.roles, own.num_processes) == (others.roles, others.num_processes) and others.hub_steps <= own.hub_steps
