"""Runs on this machine: to the end, failing, stopped, killed, and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hrf.config import resolve
from hrf.errors import ArtifactError
from hrf.storage.folders import read_folder, read_manifest
from hrf_pipelines.local.object_storage import Location
from hrf_pipelines.local.run_state import RunBusyError, RunFolder, find_run
from hrf_pipelines.local.runner import EventReader, Request, StepFailedError, execute, open_run
from tests.pipelines import tiny

pytestmark = pytest.mark.e2e
PACKAGE = tiny.package()


@pytest.fixture
def location(storage_uri, s3_environment):
    return Location(uri=storage_uri, environment=s3_environment, embedded=True)


class Asked:
    """A request for the tiny pipeline, and the files by which a test talks to it."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.notes, self.gate = folder / "runs", folder / "notes", folder / "gate"
        self.told: list[str] = []
        self.request = Request(
            title="tiny",
            experiment="tests",
            arguments={"notes": str(self.notes), "gate": str(self.gate)},
            config=resolve("avatars-smoke"),
            build=lambda: PACKAGE,
        )

    def lines(self):
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def run(self, location, order, on_event=lambda event: None, fresh=False):
        """Open and execute; returns the folder, whether it was resumed, and its last state or error."""
        self.gate.write_text(order)
        folder, resumed = open_run(self.request, self.runs, location, fresh=fresh, tell=self.told.append)
        try:
            outcome = execute(folder, location, on_event)
        except StepFailedError as error:
            outcome = error
        finally:
            folder.unlock()
        return folder, resumed, outcome


@pytest.fixture
def asked(tmp_path):
    return Asked(tmp_path)


def _wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_run_ends_with_report_summary_and_stored_artifacts(asked, location, storage):
    events = []
    folder, resumed, state = asked.run(location, "finish", events.append)
    assert not resumed
    assert (state.status, state.attempts) == ("finished", 1)
    assert folder.report.read_text() == f"<p>{state.run_id}"
    assert (folder.summary / "summary.json").is_file()
    assert {"step-started", "step-finished"} <= {event["event"] for event in events}
    stored = storage.list(f"tests/runs/{state.run_id}/")
    assert any(key.endswith("first/made/manifest.json") for key in stored)
    assert f"tests/runs/{state.run_id}/kfp.log" in stored
    assert not any("/cache/" in key for key in stored)
    assert folder.path.stat().st_mode & 0o777 == 0o700, "it is nobody else's business"


def test_a_step_finds_nothing_that_an_earlier_one_left_in_its_process(asked, location):
    """Kills the mutant that runs the steps in the worker itself."""
    asked.run(location, "finish")
    _, step, worker, found = asked.lines()[-1].split()
    assert step != worker
    assert found == "nothing"


PLANTED = {
    "HRF_KFP_TOKEN": "planted-kubeflow-1",
    "HF_TOKEN": "planted_hub_2",
    "HRF_REWARD_TOKEN": "planted-reward-3",
    "THEIR_SERVICE_API_KEY": "planted\\'theirs\" 4",
    "HTTPS_PROXY": "http://me:planted-proxy-5@127.0.0.1:9",
}


def test_aws_settings_of_other_storages_do_not_reach_the_steps(asked, location, monkeypatch):
    """Kills: a profile of another machine, which the steps' own S3 client would not find."""
    monkeypatch.setenv("AWS_PROFILE", "not-on-this-machine")
    folder, _, _ = asked.run(location, "tell")
    log = (folder.path / "kfp.log").read_text()
    assert "AWS_ENDPOINT_URL_S3" in log
    assert "AWS_PROFILE" not in log


def test_a_step_that_tells_its_environment_tells_no_secret(asked, location, storage, s3_environment, monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    folder, _, error = asked.run(location, "tell")
    told = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    told |= {key: storage.read_bytes(key)[0] for key in storage.list(f"tests/runs/{folder.path.name}/")}
    told["the error"] = f"{error} {error.event}".encode()
    for secret in (b"planted", s3_environment["AWS_SECRET_ACCESS_KEY"].encode()):
        assert [where for where, content in told.items() if secret in content] == []
    for where in (folder.path / "kfp.log", folder.path / "state.json", folder.path / "progress.jsonl"):
        assert b"<AWS_SECRET_ACCESS_KEY>" in told[where], "it is there to let it slip"
        assert b"<HTTPS_PROXY>" in told[where]
        assert b"HF_TOKEN" not in told[where], "the step doesn't need it, and doesn't have it"
        assert b"THEIR_SERVICE_API_KEY" not in told[where]
    assert b"<AWS_SECRET_ACCESS_KEY>" in told[f"tests/runs/{folder.path.name}/kfp.log"]


def test_a_failed_step_is_told_with_its_exit_code_and_stored_artifacts(asked, location, storage):
    folder, _, error = asked.run(location, "fail")
    assert isinstance(error, StepFailedError)
    assert error.exit_code == 5
    assert error.event["step"] == "second"
    assert "the loss is nan" in str(error)
    assert folder.read().status == "failed"
    assert folder.read().error["error_type"] == "NumericalError"
    assert any("first/made" in key for key in storage.list(f"tests/runs/{folder.path.name}/artifacts/"))


def test_a_step_that_dies_without_a_word_is_an_unexpected_failure(asked, location):
    _, _, error = asked.run(location, "crash")
    assert isinstance(error, StepFailedError)
    assert error.exit_code == 1


def test_the_same_command_goes_on_with_the_first_unfinished_step(asked, location):
    failed, _, _ = asked.run(location, "fail")
    folder, resumed, state = asked.run(location, "finish")
    assert resumed
    assert folder.path == failed.path
    assert (state.status, state.attempts, state.error) == ("finished", 2, None)
    assert [line.split()[0] for line in asked.lines()] == ["first", "second", "second"]


def test_after_a_finished_run_the_same_command_starts_another(asked, location):
    first, _, _ = asked.run(location, "finish")
    second, resumed, _ = asked.run(location, "finish")
    assert not resumed
    assert second.path != first.path


def test_fresh_leaves_an_unfinished_run_alone(asked, location):
    failed, _, _ = asked.run(location, "fail")
    folder, resumed, _ = asked.run(location, "finish", fresh=True)
    assert not resumed
    assert failed.read().status == "failed"
    assert folder.path != failed.path


def test_another_request_does_not_resume_it(asked, location, tmp_path):
    asked.run(location, "fail")
    other = Asked(tmp_path)
    other.request = Request(**{**vars(asked.request), "config": resolve("avatars-smoke", "run: {seed: 1}")})
    _, resumed, _ = other.run(location, "finish")
    assert not resumed


def test_a_changed_reward_function_does_not_resume_it(asked, location, tmp_path, monkeypatch):
    """The configuration is the same, and what it names is not; it is taken back, and so the run goes on."""
    monkeypatch.syspath_prepend(tmp_path)
    reward = tmp_path / "my_reward.py"
    reward.write_text("ONE = 1")
    config = resolve("avatars-smoke", "reward: {name: python, function: 'my_reward:f'}")
    asked.request = Request(**{**vars(asked.request), "config": config})
    failed, _, _ = asked.run(location, "fail")
    reward.write_text("ONE = 2")
    changed, resumed, _ = asked.run(location, "fail")
    assert (resumed, changed.path) != (True, failed.path)
    reward.write_text("ONE = 1")
    same, resumed, _ = asked.run(location, "finish")
    assert (resumed, same.path) == (True, failed.path)


def made(folder):
    """What the first step wrote, in every attempt so far."""
    return list((folder.path / "artifacts").glob("*/first/made"))


def flip_a_bit(file):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def test_a_damaged_output_of_a_finished_step_is_made_again_in_its_place(asked, location):
    """Kills: a resume that ends at the damaged folder, however often the command is given; and a folder for each
    attempt, where one flipped bit costs all that came after it."""
    folder, _, _ = asked.run(location, "finish")
    (output,) = made(folder)
    before = read_manifest(output)
    folder.change(status="failed")
    flip_a_bit(output / "value")
    _, resumed, state = asked.run(location, "finish")
    assert (resumed, state.status) == (True, "finished")
    assert [line.split()[0] for line in asked.lines()] == ["first", "second", "first"]
    assert made(folder) == [output]
    assert read_manifest(read_folder(output)) == before
    (told,) = asked.told
    assert told.startswith("A finished step is done again, as its output was damaged:\n  ")
    assert "first/made/value" in told


def opened(asked, location):
    """The run that the command makes or finds, unlocked, and what was told."""
    told = []
    folder, resumed = open_run(asked.request, asked.runs, location, fresh=False, tell=told.append)
    folder.unlock()
    return folder, resumed, told


@pytest.mark.parametrize("damage", [lambda file: file.write_text("pipelineInfo: {}"), Path.unlink])
def test_a_changed_package_is_compiled_again_and_not_run(asked, location, damage):
    """Kills: code in package.yaml that is run whoever wrote it."""
    folder, _, told = opened(asked, location)
    assert told == []
    damage(folder.path / "package.yaml")
    again, resumed, told = opened(asked, location)
    assert (again.path, resumed) == (folder.path, True)
    assert (folder.path / "package.yaml").read_text() == PACKAGE
    assert told == [f"{folder.path / 'package.yaml'} was changed or damaged, and is compiled again."]
    assert opened(asked, location)[2] == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": 5}', "\0", None])
def test_an_unreadable_state_is_passed_over_and_named(asked, location, content):
    """Kills: one damaged file that no command in the work directory gets past."""
    folder, _, _ = opened(asked, location)
    other = asked.runs / "20990101-000000-abcdef"
    shutil.copytree(folder.path, other)
    if content is None:
        (other / "state.json").unlink()
    else:
        (other / "state.json").write_text(content)
    again, resumed, (told,) = opened(asked, location)
    assert (again.path, resumed) == (folder.path, True)
    assert told.startswith(f"Passed over: {other / 'state.json'}: not a run's state")
    assert find_run(asked.runs, "").path == folder.path


def test_a_state_of_another_type_than_a_run_has_is_unreadable(asked, location):
    """Kills: a damaged state that is noticed as a KeyError, an hour later."""
    folder, _, _ = opened(asked, location)
    whole = json.loads((folder.path / "state.json").read_text())
    for name, value in {"status": "finishe", "arguments": ["storage"], "attempts": "1", "created": None}.items():
        (folder.path / "state.json").write_text(json.dumps({**whole, name: value}))
        with pytest.raises(ArtifactError, match="not a run's state"):
            folder.read()


def test_of_two_equal_commands_at_once_one_makes_the_run_and_the_other_finds_it(asked, location):
    """Kills: two runs of one command, each of which trains and promotes."""

    def build():
        time.sleep(0.5)
        return PACKAGE

    request, both = replace(asked.request, build=build), threading.Barrier(2, timeout=60)
    made, refused = [], []

    def give():
        both.wait()
        try:
            made.append(open_run(request, asked.runs, location, fresh=False, tell=print)[0])
        except RunBusyError as error:
            refused.append(error.run_id)

    commands = [threading.Thread(target=give) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    (folder,) = made
    folder.unlock()
    assert list(asked.runs.iterdir()) == [folder.path]
    assert refused == [folder.path.name]


def test_a_run_that_is_worked_on_cannot_be_worked_on_twice(asked, location):
    folder, _ = open_run(asked.request, asked.runs, location, fresh=False, tell=print)
    try:
        with pytest.raises(RunBusyError, match=folder.path.name):
            RunFolder(folder.path).lock(wait_seconds=0.2)
        assert folder.status() == "running"
    finally:
        folder.unlock()
    assert folder.status() == "interrupted"


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal has it: a shell's background jobs, such as a CI's, start with the interrupt ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_all_processes_and_the_run_can_go_on(asked, location):
    asked.gate.write_text("hang")
    folder, _ = open_run(asked.request, asked.runs, location, fresh=False, tell=print)

    def interrupt():
        _wait_for(lambda: any(line.startswith("second") for line in asked.lines()))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        execute(folder, location, lambda event: None)
    folder.unlock()
    assert folder.read().status == "interrupted"
    _, step, worker, _ = asked.lines()[-1].split()
    assert not _is_alive(step)
    assert not _is_alive(worker)
    _, resumed, state = asked.run(location, "finish")
    assert resumed
    assert state.status == "finished"


PROGRAM = """
import sys
from pathlib import Path
from hrf_pipelines.local.runner import execute
from hrf_pipelines.local.object_storage import Location
from hrf_pipelines.local.run_state import RunFolder
folder = RunFolder(Path(sys.argv[1])); folder.lock()
execute(folder, Location(uri=sys.argv[2], environment={}, embedded=True), lambda event: None)
"""


def test_a_killed_command_leaves_no_process_behind_and_the_run_can_go_on(asked, location):
    asked.gate.write_text("hang")
    folder, _ = open_run(asked.request, asked.runs, location, fresh=False, tell=print)
    folder.unlock()
    command = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder.path), location.uri])
    _wait_for(lambda: any(line.startswith("second") for line in asked.lines()))
    command.kill()
    command.wait()
    step = asked.lines()[-1].split()[1]
    _wait_for(lambda: not _is_alive(step), seconds=5)
    _wait_for(lambda: folder.status() == "interrupted", seconds=5)
    again, resumed, state = asked.run(location, "finish")
    assert resumed
    assert again.path == folder.path
    assert state.status == "finished"
    assert [line.split()[0] for line in asked.lines()] == ["first", "second", "second"]


def test_events_are_read_once_and_only_in_whole_lines(tmp_path):
    file = tmp_path / "progress.jsonl"
    file.write_text('{"event": "old"}\n')
    reader = EventReader(file)
    assert reader.read() == []
    with open(file, "a") as stream:
        stream.write('{"event": "a"}\n{"eve')
        stream.flush()
        assert reader.read() == [{"event": "a"}]
        stream.write('nt": "b"}\n')
    assert reader.read() == [{"event": "b"}]
    assert reader.read() == []


def test_the_state_survives_a_write_and_names_what_was_asked(asked, location):
    folder, _ = open_run(asked.request, asked.runs, location, fresh=False, tell=print)
    folder.unlock()
    state = json.loads((folder.path / "state.json").read_text())
    assert state["arguments"]["storage"] == location.uri
    assert state["arguments"]["run_tag"] == folder.path.name
    assert state["config"]["sampler"]["steps"] == 6
