"""Which steps of a run are finished, as Kubeflow's local runner has noted it, checked before an attempt relies on it.

The runner keeps a JSON file for every finished step, which names the step's outputs, and goes on with the first step
that has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hrf.errors import ArtifactError
from hrf.storage.folders import MANIFEST, file_sha256, read_folder


def forget_damaged(cache: Path) -> Iterator[Path]:
    """Take the notes away of steps whose outputs are not what they wrote, so that they are done again.

    Yields:
        For each of them, the file that is not what it was.
    """
    for note in sorted(cache.glob("*.json")):
        try:
            for output in _outputs(json.loads(note.read_bytes())):
                _check(Path(output["uri"]), output["metadata"].get("sha256"))
        except (ArtifactError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            note.unlink()
            yield Path(error.where if isinstance(error, ArtifactError) else note)


def _outputs(noted: Any) -> Iterator[dict[str, Any]]:
    """The artifacts in a note, which has them by name, alone or in lists."""
    if isinstance(noted, dict) and "uri" in noted:
        yield noted
    elif isinstance(noted, dict | list):
        for part in noted.values() if isinstance(noted, dict) else noted:
            yield from _outputs(part)


def _check(output: Path, manifest_sha256: str | None) -> None:
    """Compare an output with its manifest, and that with the digest that its step noted; a single file has neither."""
    if output.is_file():
        return
    read_folder(output)
    if manifest_sha256 and file_sha256(output / MANIFEST) != manifest_sha256:
        problem = "it is not the manifest that its step wrote"
        raise ArtifactError(output / MANIFEST, problem=problem, fix="run that step again")
