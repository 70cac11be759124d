"""The fine-tuning pipeline compiled for a cluster: placed, and with menus."""

from __future__ import annotations

from hrf.config import Config
from hrf_pipelines.finetune import build
from hrf_pipelines.menus import finetune_menus
from hrf_pipelines.package import compile_package
from hrf_pipelines.placement import Placement


def compile_finetune(config: Config, placement: Placement, *, preset: str, overrides: str = "") -> str:
    """Compile the package of a configuration, with these defaults of the parameters `preset` and `overrides`.

    Raises:
        ConfigError: As `hrf_pipelines.finetune.build`.
    """
    pipeline = build(config, preset=preset, overrides=overrides, placement=placement)
    return compile_package(pipeline, finetune_menus(config, placement, preset=preset, overrides=overrides))
