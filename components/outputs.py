"""What every component does with what its step returned: metrics, lineage, and a page to look at.

Standard library only: a component imports this inside its body, in the image that runs the step.
"""

import base64
import hashlib
import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The image build writes the commit it was built from here; a checkout has none.
GIT_SHA = "HRF_GIT_SHA"
MANIFEST = "manifest.json"


def record(
    facts: Mapping[str, float | int | str],
    *,
    metrics: Any,
    outputs: Sequence[Any],
    parents: Sequence[Any] = (),
    epoch: int | None = None,
) -> None:
    """Log a step's numbers and write down where its outputs come from.

    Nothing here depends on the clock or the machine: a step that runs again describes its outputs in the same words.

    Args:
        facts: What the step returned. Numbers become metrics, words become lineage.
        metrics: The `dsl.Metrics` output.
        outputs: The artifacts that the step wrote; each gets the lineage in its metadata.
        parents: The artifacts that they were made from.
        epoch: The epoch, for steps that belong to one.

    Raises:
        NumericalError: A metric is NaN or infinite, which Kubeflow could not store.
    """
    from hrf import __version__

    for name, value in facts.items():
        if not isinstance(value, str):
            metrics.log_metric(name, _finite(name, value))
    lineage: dict[str, Any] = {name: value for name, value in facts.items() if isinstance(value, str)}
    lineage["hrf_version"] = __version__
    if os.environ.get(GIT_SHA):
        lineage["git_sha"] = os.environ[GIT_SHA]
    if epoch is not None:
        lineage["epoch"] = epoch
    if "seed" in facts:
        lineage["seed"] = facts["seed"]
    if parents:
        lineage["parents"] = [f"{parent.name} {parent.metadata.get('sha256', parent.uri)}" for parent in parents]
    for output in outputs:
        output.metadata.update(lineage)
        digest = manifest_digest(Path(output.path))
        if digest:
            output.metadata["sha256"] = digest


def manifest_digest(folder: Path) -> str:
    """SHA-256 of a folder's manifest, which itself holds the digest of every file; "" where there is none."""
    manifest = folder / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""


def write_evaluation_page(evaluation_folder: str, page: str) -> None:
    """Write the small page that Kubeflow's UI shows beside an evaluation: its sample grid and its main numbers.

    Args:
        evaluation_folder: The output of the step `evaluate`.
        page: The HTML file to write.
    """
    folder = Path(evaluation_folder)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    picture = base64.b64encode((folder / "grid.png").read_bytes()).decode("ascii")
    reward, ratio = evaluation["reward"], evaluation["diversity"]["vendi_order2_ratio"]
    rows = [
        (f"reward ({reward['name']})", _interval(reward)),
        ("reward against the base", _interval(evaluation["reward_vs_base"])),
        ("diversity against the base", _interval(ratio)),
        ("samples", str(evaluation["num_samples"])),
    ]
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    Path(page).write_text(
        "<!doctype html><meta charset='utf-8'><style>body{font:14px sans-serif}td{padding:2px 12px 2px 0}"
        "img{image-rendering:pixelated;max-width:100%}</style>"
        f"<h3>Epoch {int(evaluation['epoch'])}</h3><table>{cells}</table>"
        f"<p><img alt='samples of fixed seeds' src='data:image/png;base64,{picture}'></p>",
        encoding="utf-8",
    )


def _interval(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.4g}  [{interval['low']:.4g}, {interval['high']:.4g}]"


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        from hrf.errors import NumericalError

        raise NumericalError(
            f"the metric {name} is {value}",
            where=f"metric={name}",
            fix="look at the step's inputs; training on it would be nonsense",
        )
    return float(value)
