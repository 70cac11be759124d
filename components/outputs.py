"""What every component does with what its step returned: metrics and lineage.

Standard library only: a component imports this inside its body, in the image that runs the step.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The image build writes the commit it was built from here; a checkout has none.
GIT_SHA = "HRF_GIT_SHA"
_SHA_DIGITS = 12
MANIFEST = "manifest.json"


def record(
    facts: Mapping[str, float | int | str],
    *,
    outputs: Sequence[Any],
    metrics: Any = None,
    epoch: int | None = None,
) -> None:
    """Log a step's numbers and write down where its outputs come from.

    Nothing here depends on the clock or the machine: a step that runs again describes its outputs in the same words.

    Args:
        facts: What the step returned. Its numbers become metrics; words are in the run's own records.
        outputs: The artifacts that the step wrote. Each gets in its metadata which code made it, the epoch, and the
            digest of its contents; what it was made from, Kubeflow itself records. Not more: all of it stands in the
            Workflow in six places for each step that is given the artifact.
        metrics: The `dsl.Metrics` output; None for a step whose numbers nobody compares.
        epoch: The epoch, for steps that belong to one.

    Raises:
        NumericalError: A metric is NaN or infinite, which Kubeflow could not store.
    """
    from hrf import __version__

    numbers = {name: _finite(name, value) for name, value in facts.items() if not isinstance(value, str)}
    if metrics is not None:
        for name, number in numbers.items():
            metrics.log_metric(name, number)
        # Kubeflow keeps metrics in the metadata only; its local cache would take the absent file for a lost output.
        Path(metrics.path).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    commit = os.environ.get(GIT_SHA, "")
    lineage: dict[str, Any] = {"git_sha": commit[:_SHA_DIGITS]} if commit else {"hrf_version": __version__}
    if epoch is not None:
        lineage["epoch"] = epoch
    for output in outputs:
        output.metadata.update(lineage)
        digest = manifest_digest(Path(output.path))
        if digest:
            output.metadata["sha256"] = digest


def manifest_digest(folder: Path) -> str:
    """SHA-256 of a folder's manifest, which itself holds the digest of every file; "" where there is none."""
    manifest = folder / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        from hrf.errors import NumericalError

        raise NumericalError(
            f"the metric {name} is {value}",
            where=f"metric={name}",
            fix="look at the step's inputs; training on it would be nonsense",
        )
    return float(value)
