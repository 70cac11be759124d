"""The command `hrf`, without running a pipeline."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from hrf.config import list_presets, resolve
from hrf_pipelines.cli.main import app
from hrf_pipelines.local.object_storage import CONFIGURED_BY
from hrf_pipelines.local.run_state import RunFolder
from hrf_pipelines.package import read_package


@pytest.fixture
def hrf(monkeypatch):
    """Runs `hrf` with some arguments, with no storage configured."""
    for name in (*CONFIGURED_BY, "HRF_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def _words(result):
    """Everything said, without the frames that break lines."""
    return " ".join((result.output).replace("│", " ").split())


def test_presets_are_listed_with_what_they_are(hrf):
    result = hrf("presets")
    assert result.exit_code == 0
    for preset in list_presets():
        assert preset.name in result.output


def test_presets_as_json(hrf):
    listed = json.loads(hrf("presets", "--json").output)
    assert [entry["name"] for entry in listed] == [preset.name for preset in list_presets()]


def test_help_and_presets_load_nothing_heavy():
    program = (
        "import sys; from typer.testing import CliRunner; from hrf_pipelines.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['presets']).exit_code == 0\n"
        "print(*sorted({'torch', 'kfp', 'boto3', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["run", "avatars-smok"], 3, "did you mean 'avatars-smoke'"),
        (["run", "avatars-smoke", "--set", "run.epoch=3"], 3, "did you mean run.epochs"),
        (["run", "avatars-smoke", "--set", "run.epochs"], 3, "dotted.field=value"),
        (["run", "missing.yaml"], 3, "missing.yaml"),
        (["run", "avatars-smoke", "--epochs", "200"], 3, "epochs_per_step"),
        (["run", "avatars-smoke", "--start-from", "nothing"], 3, "run.start_from"),
        (["study"], 3, "a study file, or presets"),
        (["study", "study.yaml", "--preset", "avatars-hrf"], 3, "not both"),
        (["study", "study.yaml", "--seeds", "2"], 3, "--seeds"),
        (["study", "study.yaml", "--set", "policy.split=0"], 3, "--set"),
        (["study", "--preset", "avatars-hrf"], 3, "--budget 20000"),
        (["study", "--preset", "avatars-hrf", "--preset", "avatars-hrf", "--budget", "9000"], 3, "name each once"),
        (["study", "--preset", "avatars-hrf", "--preset", "avatars-dpo", "--budget", "9000"], 3, "avatars-ddpo"),
        (["study", "--preset", "avatars-hrf", "--preset", "avatars-ddpo", "--budget", "10"], 3, "the cost of 2 epochs"),
        (["compile", "avatars-smoke", "-o", "/nowhere/at/all.yaml"], 3, "/nowhere/at/all.yaml"),
        (["run"], 2, "Missing argument"),
        (["run", "avatars-smoke", "--epochs", "many"], 2, "--epochs"),
        (["sample", "--strength", "0"], 3, "above 0 and at most 1"),
        (["sample", "--strength", "0.5", "--from", "base"], 3, "the base has learnt nothing to scale"),
        (["report", "--work-dir", "/nowhere"], 4, "hrf runs list"),
        (["runs", "show", "abc", "--work-dir", "/nowhere"], 4, "no run 'abc'"),
    ],
)
def test_errors_say_what_and_the_fix_in_a_few_lines(hrf, arguments, exit_code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hrf(*arguments)
    assert result.exit_code == exit_code, result.output
    assert said in _words(result)
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) < 25


def test_a_configured_storage_without_bucket_is_a_storage_error(hrf, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    result = hrf("run", "avatars-smoke", "--work-dir", str(tmp_path))
    assert result.exit_code == 6
    assert "HRF_BUCKET" in _words(result)


def test_an_unreachable_storage_is_told_before_a_run_is_made(hrf, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    result = hrf("run", "avatars-smoke", "--work-dir", str(tmp_path), "--bucket", "mine")
    assert result.exit_code == 6
    assert "127.0.0.1:9" in _words(result)
    assert "hidden-secret" not in result.output
    assert not (tmp_path / "runs").exists()


def test_a_traceback_is_shown_when_asked_for(hrf):
    result = hrf("run", "avatars-smok", "--traceback")
    assert result.exit_code == 3
    assert "Traceback (most recent call last)" in result.output


def test_a_package_is_compiled_with_the_overrides_as_defaults(hrf, tmp_path):
    target = tmp_path / "package.yaml"
    result = hrf("compile", "avatars-smoke", "--set", "update.learning_rate=3e-5", "--epochs", "1", "-o", str(target))
    assert result.exit_code == 0, result.output
    parameters = _pipeline(target)["root"]["inputDefinitions"]["parameters"]
    overrides = parameters["overrides"]["defaultValue"]
    assert resolve(parameters["preset"]["defaultValue"], overrides).update.learning_rate == 3e-5
    assert resolve("avatars-smoke", overrides).run.epochs == 1


def test_a_package_is_compiled_from_a_file(hrf, tmp_path):
    file, target = tmp_path / "mine.yaml", tmp_path / "package.yaml"
    file.write_text("extends: avatars-smoke\nrun:\n  epochs: 1\n")
    assert hrf("compile", str(file), "-o", str(target)).exit_code == 0
    parameters = _pipeline(target)["root"]["inputDefinitions"]["parameters"]
    assert parameters["preset"]["defaultValue"] == ""
    assert resolve("", parameters["overrides"]["defaultValue"]) == resolve("avatars-smoke", "run: {epochs: 1}")


@pytest.mark.parametrize(
    ("epochs", "told"), [("1", "Kubeflow's UI shows each task, and its Retry works"), ("9", "its Retry is refused")]
)
def test_the_size_of_a_run_on_a_cluster_is_told_and_what_it_means(hrf, tmp_path, epochs, told):
    result = hrf("compile", "avatars-smoke", "--epochs", epochs, "-o", str(tmp_path / "package.yaml"))
    assert result.exit_code == 0
    assert re.search(r"Workflow: \d+ nodes, about \d\.\d\d MB at the end", _words(result))
    assert told in _words(result)


def test_images_of_a_package_come_from_the_environment(hrf, tmp_path, monkeypatch):
    monkeypatch.setenv("HRF_IMAGE_WORKER", "registry/worker:7")
    target = tmp_path / "package.yaml"
    assert hrf("compile", "avatars-smoke", "-o", str(target)).exit_code == 0
    assert "image: registry/worker:7" in target.read_text()


def _pipeline(package):
    """The pipeline of a package; what follows it is about the cluster."""
    return read_package(package.read_text())[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a failed and an untouched run."""
    runs = tmp_path_factory.mktemp("made") / "runs"
    asked = {"experiment": "e", "fingerprint": "f", "arguments": {"storage": "s3://b"}, "package": "x"}
    failed = RunFolder.create(runs, title="avatars-hrf", **asked)
    error = {"step": "update", "epoch": 1, "error_type": "NumericalError", "message": "nan. Fix: less", "exit_code": 5}
    failed.change(status="failed", error=error)
    time.sleep(1.1)  # Their names tell the second.
    RunFolder.create(runs, title="avatars-ddpo", **asked)
    return runs


@pytest.fixture
def two_runs(made, tmp_path):
    """A failed and an untouched run, oldest first."""
    shutil.copytree(made, tmp_path / "runs")
    return [RunFolder(folder) for folder in sorted((tmp_path / "runs").iterdir())]


def test_runs_are_listed_with_their_status(hrf, two_runs, tmp_path):
    result = hrf("runs", "list", "--work-dir", str(tmp_path))
    lines = [line for line in result.output.splitlines() if "avatars-" in line]
    assert "avatars-hrf" in lines[0]
    assert "failed" in lines[0]
    # Nobody works on it, so it isn't running, whatever its state says.
    assert "interrupted" in lines[1]


def test_runs_as_json(hrf, two_runs, tmp_path):
    listed = json.loads(hrf("runs", "list", "--json", "--work-dir", str(tmp_path)).output)
    assert [(run["title"], run["status"]) for run in listed] == [
        ("avatars-hrf", "failed"),
        ("avatars-ddpo", "interrupted"),
    ]


def test_a_run_with_an_unreadable_state_is_named_beside_the_list_of_the_others(hrf, two_runs, tmp_path):
    (two_runs[0].path / "state.json").write_text("{")
    result = hrf("runs", "list", "--work-dir", str(tmp_path))
    assert result.exit_code == 0
    assert "avatars-ddpo" in result.output
    assert f"Passed over: {two_runs[0].path / 'state.json'}" in _words(result)
    shown = hrf("runs", "show", two_runs[0].path.name, "--work-dir", str(tmp_path))
    assert shown.exit_code == 4
    assert "not a run's state" in _words(shown)


def test_a_failed_run_shows_its_error(hrf, two_runs, tmp_path):
    result = hrf("runs", "show", two_runs[0].path.name, "--work-dir", str(tmp_path))
    assert result.exit_code == 0
    assert "NumericalError in update: nan" in result.output


def test_an_ambiguous_beginning_is_refused(hrf, two_runs, tmp_path):
    result = hrf("runs", "show", "20", "--work-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "2 runs begin" in _words(result)


def test_the_report_of_an_unfinished_run_is_refused_with_the_way_on(hrf, two_runs, tmp_path):
    result = hrf("report", "--work-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "goes on from the last finished step" in _words(result)


def test_no_runs_tells_how_to_start_one(hrf, tmp_path):
    assert "hrf run avatars-compressibility" in _words(hrf("runs", "list", "--work-dir", str(tmp_path)))


def test_doctor_finds_nothing_wrong_here(hrf, work_dir):
    findings = json.loads(hrf("doctor", "--json", "--work-dir", str(work_dir.parent)).output)
    assert [finding["name"] for finding in findings] == [
        "python",
        "packages",
        "torch",
        "shipped model",
        "disk",
        "weed",
        "object storage",
    ]
    assert {finding["name"] for finding in findings if finding["level"] == "fail"} == set()


def test_doctor_fails_with_the_fix_where_storage_refuses(hrf, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    result = hrf("doctor", "--work-dir", str(tmp_path), "--bucket", "mine")
    assert result.exit_code == 1
    line = next(line for line in result.output.splitlines() if "object storage" in line)
    assert line.startswith("fail")
    assert "Fix:" in result.output
    assert "hidden-secret" not in result.output


@pytest.mark.parametrize("arguments", [["presets"], ["study", "--help"]])
def test_a_reader_that_leaves_early_is_no_fault(arguments):
    command = [sys.executable, "-m", "hrf_pipelines.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")
