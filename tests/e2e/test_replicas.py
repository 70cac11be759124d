"""A run with replicas on this machine: killed in one of them and in their merging, it ends as if it had not been."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hrf.promotion.chain import read_chain
from tests.e2e.commands import descendants, events, hrf, kill, only_run, promoting, start
from tests.e2e.conftest import removed_at_the_end
from tests.e2e.objects import records, storage_of

pytestmark = pytest.mark.e2e
EXPERIMENT, REPLICAS = "replicas", 2


def command(work_dir: Path) -> tuple[str, ...]:
    settings = (*promoting(f"run.replicas={REPLICAS}"), "--epochs", "1")
    return ("run", "avatars-smoke", *settings, "--experiment", EXPERIMENT, "--work-dir", str(work_dir))


def kill_at(work_dir: Path, **event: object) -> None:
    """Give the command, and kill all of it when this is told."""
    begun = len(events(work_dir)) if (work_dir / "runs").is_dir() else 0
    process = start(*command(work_dir), output=work_dir / "output.txt")
    while not any(event.items() <= told.items() for told in events(work_dir)[begun:]):
        assert process.poll() is None, (work_dir / "output.txt").read_text()
        time.sleep(0.02)
    kill(process.pid, *descendants(process.pid))
    process.wait()


def test_a_killed_run_with_replicas_resumes_to_the_same_bits(tmp_path):
    """Kills: a replica that starts again with another's noise, a mean that depends on the attempt."""
    found = {}
    for name in ("undisturbed", "killed"):
        work_dir = tmp_path / name
        work_dir.mkdir()
        with removed_at_the_end(work_dir):
            if name == "killed":
                kill_at(work_dir, event="step-started", step="update", replica=1)
                kill_at(work_dir, event="step-started", step="merge")
            said = hrf(*command(work_dir))
            assert said.exit_code == 0, said.output
            run_id = only_run(work_dir).name
            with storage_of(work_dir) as storage:
                found[name] = records(storage, EXPERIMENT, run_id)
                (run,) = read_chain(storage, EXPERIMENT)["runs"]
            assert run["replicas"] == REPLICAS
    assert found["killed"] == found["undisturbed"]
    assert "epoch 0, replica 1: update" in said.output or "epoch 0: merge" in said.output
