"""Why a run failed, from its own Workflow to its record and its page."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
import yaml

from hrf.promotion.records import Reason
from hrf.promotion.runs import RunRecords
from hrf.steps import own_workflow
from hrf.steps.report_status import report_status
from tests.hrf.run_ends import failure_of
from tests.kfp_api.recordings import recorded, recording
from tests.kubernetes_api.certificates import make_certificate
from tests.kubernetes_api.server import Account, serve

ROLES = Path(__file__).resolve().parents[3] / "manifests" / "base" / "service-account.yaml"


def _rules():
    """What the manifests allow the runner."""
    return [rule for each in yaml.safe_load_all(ROLES.read_text()) if each["kind"] == "Role" for rule in each["rules"]]


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    """The API server as a pod of `hrf-runner` finds it: with no more rights than the manifests give."""
    with serve(make_certificate(tmp_path)) as server:
        server.accounts = {"runner": Account("system:serviceaccount:kubeflow:hrf-runner", _rules())}
        account = tmp_path / "account"
        account.mkdir()
        for name, text in (("token", "runner\n"), ("namespace", "kubeflow"), ("ca.crt", server.ca_file.read_text())):
            (account / name).write_text(text)
        host, _, port = server.url.removeprefix("https://").partition(":")
        monkeypatch.setenv(own_workflow.HOST, host)
        monkeypatch.setenv(own_workflow.PORT, port)
        monkeypatch.setattr(own_workflow, "ACCOUNT", account)
        monkeypatch.setattr(own_workflow, "PAUSES", (0.01, 0.01, 0.01))
        yield server


@pytest.fixture
def report(storage_uri, storage, tmp_path):
    """Runs the exit step of a run; returns its record, its page and what it said."""

    def run(kubeflow_run: str, *, state: str = "FAILED"):
        page = tmp_path / "page.html"
        report_status(
            experiments="tiny",
            run_id="run",
            storage=storage_uri,
            state=state,
            error_code=0,
            error_message="",
            kubeflow_run=kubeflow_run,
            page=str(page),
        )
        return storage.read_json("tiny/runs/run/status.json")[0], page.read_text()

    return run


def _add(server, name):
    workflow = recording(name)
    server.add(workflow)
    return workflow["metadata"]["name"]


#: The state is what Kubeflow told the exit handler in each of them.
ENDS = {
    "workflow-deadline": ("RUNNING", "failed", ["deadline"]),
    "workflow-oom": ("FAILED", "failed", ["memory"]),
    "workflow-no-service-account": ("FAILED", "failed", ["account"]),
    "workflow-retried-with-2.16-defaults": ("FAILED", "failed", ["silent"]),
    "workflow-image-absent": ("RUNNING", "failed", []),
    "workflow-success-compressed": ("COMPLETE", "succeeded", []),
}


@pytest.mark.parametrize("name", recorded("workflow"))
def test_every_recorded_workflow_goes_through_the_exit_step(kubernetes, report, name, capsys):
    state, outcome, kinds = ENDS[name]
    record, page = report(_add(kubernetes, name), state=state)
    assert record["state"] == state
    assert record["outcome"] == outcome
    assert [reason["kind"] for reason in record["reasons"]] == kinds
    assert record["reasons_unread"] == ""
    said = capsys.readouterr().err
    for reason in map(Reason.model_validate, record["reasons"]):
        assert html.escape(reason.line).replace("&#x27;", "&#39;") in page
        assert reason.pod in page
        assert reason.line in said


def test_the_words_of_a_failing_step_come_first_and_its_pod_is_named(kubernetes, report, storage):
    name = _add(kubernetes, "workflow-retried-with-2.16-defaults")
    message = "the loss is nan. Fix: lower update.learning_rate"
    failure = failure_of("update", 0, "NumericalError", message, traceback="update.py, line 7")
    RunRecords(storage=storage, experiment="tiny", run_id="run").add_failure(failure)
    record, page = report(name)
    (reason,) = map(Reason.model_validate, record["reasons"])
    assert reason.line == "update, epoch 0: NumericalError: the loss is nan. Fix: lower update.learning_rate"
    assert reason.pod.startswith("hrf-finetune-mhgb5-")
    assert "update.py, line 7" in page


def test_a_run_that_somebody_ended_is_terminated(kubernetes, report):
    name = _add(kubernetes, "workflow-image-absent")
    kubernetes.objects["kubeflow", "workflows", name]["spec"] = {"activeDeadlineSeconds": 0}
    record, page = report(name, state="RUNNING")
    assert record["outcome"] == "terminated"
    assert "terminated by a user" in page


def test_without_the_right_to_read_its_workflow_the_record_says_so(kubernetes, report):
    name = _add(kubernetes, "workflow-oom")
    kubernetes.accounts["runner"].rules = [rule for rule in _rules() if "workflows" not in rule["resources"]]
    record, page = report(name)
    assert (record["outcome"], record["reasons"]) == ("failed", [])
    assert "may not read its Workflow (HTTP 403)" in record["reasons_unread"]
    assert 'cannot get resource "workflows"' in record["reasons_unread"]
    assert "Role hrf-runner" in page


def test_without_the_right_to_list_pods_the_reason_is_told_all_the_same(kubernetes, report):
    name = _add(kubernetes, "workflow-oom")
    kubernetes.accounts["runner"].rules = [rule for rule in _rules() if "pods" not in rule["resources"]]
    record, _ = report(name)
    assert [reason["kind"] for reason in record["reasons"]] == ["memory"]


def test_an_api_server_that_is_away_for_a_moment_is_asked_again(kubernetes, report):
    name = _add(kubernetes, "workflow-oom")
    kubernetes.away = 3
    assert report(name)[0]["reasons"]
    kubernetes.away = 4
    assert "does not answer" in report(name)[0]["reasons_unread"]


def test_a_workflow_that_is_gone_is_told(kubernetes, report):
    assert 'workflows.argoproj.io "gone" not found' in report("gone")[0]["reasons_unread"]


def test_a_run_that_went_well_asks_nobody(kubernetes, report):
    assert report(_add(kubernetes, "workflow-success-compressed"), state="COMPLETE")[0]["reasons"] == []
    assert kubernetes.asked == []


def test_outside_of_a_pod_there_is_nothing_to_ask(report, monkeypatch):
    monkeypatch.delenv(own_workflow.HOST, raising=False)
    record, _ = report("local-run")
    assert (record["outcome"], record["reasons"], record["reasons_unread"]) == ("failed", [], "")
