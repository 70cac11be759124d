"""A disk that takes no more: every writer says so, leaves what was there as it was, and nothing half-written."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hrf.config import resolve
from hrf.distributed.progress import PROGRESS_FILE
from hrf.errors import StorageError
from hrf.steps.context import step
from hrf.storage.folders import writing_file
from hrf.study.table import frame_of, read_table, write_table
from hrf_pipelines.cli.main import app
from hrf_pipelines.local.object_storage import Location, object_storage
from hrf_pipelines.local.run_state import RunFolder
from hrf_pipelines.local.runner import Request, open_run

ASKED = {"title": "t", "experiment": "e", "fingerprint": "f", "arguments": {}, "package": "old package"}


@contextlib.contextmanager
def no_room(num_bytes: int = 20) -> Iterator[None]:
    """Let no file of this process grow past a few bytes: what a full disk does, to whoever runs the tests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "runs", **ASKED)


def write_longer(target: Path) -> None:
    with writing_file(target) as file:
        file.write_text("new " * 20)


WRITERS = {
    "a file": lambda run: write_longer(run.path / "state.json"),
    "a new file": lambda run: write_longer(run.path / "report.html"),
    "a run's state": lambda run: run.change(status="failed"),
    "a run's package": lambda run: run.write_package("new package" * 10),
    "a new run": lambda run: RunFolder.create(run.path.parent, **ASKED),
    "a study's table": lambda run: write_table(frame_of([]), run.path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_says_that_the_disk_is_full_and_changes_nothing(run, writer):
    before = contents(run.path.parent)
    with no_room(), pytest.raises(StorageError, match="no space left on the disk"):
        WRITERS[writer](run)
    assert contents(run.path.parent) == before
    assert list(run.path.parent.iterdir()) == [run.path]


def test_after_room_was_made_the_same_is_written(run):
    write_table(frame_of([]), run.path)
    assert len(read_table(run.path)) == 0
    write_longer(run.path / "state.json")
    assert (run.path / "state.json").read_text() == "new " * 20


def test_a_link_stays_one_and_what_is_no_file_is_written_itself(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_longer(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new " * 20
    write_longer(Path("/dev/null"))
    assert not Path("/dev/null").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("name", ["package.yaml", "new.yaml"])
def test_a_command_whose_output_does_not_fit_ends_as_a_storage_error(tmp_path, name):
    """Kills: half a package under the name that was asked for."""
    (tmp_path / "package.yaml").write_text("old")
    with no_room(2**15):
        result = CliRunner().invoke(app, ["compile", "avatars-smoke", "-o", str(tmp_path / name)])
    assert result.exit_code == StorageError.exit_code, result.output
    assert "no space left" in " ".join(result.output.replace("│", " ").split())
    assert contents(tmp_path) == {str(tmp_path / "package.yaml"): b"old"}


def test_any_command_that_meets_a_full_disk_says_so(tmp_path, monkeypatch):
    """Kills: `This is a fault of hrf's`."""

    def fill(*_: object) -> None:
        Path(tmp_path / "anything").write_text("x" * 100)

    monkeypatch.setattr("hrf_pipelines.cli.main.presets.console", fill)
    with no_room():
        result = CliRunner().invoke(app, ["presets"])
    assert result.exit_code == StorageError.exit_code, result.output
    assert "no space left" in result.output


def test_a_step_that_meets_a_full_disk_fails_as_a_storage_error_even_if_its_report_does_not_fit(tmp_path, monkeypatch):
    """Kills: the step's OSError, or that of the line that would have reported it."""
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.jsonl"))

    def work() -> dict:
        with no_room():
            (tmp_path / "page.html").write_text("x" * 100)
        return {}

    def work_and_fill() -> dict:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return work()

    with pytest.raises(StorageError, match="step paint: no space left"):
        step("paint")(work)()
    assert '"error_type": "StorageError"' in (tmp_path / "progress.jsonl").read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StorageError, match="step paint: no space left"):
            step("paint")(work_and_fill)()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.e2e
def test_the_embedded_server_starts_once_there_is_room(tmp_path):
    with no_room(), pytest.raises(StorageError, match="no space left"), object_storage(tmp_path):
        raise AssertionError("it has started")
    with object_storage(tmp_path) as location:
        location.open().check()


def test_a_command_that_could_not_make_its_run_makes_it_the_next_time(tmp_path):
    request = Request(
        title="t", experiment="e", arguments={}, config=resolve("avatars-smoke"), build=lambda: "package" * 10
    )
    location = Location(uri="s3://b", environment={}, embedded=True)
    with no_room(), pytest.raises(StorageError):
        open_run(request, tmp_path / "runs", location, fresh=False, tell=print)
    assert list((tmp_path / "runs").iterdir()) == []
    folder, resumed = open_run(request, tmp_path / "runs", location, fresh=False, tell=print)
    folder.unlock()
    assert (resumed, folder.holds_its_package()) == (False, True)
