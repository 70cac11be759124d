"""`hrf runs --cluster` and `hrf runs show --cluster`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrf.promotion.records import RunSummary
from tests.hrf.run_ends import status_of
from tests.kfp_api import plays
from tests.pipelines.conftest import SMOKE, words

# Each command is a process of its own that compiles a package.
pytestmark = pytest.mark.slow

#: What Kubeflow runs the task `check` of the small pipeline under.
CHECK = "work-2"


@pytest.fixture
def two_runs(hrf, kfp, start):
    """A run that has ended, and one of a schedule that is pending; returns their ids."""
    kfp.state.plays = plays.failing(CHECK)
    ended = start("mine").run_id
    while kfp.state.get_run(ended)["state"] != "FAILED":
        pass
    kfp.state.plays = None
    storage = ("--storage", "s3://bucket/hrf")
    hrf("schedule", *SMOKE, "--cron", "0 0 3 * * *", *storage, "--name", "nightly", "--yes")
    return ended, kfp.state.fire("nightly", expand=False)["run_id"]


@pytest.mark.parametrize("command", [("runs", "--cluster"), ("runs", "list", "--cluster")])
def test_runs_are_listed_newest_last(hrf, kfp, two_runs, command):
    listed = json.loads(hrf(*command, "--json").stdout)
    assert [(run["id"], run["state"], run["schedule"], run["experiment"]) for run in listed] == [
        (two_runs[0], "FAILED", None, "default"),
        (two_runs[1], "PENDING", "nightly", "default"),
    ]
    # Kubeflow shows the tag as it was given; the bucket knows the run by what became of it.
    assert listed[1]["run_id"] == "nightly-20261125030000"
    assert listed[1]["finished"] is None
    lines = hrf(*command).output.splitlines()
    first, second = (next(line for line in lines if run[:8] in line) for run in two_runs)
    assert lines.index(first) < lines.index(second)
    assert "failed" in first
    assert "nightly" in second


def test_only_the_newest_are_shown_and_it_is_said(hrf, kfp, start, monkeypatch):
    monkeypatch.setattr("hrf_pipelines.cli.cluster_runs.MOST_RUNS", 2)
    ids = [start().run_id for _ in range(3)]
    result = hrf("runs", "--cluster")
    assert [run[:8] in result.output for run in ids] == [False, True, True]
    assert "The newest 2" in result.output


def test_archived_runs_are_not_listed_but_found(hrf, kfp, two_runs):
    kfp.state.runs[0]["storage_state"] = "ARCHIVED"
    assert [run["id"] for run in json.loads(hrf("runs", "--cluster", "--json").stdout)] == [two_runs[1]]
    assert hrf("runs", "show", "mine", "--cluster").exit_code == 0


def test_no_runs_tells_how_to_start_one(hrf, kfp):
    assert "hrf submit avatars-compressibility" in words(hrf("runs", "--cluster"))


@pytest.mark.parametrize(
    "arguments", [("runs", "--cluster", "list"), ("runs", "--json", "list"), ("runs", "--json")], ids=" ".join
)
def test_options_that_would_have_no_effect_are_refused(hrf, arguments):
    assert hrf(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("list",), ("show", "x")])
@pytest.mark.parametrize("option", [("--host", "http://x"), ("--namespace", "x")])
def test_options_of_a_cluster_are_refused_without_it(hrf, arguments, option):
    result = hrf("runs", *arguments, *option)
    assert result.exit_code == 3
    assert "--cluster" in words(result)


@pytest.mark.parametrize("name", ["whole id", "beginning", "name", "tag"])
def test_a_run_is_found_by_whatever_it_is_called(hrf, kfp, two_runs, name):
    ended, scheduled = two_runs
    wanted = {"whole id": ended, "beginning": ended[:6], "name": "mine", "tag": "nightly-20261125030000"}[name]
    shown = json.loads(hrf("runs", "show", wanted, "--cluster", "--json").stdout)
    assert shown["id"] == (scheduled if name == "tag" else ended)


@pytest.mark.parametrize("name", ["nothing", "00000000-0000-4000-8000-000000000000"])
def test_a_run_that_is_not_there_is_told(hrf, kfp, two_runs, name):
    result = hrf("runs", "show", name, "--cluster")
    assert result.exit_code == 7
    assert f"no run '{name}'" in words(result)


def test_several_runs_of_one_name_are_told_with_their_ids(hrf, kfp, start):
    ids = [start("mine").run_id for _ in range(2)]
    result = hrf("runs", "show", "mine", "--cluster")
    assert result.exit_code == 7
    assert all(run in words(result) for run in ids)


def test_a_run_is_shown_with_parameters_and_tasks(hrf, kfp, two_runs):
    result = hrf("runs", "show", "mine", "--cluster")
    assert result.exit_code == 0, result.output
    said = words(result)
    assert "state failed" in said
    assert "storage s3://bucket/hrf" in said
    assert "run_tag mine" in said
    assert "check failed 42 s" in said
    assert "sample not run" in said
    assert "report succeeded" in said
    assert "check: failed, and Kubeflow does not say why" in said
    assert "driver" not in said
    assert f"{kfp.url}/#/runs/details/{two_runs[0]}" in said


def test_a_run_whose_version_was_deleted_is_shown_all_the_same(hrf, kfp, two_runs):
    kfp.state.versions.clear()
    shown = json.loads(hrf("runs", "show", "mine", "--cluster", "--json").stdout)
    assert [(task["name"], task["state"]) for task in shown["tasks"]] == [
        ("work 2", "FAILED"),
        ("work", "SUCCEEDED"),
    ]


def test_a_run_is_shown_with_what_it_left_in_its_bucket(hrf, kfp, start, storage, storage_uri, summary):
    storage.create_json("default/runs/mine/summary.json", summary)
    storage.create_json("default/runs/mine/status.json", status_of("mine", "COMPLETE").as_json())
    kfp.state.plays = plays.run_to_end
    run = start("mine", storage=storage_uri)
    while kfp.state.get_run(run.run_id)["state"] != "SUCCEEDED":
        pass
    shown = json.loads(hrf("runs", "show", "mine", "--cluster", "--json").stdout)
    assert RunSummary.parse(shown["summary"], "shown") == RunSummary.parse(summary, "given")
    assert shown["status"]["outcome"] == "succeeded"
    assert (shown["failures"], shown["records_error"]) == ([], None)
    assert [task["name"] for task in shown["tasks"]] == ["check", "sample", "report"]
    assert "0.210 [0.198, 0.222]" in hrf("runs", "show", "mine", "--cluster").output


@pytest.mark.parametrize("expanded", [True, False])
def test_the_records_of_a_scheduled_run_are_found_whether_or_not_kubeflow_expanded_its_tag(
    hrf, kfp, storage, storage_uri, summary, expanded
):
    hrf("schedule", *SMOKE, "--cron", "0 0 3 * * *", "--storage", storage_uri, "--name", "nightly", "--yes")
    run = kfp.state.fire("nightly", expand=expanded)
    name = "nightly-20261125030000" if expanded else f"nightly-{run['run_id']}"
    storage.create_json(f"default/runs/{name}/summary.json", summary)
    shown = json.loads(hrf("runs", "show", run["run_id"], "--cluster", "--json").stdout)
    assert RunSummary.parse(shown["summary"], "shown") == RunSummary.parse(summary, "given")
    assert shown["records"].endswith(name)


def test_a_run_of_another_pipeline_is_shown_as_far_as_it_goes(hrf, kfp, start):
    start("mine")
    kfp.state.runs[0]["runtime_config"] = {"parameters": {"colour": "red"}}
    result = hrf("runs", "show", "mine", "--cluster")
    assert result.exit_code == 0, result.output
    assert "colour red" in words(result)


def test_the_report_is_fetched_and_its_place_printed(hrf, kfp, start, storage, storage_uri, summary, tmp_path):
    storage.create_json("default/runs/mine/summary.json", summary)
    (tmp_path / "page").write_text("<html>the report</html>")
    storage.upload_file(tmp_path / "page", "default/runs/mine/report.html")
    start("mine", storage=storage_uri)
    for name in (["mine"], []):
        result = hrf("report", *name, "--cluster", "--work-dir", str(tmp_path))
        assert result.exit_code == 0, result.output
        assert Path(result.stdout.strip()).read_text() == "<html>the report</html>"


def test_of_a_failed_run_the_page_says_why(hrf, kfp, start, storage, storage_uri, tmp_path):
    status = status_of("mine", problem="out of memory at 300Mi")
    storage.create_json("default/runs/mine/status.json", status.as_json())
    start("mine", storage=storage_uri)
    result = hrf("report", "mine", "--cluster", "--work-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "update, epoch 0: out of memory at 300Mi" in Path(result.stdout.strip()).read_text()


def test_a_run_without_a_report_says_how_it_stands(hrf, kfp, start, storage_uri, tmp_path):
    start("mine", storage=storage_uri)
    result = hrf("report", "mine", "--cluster", "--work-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "the run is pending, and has no report yet" in words(result)
    assert list(tmp_path.iterdir()) == []
