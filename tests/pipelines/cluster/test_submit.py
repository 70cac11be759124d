"""`hrf submit`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from hrf import __version__
from hrf.config import resolve
from hrf.errors import ClusterError
from hrf_pipelines.cluster import watching
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.runs import count_tasks, package_of, tasks_of
from hrf_pipelines.cluster.submitting import Version, start_run
from hrf_pipelines.cluster.watching import RunView, follow
from hrf_pipelines.versions import about_package, name_version
from tests.hrf.run_ends import decision_of, failure_of, status_of
from tests.kfp_api import plays
from tests.kfp_api.recordings import recording
from tests.pipelines.conftest import SMOKE, words

# Each command is a process of its own that compiles a package.
pytestmark = pytest.mark.slow

STORAGE = ("--storage", "s3://bucket/hrf")
WAIT = ("--wait", "--poll", "0.01")


def test_a_run_is_put_on_the_cluster_with_all_that_it_needs(hrf, kfp):
    result = hrf(
        "submit", *SMOKE, "--set", "update.learning_rate=3e-5", "--experiment", "mine", "--start-from", "base", *STORAGE
    )
    assert result.exit_code == 0, result.output
    (pipeline,), (version,), (experiment,), (run,) = (
        kfp.state.pipelines,
        kfp.state.versions,
        kfp.state.experiments,
        kfp.state.runs,
    )
    assert pipeline["name"] == "hrf-finetune"
    assert version["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "hrf-finetune"
    assert experiment["display_name"] == "mine"
    assert run["experiment_id"] == experiment["experiment_id"]
    assert run["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert run["service_account"] == "hrf-runner"
    parameters = run["runtime_config"]["parameters"]
    assert {name: value for name, value in parameters.items() if name != "overrides"} == {
        "preset": "avatars-smoke",
        "start_from": "base",
        "experiment": "mine",
        "storage": "s3://bucket/hrf",
        "run_tag": "",
    }
    config = resolve(parameters["preset"], parameters["overrides"])
    assert (config.update.learning_rate, config.run.epochs) == (3e-5, 1)
    assert f"{kfp.url}/#/runs/details/{run['run_id']}" in result.output
    assert f"s3://bucket/hrf/mine/runs/{run['run_id']}" in result.output
    assert f"hrf runs show {run['run_id'][:8]} --cluster" in result.output


def test_what_is_uploaded_is_what_hrf_compile_writes(hrf, kfp, submit, tmp_path):
    submit()
    assert hrf("compile", *SMOKE, "-o", str(tmp_path / "package.yaml")).exit_code == 0
    uploaded = kfp.calls("POST", "upload_version")[0].body
    assert (tmp_path / "package.yaml").read_bytes() in uploaded


def test_the_version_explains_the_parameters_that_the_run_form_only_names(kfp, submit):
    submit()
    explained = kfp.state.versions[0]["description"]
    root = kfp.state.versions[0]["pipeline_spec"]["pipeline_spec"]["root"]
    for name, entry in root["inputDefinitions"]["parameters"].items():
        assert f"* `{name}`: {entry['description']}" in explained
    assert explained.partition("\n\n")[2] == kfp.state.pipelines[0]["description"]


def test_a_value_that_is_not_on_a_menu_is_refused_before_there_is_a_run(kfp, submit):
    """As a client may ask for it; the form offers no other."""
    submit()
    made, run = kfp.state.versions[0], kfp.state.runs[0]
    version = Version(pipeline_id=made["pipeline_id"], version_id=made["pipeline_version_id"], name="", was_there=True)
    asked = {**run["runtime_config"]["parameters"], "preset": "avatars-planets"}
    with pytest.raises(ClusterError, match=r"allowed literal values: .*avatars-smoke"):
        start_run(
            Cluster.connect(),
            version=version,
            experiment_id=run["experiment_id"],
            name="another",
            parameters=asked,
            service_account="",
        )
    assert len(kfp.state.runs) == 1


def test_the_same_package_is_uploaded_once(kfp, submit):
    first, second = submit(), submit()
    assert (first["uploaded"], second["uploaded"]) == (True, False)
    assert first["version"] == second["version"]
    assert len(kfp.calls("POST", "upload_version")) == 1
    assert len(kfp.state.runs) == 2


def test_another_package_of_the_same_revision_is_another_version(kfp, submit):
    first, second = submit(), submit("--set", "update.learning_rate=3e-5")
    assert first["version"].rpartition("-")[0] == second["version"].rpartition("-")[0]
    assert first["version"] != second["version"]
    assert second["uploaded"]


def test_another_package_under_the_name_is_refused(hrf, kfp, submit):
    name = submit()["version"]
    kfp.state.versions[0]["description"] = "made by hand"
    result = hrf("submit", *SMOKE, *STORAGE)
    assert result.exit_code == 7
    assert f"version '{name}'" in words(result)
    assert "is not this package" in words(result)
    assert len(kfp.state.runs) == 1


@pytest.mark.parametrize("kind", ["pipelines", "experiments", "pipeline_versions"])
def test_what_another_client_makes_at_the_same_time_is_used(kfp, start, kind):
    start()
    kfp.state.unseen = [kind]
    start()
    state = kfp.state
    assert [len(made) for made in (state.pipelines, state.experiments, state.versions, state.runs)] == [1, 1, 1, 2]


def test_an_archived_experiment_is_told(hrf, kfp, start):
    start()
    kfp.state.experiments[0]["storage_state"] = "ARCHIVED"
    result = hrf("submit", *SMOKE, *STORAGE)
    assert result.exit_code == 7
    assert "archived" in words(result)


def test_things_are_found_behind_the_first_page(hrf, kfp, start):
    kfp.state.largest_page = 1
    for experiment in ("one", "two", "three", "three"):
        start(experiment=experiment)
    assert len(kfp.state.experiments) == 3
    listed = json.loads(hrf("runs", "--cluster", "--json").stdout)
    assert [run["experiment"] for run in listed] == ["one", "two", "three", "three"]


def test_pods_run_as_the_placement_or_the_option_says(kfp, submit, tmp_path):
    file = tmp_path / "placement.yaml"
    file.write_text("service_account: mine\n")
    submit("--placement", str(file))
    submit("--placement", str(file), "--service-account", "another")
    assert [run["service_account"] for run in kfp.state.runs] == ["mine", "another"]


def test_images_that_no_registry_has_are_noted(hrf, kfp, monkeypatch):
    assert f"Note: The images are hrf-control:{__version__}" in words(hrf("submit", *SMOKE, *STORAGE))
    for role in ("CONTROL", "WORKER", "REWARD"):
        monkeypatch.setenv(f"HRF_IMAGE_{role}", f"registry/{role.lower()}@sha256:{'0' * 64}")
    assert "Note" not in words(hrf("submit", *SMOKE, *STORAGE))
    executors = kfp.state.versions[1]["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert all(entry["container"]["image"].startswith("registry/") for entry in executors.values())


def test_the_bucket_may_come_from_the_environment(kfp, hrf, monkeypatch):
    monkeypatch.setenv("HRF_BUCKET", "bucket/prefix")
    assert hrf("submit", *SMOKE).exit_code == 0
    assert kfp.state.runs[0]["runtime_config"]["parameters"]["storage"] == "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*SMOKE,), 3, "HRF_BUCKET"),
        ((*SMOKE, "--storage", "bucket/prefix"), 6, "s3://BUCKET"),
        (("avatars-smok", *STORAGE), 3, "did you mean 'avatars-smoke'"),
        ((*SMOKE, *STORAGE, "--experiment", "a/b"), 3, "experiment"),
        ((*SMOKE, *STORAGE, "--run-tag", "../x"), 3, "--run-tag"),
        ((*SMOKE, *STORAGE, "--start-from", "nothing"), 3, "run.start_from"),
        (("avatars-smoke", "--epochs", "200", *STORAGE), 3, "epochs_per_step"),
        (("missing.yaml", *STORAGE), 3, "missing.yaml"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(hrf, kfp, arguments, code, said):
    result = hrf("submit", *arguments)
    assert result.exit_code == code, result.output
    assert said in words(result)
    assert kfp.sent == []


def test_a_configuration_file_is_submitted_whole(hrf, kfp, tmp_path):
    file = tmp_path / "my run.yaml"
    file.write_text("extends: avatars-smoke\nrun: {epochs: 1}\n")
    result = hrf("submit", str(file), *STORAGE)
    assert result.exit_code == 0, result.output
    run = kfp.state.runs[0]
    assert run["display_name"].startswith("my-run-")
    parameters = run["runtime_config"]["parameters"]
    assert resolve("", parameters["overrides"]) == resolve("avatars-smoke", "run: {epochs: 1}")


def test_waiting_ends_with_the_table_of_the_epochs(hrf, kfp, storage, storage_uri, summary):
    storage.create_json("default/runs/my-run/summary.json", summary)
    kfp.state.plays = plays.run_to_end
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    told = [line.split()[1:] for line in lines if line.startswith("done")]
    assert [" ".join(line[:-2]) for line in told] == [
        "check",
        "fetch",
        "prepare",
        "baseline",
        "epoch 0: sample",
        "epoch 0: score",
        "epoch 0: update",
        "epoch 0: evaluate and promote",
        "summarize",
        "report status",
    ]
    assert [line for line in lines if line in ("pending", "running", "succeeded")] == [
        "pending",
        "running",
        "succeeded",
    ]
    assert "change from base" in result.output
    assert "0.210 [0.198, 0.222]" in result.output
    assert "Promoted: run-7/epoch-0001" in result.output
    assert f"{storage_uri}/default/runs/my-run/report.html" in result.output


def test_waiting_as_json_has_the_summary(kfp, submit, storage, storage_uri, summary):
    storage.create_json("default/runs/my-run/summary.json", summary)
    kfp.state.plays = plays.run_to_end
    ended = submit("--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert ended["state"] == "SUCCEEDED"
    assert ended["summary"] == summary


def test_a_bucket_that_can_not_be_read_from_here_does_not_fail_a_run_that_succeeded(hrf, kfp):
    kfp.state.plays = plays.run_to_end
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 0, result.output
    assert "Records can't be read from here" in words(result)
    assert "AWS_ACCESS_KEY_ID" in words(result)


def test_a_failure_of_which_nothing_is_known_is_told_once_with_the_command_to_look_with(hrf, kfp):
    kfp.state.plays = plays.failing("sample")
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 1
    assert "The run failed." in result.output
    said = [line for line in result.output.splitlines() if "failed, and Kubeflow does not say why" in line]
    assert len(said) == 1
    assert said[0].startswith("sample, epoch 0: failed")
    run = kfp.state.runs[0]["run_id"]
    assert f"kubectl get workflow -n kubeflow -l pipeline/runid={run} -o yaml" in said[0]


def test_with_a_kubeconfig_the_reason_and_the_pod_are_told(hrf, kfp, kubernetes):
    kfp.state.plays = plays.failing("sample")
    create, workflow = kfp.state.create_run, recording("workflow-oom")

    def create_run(body):
        made = create(body)
        workflow["metadata"]["labels"]["pipeline/runid"] = made["run_id"]
        kubernetes.add(workflow)
        return made

    kfp.state.create_run = create_run
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 1
    assert "sample, epoch 0: out of memory. Fix: raise `steps.sample.memory` in the placement" in result.output
    assert "pod hrf-finetune-sxs79-retry-system-container-impl-2187630860" in result.output


def _look_always(monkeypatch):
    """Have what is beside the API looked at with every look at the run."""
    monkeypatch.setattr(watching, "BESIDE_SECONDS", 0.0)
    monkeypatch.setattr(watching, "REST", 0.0)


def test_a_pod_that_waits_for_long_is_told_with_what_it_waits_for(hrf, kfp, kubernetes, monkeypatch):
    _look_always(monkeypatch)
    kfp.state.plays = plays.run_to_end
    create, workflow = kfp.state.create_run, recording("workflow-image-absent")

    def create_run(body):
        made = create(body)
        workflow["metadata"]["labels"]["pipeline/runid"] = made["run_id"]
        kubernetes.add(workflow)
        return made

    kfp.state.create_run = create_run
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    told = "check: for more than a minute. its image docker.io/library/hrf-control:absent can't be pulled (i/o timeout)"
    assert words(result).count(told) == 1


def test_without_a_kubeconfig_the_command_to_look_with_is_told_of_a_pod_that_waits(hrf, kfp, monkeypatch):
    _look_always(monkeypatch)

    def waiting(spec):
        frames = plays.run_to_end(spec)
        for entry in frames[2].tasks:
            if entry["display_name"] == "executor(0)":
                entry["state"] = "PENDING"
        return [*frames[:3], frames[2], *frames[3:]]

    kfp.state.plays = waiting
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    run = kfp.state.runs[0]["run_id"]
    assert words(result).count(f"`kubectl get pods -n kubeflow -l pipeline/runid={run}` shows what for.") == 1


def _stuck(spec):
    """The record of a run whose agent is behind: it says RUNNING for ever."""
    frames = plays.run_to_end(spec)
    return [*frames[:4], *[frames[3]] * 10_000]


def test_the_buckets_status_wins_where_kubeflow_says_running_after_the_end(
    hrf, kfp, storage, storage_uri, summary, monkeypatch
):
    _look_always(monkeypatch)
    status = status_of("my-run", "COMPLETE", time=time.time() - 61)
    storage.create_json("default/runs/my-run/status.json", status.as_json())
    storage.create_json("default/runs/my-run/summary.json", summary)
    kfp.state.plays = _stuck
    arguments = ("--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    result = hrf("submit", *SMOKE, *arguments)
    assert result.exit_code == 0, result.output
    assert "Promoted: run-7/epoch-0001" in result.output
    shown = hrf("runs", "show", "my-run", "--cluster").output
    assert "state         succeeded" in shown
    assert "it still says running" in shown


def test_a_status_of_before_a_retry_ends_nothing(hrf, kfp, storage, storage_uri, monkeypatch):
    _look_always(monkeypatch)
    storage.create_json("default/runs/my-run/status.json", status_of("my-run", time=1e9).as_json())
    kfp.state.plays = plays.run_to_end
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert result.exit_code == 0, result.output


def test_progress_comes_from_the_bucket_where_tasks_are_silent(hrf, kfp, storage, storage_uri, monkeypatch):
    _look_always(monkeypatch)
    monkeypatch.setattr(watching, "STANDSTILL_SECONDS", 0.0)
    for epoch, outcome in enumerate(("rejected", "promoted")):
        decision = decision_of("my-run", epoch, outcome).as_json()
        storage.create_json(f"default/decisions/my-run/epoch-{epoch:04d}.json", decision)
    kfp.state.plays = lambda spec: [*_stuck(spec)[:8], plays.run_to_end(spec)[-1]]
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert result.exit_code == 0, result.output
    assert result.output.count("candidate of epoch 0 rejected") == 1
    assert result.output.count("candidate of epoch 1 promoted") == 1
    assert words(result).count("no news of tasks for a while") == 1


def test_something_is_said_before_the_server_answers(hrf, kfp, monkeypatch):
    monkeypatch.setattr("hrf_pipelines.cluster.connection.ANSWER_SECONDS", 0.2)
    kfp.delay_seconds = 1.0
    assert hrf("runs", "--cluster").output.startswith(f"Asking {kfp.url}\n")


def test_a_failure_is_told_in_the_failing_steps_own_words_where_the_bucket_has_them(hrf, kfp, storage, storage_uri):
    failure = failure_of("update", 2, "NumericalError", "the loss is nan. Fix: x")
    status = status_of("my-run", failures=[failure])
    storage.create_json("default/runs/my-run/status.json", status.as_json())
    kfp.state.plays = plays.failing("update")
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert result.exit_code == 1
    assert "update, epoch 2: NumericalError: the loss is nan" in words(result)


def test_what_the_exit_step_found_out_is_told(hrf, kfp, storage, storage_uri):
    status = status_of("my-run", problem="out of memory at 300Mi")
    storage.create_json("default/runs/my-run/status.json", status.as_json())
    kfp.state.plays = plays.failing("update")
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert "update, epoch 0: out of memory at 300Mi" in result.output
    assert "Kubeflow does not say why" not in words(result)


def test_failures_are_found_where_the_exit_handler_did_not_run(hrf, kfp, storage, storage_uri):
    failure = failure_of("prepare", None, "ConfigError", "no such reward")
    storage.create_json("default/runs/my-run/failures/prepare-.json", failure.as_json())
    kfp.state.plays = plays.failing("prepare")
    result = hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT)
    assert "prepare: ConfigError: no such reward" in words(result)


def test_a_run_that_somebody_terminates_is_no_success(hrf, kfp):
    kfp.state.plays = plays.terminated
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 1
    assert "The run was terminated." in result.output
    assert "the run: terminated by a user" in words(result)
    assert "terminated fetch" in words(result)
    assert "failed" not in words(result)


def test_waiting_outlasts_an_api_server_that_is_replaced(hrf, kfp):
    from tests.kfp_api.server import Trouble

    play = kfp.state.get_run

    def get_run(run_id):
        if len(kfp.calls("GET", f"runs/{run_id}")) == 2:
            kfp.troubles = [Trouble(503)] * 9
        return play(run_id)

    kfp.state.get_run = get_run
    kfp.state.plays = plays.run_to_end
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 0, result.output
    assert result.output.count("no answer from the cluster") == 1


def test_a_token_that_ends_while_waiting_leaves_the_run_running_and_says_so(hrf, kfp):
    play = kfp.state.get_run

    def get_run(run_id):
        kfp.token = "a new one"
        return play(run_id)

    kfp.state.get_run = get_run
    kfp.state.plays = plays.for_ever
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT)
    assert result.exit_code == 7
    assert "The run goes on in the cluster" in words(result)
    assert "HRF_KFP_TOKEN" in words(result)


def test_ctrl_c_leaves_the_run_running_and_says_so(kfp):
    kfp.state.plays = plays.for_ever
    process = subprocess.Popen(
        [sys.executable, "-m", "hrf_pipelines.cli.main", "submit", *SMOKE, *STORAGE, *WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell starts what it puts in the background with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("running"):
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, said
    assert "The run goes on in the cluster" in said
    assert re.search(r"hrf runs show [0-9a-f]{8} --cluster", said)
    assert "Traceback" not in said
    assert kfp.state.runs[0]["state"] == "RUNNING"
    assert [sent.method for sent in kfp.sent if "terminate" in sent.target] == []


def test_tasks_of_exit_handlers_and_loops_are_called_and_counted_by_what_they_do(kfp, start):
    kfp.state.plays = plays.run_to_end
    cluster, run = Cluster.connect(), start()
    spec = package_of(cluster, run)
    assert "platform_spec" in kfp.state.versions[0]["pipeline_spec"]
    assert count_tasks(spec) == 3
    stream = io.StringIO()
    view = RunView(Console(file=stream, width=120, force_terminal=True), spec)
    with view:
        ended = follow(cluster, run.run_id, view, poll_seconds=0.0)
    said = stream.getvalue()
    assert "3 of 3 tasks" in said
    assert [task.name for task in tasks_of(ended.run, spec)] == ["check", "sample", "report"]
    assert "exit-handler" not in said


def _git(folder, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_version_is_named_for_what_it_runs_and_by_its_digest_and_tells_of_the_revision(tmp_path):
    _git(tmp_path, "init")
    (tmp_path / "file").write_text("x")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-m", "x")
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout
    about = about_package("avatars-hrf", 6, "gpu")
    clean = name_version("package", about, tmp_path)
    assert re.fullmatch(rf"avatars-hrf-6-epochs-gpu-{re.escape(__version__)}-[0-9a-f]{{8}}", clean.name)
    assert clean.name != name_version("another", about, tmp_path).name
    assert f"revision {head[:12]}, " in clean.description
    (tmp_path / "file").write_text("y")
    dirty = name_version("package", about, tmp_path)
    assert dirty.name == clean.name
    assert f"revision {head[:12]}-dirty" in dirty.description


@pytest.mark.parametrize(
    ("title", "placement", "expected"),
    [
        ("avatars-smoke", "cpu-small", "avatars-smoke-1-epoch-cpu-small"),
        ("My Model (2).yaml", "/home/me/Our_Cluster.yml", "my-model-2-1-epoch-our-cluster"),
        ("x" * 300, "", "x" * 40 + "-1-epoch"),
        ("---", "gpu", "1-epoch-gpu"),
    ],
)
def test_what_a_package_is_about_is_a_name_whatever_its_files_are_called(title, placement, expected):
    assert about_package(title, 1, placement) == expected


def test_installed_code_has_no_revision_also_within_a_repository(tmp_path):
    _git(tmp_path, "init")
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    version = name_version("package", "smoke", installed)
    assert re.fullmatch(rf"smoke-{re.escape(__version__)}-[0-9a-f]{{8}}", version.name)
    assert "installed" in version.description


def test_a_package_is_compiled_the_same_in_every_process(tmp_path):
    packages = []
    for seed in ("1", "2"):
        target = tmp_path / seed
        command = [sys.executable, "-m", "hrf_pipelines.cli.main", "compile", *SMOKE, "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        packages.append(target.read_bytes())
    assert packages[0] == packages[1]
