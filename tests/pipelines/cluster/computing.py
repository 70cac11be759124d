"""What a cluster does with a run that the API server was given: it computes it, here, or what a test says instead."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import yaml

from tests.kfp_api.server import KfpServer
from tests.kfp_api.state import Resource

#: Steps that every attempt computes.
ALWAYS = ("check", "report_status")


class Pods:
    """Compute runs, in a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Pods]:
        """Those that end with the block."""
        # As many threads as a worker of a study has: sums depend on how they are split up.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.pipelines.cluster.resumable"]
        with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True) as process:
            yield cls(process)

    def compute(
        self, kfp: KfpServer, run: Resource, folder: Path, environment: Mapping[str, str], fail_at: str = ""
    ) -> list[str]:
        """Compute a run with what Kubeflow's cache has of it.

        Args:
            kfp: Where it was started.
            run: The run.
            folder: Of all runs of this cluster: their artifacts, and the cache.
            environment: The pods' variables.
            fail_at: A step that is ended before it begins.

        Returns:
            The steps that were computed, but for those that always are.
        """
        reference = run["pipeline_version_reference"]["pipeline_version_id"]
        version = next(each for each in kfp.state.versions if each["pipeline_version_id"] == reference)
        spec = version["pipeline_spec"].get("pipeline_spec") or version["pipeline_spec"]
        order = {
            "package": yaml.safe_dump(spec),
            "arguments": run["runtime_config"]["parameters"],
            "run_id": run["run_id"],
            "fail_at": fail_at,
            "environment": dict(environment),
            **{name: str(folder / name) for name in ("artifacts", "cache", "notes", "log")},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        succeeded = self._process.stdout.readline() == "0\n"
        assert succeeded == (not fail_at), (folder / "log").read_text()[-6000:]
        computed = (folder / "notes").read_text().split()
        (folder / "notes").unlink()
        checks = sum(name.startswith("comp-check") for name in spec["components"])
        assert computed.count("check") == checks, "each attempt checks once, and so does each of its controls"
        return [step for step in computed if step not in ALWAYS]


@contextmanager
def at_work(kfp: KfpServer, work: Callable[[Resource], str]) -> Iterator[None]:
    """Have a cluster's runs worked on in the background, one after the other.

    Args:
        kfp: Where they are started.
        work: Does a run, and returns the state that it ends in.
    """
    over = threading.Event()
    errors: list[Exception] = []

    def go_on() -> None:
        while not over.is_set():
            with kfp.lock:
                # The server's clock is that of the pods.
                kfp.state.clock = max(kfp.state.clock, datetime.datetime.now(datetime.UTC))
                begun = [run for run in kfp.state.runs if run["state"] in ("PENDING", "RUNNING")]
                for run in begun:
                    run["state"] = "RUNNING"
            for run in begun[:1]:
                try:
                    end = work(run)
                except Exception as error:  # noqa: BLE001
                    # Told at the end: until then, somebody waits for this run.
                    errors.append(error)
                    end = "FAILED"
                with kfp.lock:
                    run["state"] = end
                    run["finished_at"] = kfp.state.now()
            time.sleep(0.02)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
