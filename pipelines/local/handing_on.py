"""Steps of a local run hand their outputs on as Kubeflow's launcher does, so that what fails there fails here.

The launcher uploads an output's files to an object store, by key, and downloads them for each step that reads them.
Whatever else an output folder holds does not arrive: empty folders, links, modes, times.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp.local import status

FILE_MODE, FOLDER_MODE = 0o644, 0o755


class _HandsOn:
    """Mixed into one of Kubeflow's task handlers: what a step has written is handed on after it."""

    full_command: Sequence[str]

    def run(self) -> status.Status:
        """Run the step; of one that succeeded, keep what an object store would."""
        outcome: status.Status = super().run()  # type: ignore[misc]
        if outcome == status.Status.SUCCESS:
            for folder in output_folders(self.full_command):
                keep_files_only(folder)
        return outcome


def hand_on(handler: type) -> type:
    """A task handler of Kubeflow's local runner, made to hand outputs on as the launcher does."""
    return type(handler.__name__, (_HandsOn, handler), {})


def output_folders(command: Sequence[str]) -> list[Path]:
    """The folders among the output artifacts of a step, as its command line tells them."""
    executor_input: dict[str, Any] = json.loads(command[list(command).index("--executor_input") + 1])
    outputs = executor_input.get("outputs", {}).get("artifacts", {}).values()
    paths = [Path(artifact["uri"]) for output in outputs for artifact in output["artifacts"]]
    return [path for path in paths if path.is_dir()]


def keep_files_only(folder: Path) -> None:
    """Make a folder what it would be once it had been through an object store.

    A link to a file arrives as a copy of it, as the launcher opens what it uploads; a link to a folder not at all.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink():
            target = path.resolve()
            path.unlink()
            if target.is_file():
                shutil.copyfile(target, path)
        if path.is_dir():
            if any(path.iterdir()):
                path.chmod(FOLDER_MODE)
            else:
                path.rmdir()
        elif path.is_file():
            path.chmod(FILE_MODE)
            os.utime(path)
