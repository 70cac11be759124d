"""The configuration of a run: one frozen, validated tree, from a named preset and YAML overrides."""

from hrf.config.configuration import Config
from hrf.config.loading import list_presets, resolve
from hrf.config.sections import (
    Evaluation,
    Lora,
    Model,
    Monitors,
    Prompts,
    Rollout,
    Run,
    Sampler,
    Shaping,
    StartChoice,
    StartFrom,
    Update,
)

__all__ = [
    "Config",
    "Evaluation",
    "Lora",
    "Model",
    "Monitors",
    "Prompts",
    "Rollout",
    "Run",
    "Sampler",
    "Shaping",
    "StartChoice",
    "StartFrom",
    "Update",
    "list_presets",
    "resolve",
]
