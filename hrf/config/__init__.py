"""The configuration of a run: one frozen, validated tree, from a named preset and YAML overrides."""

from hrf.config.configuration import Config
from hrf.config.loading import PresetInfo, list_presets, resolve
from hrf.config.sections import (
    Evaluation,
    Gate,
    Lora,
    Model,
    Monitors,
    Policy,
    Prompts,
    Rollout,
    Run,
    Sampler,
    Selection,
    Shaping,
    StartChoice,
    StartFrom,
    Starts,
    Update,
    WindowEntry,
)

__all__ = [
    "Config",
    "Evaluation",
    "Gate",
    "Lora",
    "Model",
    "Monitors",
    "Policy",
    "PresetInfo",
    "Prompts",
    "Rollout",
    "Run",
    "Sampler",
    "Selection",
    "Shaping",
    "StartChoice",
    "StartFrom",
    "Starts",
    "Update",
    "WindowEntry",
    "list_presets",
    "resolve",
]
