"""What others draw of a run: its curves, sample grids, settings and lineage in MLflow, and TensorBoard's event files.

Everything here is made from a run's records, and nothing is read back into one: a run is the same with and without a
tracker. Both trackers are extras, `mlflow` and `tensorboard`.

MLflow is told by a process of its own, which loads the client and is ended when the server lets it wait: whatever a
server does, and whatever its client does in threads, a step is held up for a few seconds at most. What was not told
then is told by a later step, which asks the server what it has: so a step that runs again tells nothing twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec

from hrf.distributed.progress import emit
from hrf.errors import ConfigError
from hrf.storage.secrets import without_secrets

SERVER = "MLFLOW_TRACKING_URI"
"""Environment variable: where the server is. MLflow's own; without it there is none."""
PATIENCE = "HRF_TRACKING_SECONDS"
"""Environment variable: how many whole seconds the server has for all that a step tells it."""
DEFAULT_PATIENCE = 5
LOADING_SECONDS = 15
"""How long the client may take to load: it takes one or two where the CPU is not starved."""
INSTALL = "pip install 'hrf-pipelines[mlflow]'"

# No telemetry of our users. And no second try: a request whose answer got lost may have been carried out.
_CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Numbers of one epoch that are drawn together."""

    group: str
    """Such as `train`; its name stands before theirs."""
    epoch: int
    """From 0; -1 is the base, before any training."""
    numbers: Mapping[str, float]
    """Finite. The first one is in every point of the group: a tracker that has it has the whole point."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is to show of a run. JSON values only."""

    records: str
    """Where its records are, s3://BUCKET/.../EXPERIMENT/runs/RUN: no other run has these."""
    experiment: str
    run_id: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    """All that is known by now, those included that the tracker may have. Without any, a tracker that does not know the
    run makes nothing of it, and one that has seen its end leaves that."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name there, such as `samples/base.png` -> path here."""
    ended: str = ""
    """`FINISHED` or `FAILED`, if it has ended."""


def is_wanted() -> bool:
    """Whether there is a server to be told."""
    return bool(os.environ.get(SERVER))


def patience() -> int:
    """How many seconds the server has.

    Raises:
        ConfigError: The variable is no whole number from 1 to 60.
    """
    given = os.environ.get(PATIENCE, str(DEFAULT_PATIENCE))
    if not (given.isdecimal() and 1 <= int(given) <= 60):
        raise ConfigError(PATIENCE, expected="a whole number of seconds from 1 to 60", got=given, fix="or unset it")
    return int(given)


def check_client() -> None:
    """Say, once a run, that a server was named, and the client that could tell it anything is not here.

    Raises:
        ConfigError: As `patience`.
    """
    patience()
    if is_wanted() and not _has_client():
        _tell(f"{SERVER} is set, but MLflow's client is not installed: nothing is logged there. Fix: {INSTALL}")


def follow(run: TrackedRun) -> bool:
    """Tell the MLflow server what it lacks of a run, if there is a server and a client.

    Never raises for what a server does, or fails to do within its time: that is said, and told by a later step.

    Returns:
        Whether it was told.
    """
    if not is_wanted() or not _has_client():
        return False
    whole, later = patience() + LOADING_SECONDS, "The run goes on; a later step logs what is missing."
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hrf.report.tracking.mlflow_run"],
            input=without_secrets(json.dumps(asdict(run))),
            env={**os.environ, **_CLIENT_SETTINGS},
            capture_output=True,
            text=True,
            timeout=whole,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _tell(f"MLflow: its client did not get done within {whole} s. {later}")
        return False
    except OSError as error:
        _tell(f"MLflow: its client could not be started: {error}. {later}")
        return False
    if done.returncode == -signal.SIGALRM:
        _tell(f"MLflow: the server took longer than {patience()} s. {later}")
    elif done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"its client ended with {done.returncode}"]
        _tell(f"MLflow: {said[-1]}. {later}")
    elif page := done.stdout.strip():
        emit("tracked", page=page)
    return done.returncode == 0


def _has_client() -> bool:
    return find_spec("mlflow") is not None


def _tell(problem: str) -> None:
    told = without_secrets(problem)
    sys.stderr.write(f"{told}\n")
    emit("tracking-problem", problem=told)
