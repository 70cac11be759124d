"""The configuration of a run: one frozen, validated tree, from a named preset and YAML overrides."""

from hrf.config.loading import PresetInfo, list_presets, resolve
from hrf.config.sections import (
    Evaluation,
    Gate,
    Lora,
    Model,
    Monitors,
    Policy,
    Prompts,
    Reward,
    Rollout,
    Run,
    Sampler,
    Selection,
    Starts,
    Update,
    WindowEntry,
)
from hrf.config.tree import Config

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
    "Reward",
    "Rollout",
    "Run",
    "Sampler",
    "Selection",
    "Starts",
    "Update",
    "WindowEntry",
    "list_presets",
    "resolve",
]
