"""What a user reads of the runs that a real server had, word by word."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.watching import RunView, follow
from hrf_pipelines.package import read_package
from tests.kfp_api import plays
from tests.kfp_api.recordings import recorded, recording, smoke_spec
from tests.pipelines.cluster import guarded

#: What the commands print; made by looking at each of them.
TEXTS = Path(__file__).with_name("recorded_texts")
#: Their packages are not recorded, and are gone for the command.
OTHER_PIPELINES = ("run-default-compressed", "run-failed-while-compressed", "run-mlflow")


@pytest.fixture
def replay(kfp):
    """Puts a recorded run, and where it is recorded its pipeline, on the server; returns the run."""

    def put(name: str):
        found = kfp.state.replay(recording(name))
        if name not in OTHER_PIPELINES:
            about = {"name": "x", "display_name": "x", "created_at": found["created_at"]}
            spec = {"pipeline_spec": {"pipeline_spec": smoke_spec()}}
            kfp.state.versions = [{**found["pipeline_version_reference"], **about, **spec}]
        return found

    return put


@pytest.fixture
def shown(hrf, kfp, replay, clean_environment):
    """All that `hrf runs show` prints of a recorded run."""
    clean_environment.setenv("TZ", "UTC")

    def run(name: str) -> str:
        result = hrf("runs", "show", replay(name)["run_id"], "--cluster")
        assert result.exit_code == 0, result.output
        lines = result.output.replace(kfp.url, "HOST").splitlines()
        return "\n".join(line.rstrip() for line in lines).strip() + "\n"

    return run


@pytest.mark.parametrize("name", recorded("run"))
def test_what_is_said_of_a_recorded_run(shown, name):
    assert shown(name) == (TEXTS / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["oom", "deadline", "no-service-account"])
def test_with_a_kubeconfig_the_recorded_workflow_says_why(shown, kubernetes, name):
    kubernetes.add(recording(f"workflow-{name}"))
    assert shown(f"run-{name}") == (TEXTS / f"run-{name}-with-kubeconfig.txt").read_text()


@pytest.mark.parametrize("name", recorded("run"))
def test_what_waiting_shows_of_a_recorded_run(kfp, replay, name):
    """Two shards that end in one second are two lines, and what never ran is none."""
    found = replay(name)
    stream = io.StringIO()
    spec = None if name in OTHER_PIPELINES else smoke_spec()
    with RunView(Console(file=stream, width=120), spec) as view:
        ended = follow(Cluster.connect(), found["run_id"], view, poll_seconds=0.0)
    assert stream.getvalue() == (TEXTS / f"watching-{name}.txt").read_text()
    assert ended.state == ("TERMINATED" if name == "run-image-absent-terminated" else found["state"])


def test_the_recorded_schedule_is_listed(hrf, kfp):
    kfp.state.recurring_runs += recording("recurring-runs")["recurringRuns"]
    result = hrf("schedules", "list")
    assert result.exit_code == 0, result.output
    (line,) = (line.split() for line in result.output.splitlines() if "every-two" in line)
    assert line[:7] == ["every-two", "0", "*/2", "*", "*", "*", "*"]
    assert "paused" in line


@pytest.mark.parametrize(
    "play", [plays.run_to_end, plays.failing("work-2"), plays.terminated], ids=["end", "fail", "stop"]
)
def test_the_plays_of_the_fake_server_have_nothing_that_no_recording_has(play):
    runs = [recording(name) for name in recorded("run")]
    entries = [entry for run in runs for entry in run["run_details"]["task_details"]]
    spec = read_package(guarded.package())[0]
    frames = play(spec)
    played = [{"run_id": "x", **entry} for frame in frames for entry in frame.tasks]
    assert _shapes(played) <= _shapes(entries)
    states = {state["state"] for run in runs for state in run["state_history"]}
    assert {frame.state for frame in frames} <= states
    assert not any("error" in entry for entry in entries)


def _shapes(entries):
    """The fields of entries, with their states and the ways to them."""
    return {
        (frozenset(entry) - {"child_tasks"}, entry.get("state"), tuple(each.get("state") for each in history))
        for entry in entries
        for history in [entry.get("state_history", [])]
    }
