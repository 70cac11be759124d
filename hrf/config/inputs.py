"""What a configuration names on this machine, by its contents: the same path may hold something else tomorrow.

Weights of pretrained networks are left out, since the configuration has their sha256 or revision; and so is what object
storage or the hub holds, which a run fetches once.
"""

from __future__ import annotations

from collections.abc import Iterator

from hrf.config.configuration import Config
from hrf.storage.shipped import SHIPPED_CLASSIFIERS
from hrf.storage.weights import digest_or_absent


def input_digests(config: Config) -> dict[str, str]:
    """Dotted field -> digest of the file, folder or Python module that it names, or `hrf.storage.weights.ABSENT`."""
    digests = {field: digest_or_absent(path) for field, path in _paths(config)}
    for path, reward in config.rewards.items():
        digests |= reward.input_digests(path)
    return digests


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    if not config.model.source.startswith(("shipped:", "s3://", "hf:")):
        yield "model.source", config.model.source
    if config.prompts:
        if config.prompts.source != "animals" and not config.prompts.texts:
            yield "prompts.source", config.prompts.source
        if config.prompts.evaluation_source:
            yield "prompts.evaluation_source", config.prompts.evaluation_source
    if config.evaluation.classifier not in ("", *SHIPPED_CLASSIFIERS):
        yield "evaluation.classifier", config.evaluation.classifier
