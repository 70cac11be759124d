"""The configuration of a run: one frozen, validated tree, from a named preset and YAML overrides."""

from hrf.config.loading import PresetInfo, list_presets, resolve
from hrf.config.sections import (
    Evaluation,
    Gate,
    Model,
    Monitors,
    Policy,
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
    "Model",
    "Monitors",
    "Policy",
    "PresetInfo",
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
