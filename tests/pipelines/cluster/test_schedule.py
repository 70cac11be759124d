"""`hrf schedule` and `hrf schedules`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.e2e.commands import PATIENCE_SECONDS
from tests.kfp_api.server import Trouble
from tests.pipelines.conftest import SMOKE, words

# Each command is a process of its own that compiles a package.
pytestmark = pytest.mark.slow

STORAGE = ("--storage", "s3://bucket/hrf")
DAILY = ("--cron", "0 0 3 * * *")


@pytest.fixture
def schedule(hrf):
    """Makes a schedule `nightly` and returns what was printed as JSON."""

    def run(*arguments):
        cron = () if "--cron" in arguments else DAILY
        name = () if "--name" in arguments else ("--name", "nightly")
        result = hrf("schedule", *SMOKE, *cron, *STORAGE, *name, "--yes", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def test_a_schedule_is_made_with_all_that_its_runs_need(hrf, kfp):
    result = hrf("schedule", *SMOKE, *DAILY, *STORAGE, "--name", "nightly", "--experiment", "mine", "--yes")
    assert result.exit_code == 0, result.output
    (made,), (version,), (experiment,) = kfp.state.recurring_runs, kfp.state.versions, kfp.state.experiments
    sent = json.loads(kfp.calls("POST", "recurringruns")[0].body)
    overrides = sent["runtime_config"]["parameters"].pop("overrides")
    assert json.loads(overrides) == {"run": {"epochs": 1}}
    assert sent == {
        "display_name": "nightly",
        "description": f"At 03:00 (UTC); avatars-smoke, version {version['name']}",
        "experiment_id": experiment["experiment_id"],
        "pipeline_version_reference": {
            "pipeline_id": version["pipeline_id"],
            "pipeline_version_id": version["pipeline_version_id"],
        },
        "runtime_config": {
            "parameters": {
                "preset": "avatars-smoke",
                "start_from": "as configured",
                "experiment": "mine",
                "storage": "s3://bucket/hrf",
                "run_tag": "nightly-[[ScheduledTime]]",
                "noise_tag": "[[ScheduledTime]]",
            }
        },
        "service_account": "hrf-runner",
        "trigger": {"cron_schedule": {"cron": "0 0 3 * * *"}},
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
    }
    assert made["recurring_run_id"] in result.output
    assert kfp.state.runs == [], "its first run is the controller's business"


def test_what_is_about_to_be_made_is_told_in_words_with_the_next_times(hrf, kfp):
    result = hrf("schedule", *SMOKE, "--cron", "0 15 3 * * MON-FRI", *STORAGE, "--yes")
    said = words(result)
    assert "At 03:15, Monday through Friday (UTC)" in said
    assert said.count(":15:00") == 3
    assert said.index("Monday through Friday") < said.index("uploaded")


def test_five_fields_are_refused_with_the_fix_before_anything_is_sent(hrf, kfp):
    result = hrf("schedule", *SMOKE, "--cron", "0 3 * * *", *STORAGE, "--yes")
    assert result.exit_code == 3
    assert '--cron "0 0 3 * * *"' in words(result)
    assert kfp.sent == []


def test_without_a_terminal_yes_is_needed_and_nothing_is_made(hrf, kfp):
    result = hrf("schedule", *SMOKE, *DAILY, *STORAGE)
    assert result.exit_code == 3
    assert "add --yes" in words(result)
    assert "expected it, as there is no terminal to ask at" in words(result)
    assert [sent.method for sent in kfp.sent if sent.method != "GET"] == []


@pytest.mark.parametrize(("typed", "code", "made"), [("y\n", 0, 1), ("n\n", 1, 0)])
def test_at_a_terminal_it_asks(kfp, typed, code, made):
    controller, terminal = pty.openpty()
    os.write(controller, typed.encode())
    result = subprocess.run(
        [sys.executable, "-m", "hrf_pipelines.cli.main", "schedule", *SMOKE, *DAILY, *STORAGE],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    os.close(controller)
    os.close(terminal)
    assert result.returncode == code, result.stderr
    assert "Make it?" in result.stdout + result.stderr
    assert len(kfp.state.recurring_runs) == made
    assert len(kfp.state.versions) == made


def test_a_second_schedule_of_the_name_is_refused(hrf, kfp, schedule):
    schedule()
    result = hrf("schedule", *SMOKE, *DAILY, *STORAGE, "--name", "nightly", "--yes")
    assert result.exit_code == 7
    assert "--replace" in words(result)
    assert len(kfp.state.recurring_runs) == 1


def test_a_name_that_only_begins_alike_is_another_one(kfp, schedule):
    schedule()
    schedule("--name", "nightly-2")
    assert len(kfp.state.recurring_runs) == 2


def test_replacing_leaves_one_and_the_run_under_way(hrf, kfp, schedule):
    old = schedule()
    run = kfp.state.fire("nightly", expand=True)
    new = schedule("--cron", "0 0 5 * * *", "--replace")
    (left,) = kfp.state.recurring_runs
    assert left["recurring_run_id"] == new["id"] != old["id"]
    assert left["trigger"]["cron_schedule"]["cron"] == "0 0 5 * * *"
    assert run in kfp.state.runs
    # Never two that fire: paused, made, deleted.
    changes = [sent.target for sent in kfp.sent if "recurringruns" in sent.target and sent.method != "GET"]
    assert [target.rpartition("/")[2].partition("?")[0].removeprefix(old["id"]) for target in changes] == [
        "recurringruns",
        ":disable",
        "recurringruns",
        "",
    ]


def test_replacing_what_is_not_there_makes_it(kfp, schedule):
    schedule("--replace")
    assert len(kfp.state.recurring_runs) == 1


def test_where_the_new_one_is_refused_the_old_one_goes_on(hrf, kfp, schedule):
    old = schedule()
    play = kfp.state.switch_recurring_run

    def switch(recurring_run_id, *, on):
        # The next request is the one that makes the new schedule.
        kfp.troubles = [] if on else [Trouble(500, "application/json", b'{"code": 13, "message": "no"}')]
        return play(recurring_run_id, on=on)

    kfp.state.switch_recurring_run = switch
    result = hrf("schedule", *SMOKE, *DAILY, *STORAGE, "--name", "nightly", "--yes", "--replace")
    assert result.exit_code == 7
    (left,) = kfp.state.recurring_runs
    assert (left["recurring_run_id"], left["status"]) == (old["id"], "ENABLED")


def test_two_of_one_name_that_were_made_in_the_ui_are_told(hrf, kfp, schedule):
    schedule()
    kfp.state.recurring_runs.append({**kfp.state.recurring_runs[0], "recurring_run_id": "another"})
    for arguments in (("pause", "nightly"), ("delete", "nightly", "--yes")):
        result = hrf("schedules", *arguments)
        assert result.exit_code == 7
        assert "2 schedules 'nightly'" in words(result)
    assert len(kfp.state.recurring_runs) == 2


def test_schedules_are_listed(hrf, kfp, schedule):
    schedule("--experiment", "mine")
    schedule("--name", "weekly", "--cron", "0 0 4 * * SUN")
    hrf("schedules", "pause", "weekly")
    listed = json.loads(hrf("schedules", "list", "--json").stdout)
    assert [(entry["name"], entry["state"], entry["experiment"]) for entry in listed] == [
        ("nightly", "on", "mine"),
        ("weekly", "paused", "default"),
    ]
    assert listed[0]["in_words"] == "At 03:00"
    assert listed[0]["next"].endswith("T03:00:00+00:00")
    assert listed[1]["next"] is None
    table = hrf("schedules", "list").output
    assert "At 04:00, only on Sunday" in table
    assert "paused" in table


def test_schedules_of_other_kinds_are_listed_as_well(hrf, kfp, schedule):
    schedule()
    kfp.state.recurring_runs[0]["trigger"] = {"periodic_schedule": {"interval_second": "3600"}}
    kfp.state.recurring_runs.append(
        {**kfp.state.recurring_runs[0], "trigger": {"cron_schedule": {"cron": "0 3 * * *"}}, "display_name": "odd"}
    )
    result = hrf("schedules", "list")
    assert result.exit_code == 0, result.output
    assert "not by cron" in result.output
    assert "0 3 * * *" in result.output


def test_no_schedules_tells_how_to_make_one(hrf, kfp):
    assert "hrf schedule avatars-compressibility" in words(hrf("schedules", "list"))


def test_a_schedule_is_paused_resumed_and_deleted_and_its_runs_stay(hrf, kfp, schedule):
    schedule()
    run = kfp.state.fire("nightly", expand=True)
    assert "paused" in hrf("schedules", "pause", "nightly").output
    assert kfp.state.recurring_runs[0]["status"] == "DISABLED"
    assert json.loads(hrf("schedules", "resume", "nightly", "--json").stdout)["state"] == "on"
    assert kfp.state.recurring_runs[0]["status"] == "ENABLED"
    refused = hrf("schedules", "delete", "nightly")
    assert refused.exit_code == 3
    assert len(kfp.state.recurring_runs) == 1
    assert hrf("schedules", "delete", "nightly", "--yes").exit_code == 0
    assert kfp.state.recurring_runs == []
    assert run in kfp.state.runs


@pytest.mark.parametrize("command", [("pause",), ("resume",), ("delete", "--yes")])
def test_a_schedule_that_is_not_there_is_told(hrf, kfp, command):
    result = hrf("schedules", *command, "nightly")
    assert result.exit_code == 7
    assert "no schedule 'nightly'" in words(result)
    assert "hrf schedules list" in words(result)


def test_a_name_that_can_not_begin_a_runs_id_is_refused(hrf, kfp):
    result = hrf("schedule", *SMOKE, *DAILY, *STORAGE, "--name", "every night", "--yes")
    assert result.exit_code == 3
    assert "--name" in words(result)
    assert kfp.sent == []
