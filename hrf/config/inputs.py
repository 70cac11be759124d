"""What a configuration names on this machine, by its contents: the same path may hold something else tomorrow.

Weights of pretrained networks are left out, since the configuration has their sha256 or revision; and so is what object
storage or the hub holds, which a run fetches once.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from hrf.config import ClassifierReward, Config, PythonReward
from hrf.config.rewards import leaf_rewards
from hrf.storage.folders import canonical_json, file_sha256
from hrf.storage.weights import digest_of

ABSENT = "absent"
"""In place of a digest: whatever needs it will say so."""


def input_digests(config: Config) -> dict[str, str]:
    """Dotted field -> digest of the file, folder or Python module that it names, or ABSENT."""
    digests = {field: _digest(Path(name).expanduser()) for field, name in _paths(config)}
    for reward, field in _rewards(config):
        if isinstance(reward, PythonReward):
            digests[f"{field}.function"] = _module_digest(reward.function.partition(":")[0])
    return digests


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    if not config.model.source.startswith(("shipped:", "s3://", "hf:")):
        yield "model.source", config.model.source
    if config.prompts:
        if config.prompts.source != "animals" and not config.prompts.texts:
            yield "prompts.source", config.prompts.source
        if config.prompts.evaluation_source:
            yield "prompts.evaluation_source", config.prompts.evaluation_source
    if config.evaluation.classifier not in ("", "shipped"):
        yield "evaluation.classifier", config.evaluation.classifier
    for reward, field in _rewards(config):
        if isinstance(reward, ClassifierReward) and reward.classifier != "shipped":
            yield f"{field}.classifier", reward.classifier


def _rewards(config: Config) -> list[tuple[object, str]]:
    held_out = config.evaluation.held_out_reward
    watched = leaf_rewards(held_out, "evaluation.held_out_reward") if held_out else []
    return [*leaf_rewards(config.reward, "reward"), *watched]


def _digest(path: Path) -> str:
    return digest_of(path) if path.exists() else ABSENT


def _module_digest(module: str) -> str:
    """Of the module's source; of one in a package that of the whole package, as it may import the rest.

    It is found where a step finds it, and not imported: it is the user's code.
    """
    spec = PathFinder.find_spec(module.partition(".")[0], [os.getcwd(), *sys.path])
    if spec is None:
        return ABSENT
    if not spec.submodule_search_locations:
        return _digest(Path(spec.origin)) if spec.origin else ABSENT
    sources = {
        f"{number}/{file.relative_to(folder).as_posix()}": file_sha256(file)
        for number, folder in enumerate(spec.submodule_search_locations)
        for file in Path(folder).rglob("*.py")
    }
    return hashlib.sha256(canonical_json(sources)).hexdigest()
