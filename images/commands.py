"""Programs that building images needs, run with an error that says what they said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hrf.errors import HrfError

#: Everything that is made on the way: wheels, build contexts, the private daemon's data. Ignored by git.
WORK_DIR = Path(__file__).resolve().parents[1] / ".hrf-images"
SHOWN_LINES = 20


class ImagesError(HrfError):
    """Images can't be built here.

    Args:
        problem: What went wrong.
        fix: What to do about it.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        self.fix = fix
        super().__init__(f"{problem}\nFix: {fix}")


def run(command: Sequence[str], *, fix: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end.

    Args:
        command: The program and its arguments.
        fix: What to do if it fails.
        environment: Variables on top of this process's own.

    Returns:
        What it wrote on standard output.

    Raises:
        ImagesError: It is missing, or failed; with the end of what it said.
    """
    try:
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ImagesError(f"{command[0]} can't be run: {error.strerror}", fix=fix) from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:])
        raise ImagesError(f"`{' '.join(command)}` failed with {done.returncode}:\n{said}", fix=fix)
    return done.stdout
