"""Which steps of a run use pretrained scorers: they need the scorers' device, and a way to their weights."""

from __future__ import annotations

from dataclasses import dataclass

from hrf.config import Config
from hrf.networks.settings import Network
from hrf.storage.schema import Section
from hrf.storage.weights import pinned_in

#: Steps that measure policies.
_MEASURING = ("baseline", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """One pretrained network of a configuration."""

    path: str
    """Of its section."""
    device: str
    on_hub: bool
    """Whether any of its weights come from the Hugging Face hub."""
    steps: tuple[str, ...]
    """The steps that run it. `prepare` loads every scorer too, on the CPU."""


def scorers_of(config: Config) -> list[Scorer]:
    """The pretrained networks that a configuration rewards and measures with."""
    evaluation = config.evaluation
    asked_by = {
        "reward": _rewarding(config),
        "shaping.reward": (_scoring(config),),
        "evaluation.held_out_reward": _MEASURING,
    }
    sections: list[tuple[Section, str, tuple[str, ...]]] = [
        (leaf, path, asked_by[field]) for field, reward in config.rewards.items() for leaf, path in reward.leaves(field)
    ]
    if evaluation.features in {"clip", "dinov2"}:
        # Siblings are compared by the features that measure diversity.
        steps = (*_MEASURING, _scoring(config)) if config.update.sibling_distance_weight else _MEASURING
        sections.append((evaluation.encoder, "evaluation.encoder", steps))
    scorers = []
    for section, path, users in sections:
        pinned = pinned_in(section).values()
        if pinned:
            device = section.device if isinstance(section, Network) else "cpu"
            on_hub = any(weights.source.startswith("hf:") for weights in pinned)
            scorers.append(Scorer(path=path, device=device, on_hub=on_hub, steps=users))
    return scorers


def _scoring(config: Config) -> str:
    return "score" if config.run.epochs_per_step in (1, "auto") else "train"


def _rewarding(config: Config) -> tuple[str, ...]:
    scoring = _scoring(config)
    # HRF-D asks the reward where to start.
    return (*_MEASURING, scoring, *(("sample",) if (config.starts.kind, scoring) == ("selected", "score") else ()))


def hub_steps(config: Config) -> frozenset[str]:
    """The steps that may have to download from the hub: `fetch`, and those with a scorer whose weights are there."""
    from_hub = [scorer for scorer in scorers_of(config) if scorer.on_hub]
    return frozenset({"fetch"} | {step for scorer in from_hub for step in (*scorer.steps, "prepare")})
