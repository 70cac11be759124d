"""A local run hands artifacts on as an object store would: what a store would drop is gone after every step."""

import os

import pytest
from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from hrf.storage.folders import writing_folder
from hrf_pipelines.local.handing_on import keep_files_only
from hrf_pipelines.local.worker import run_package
from hrf_pipelines.package import compile_package


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "empty" / "below").mkdir(parents=True)
    (made / "full").mkdir()
    (made / "full" / "file").write_text("1")
    (tmp_path / "elsewhere").write_text("2")
    (made / "link").symlink_to(tmp_path / "elsewhere")
    (made / "broken").symlink_to(tmp_path / "absent")
    (made / "full" / "up").symlink_to(made)
    return made


def test_only_files_arrive_and_links_as_what_they_point_to(folder):
    keep_files_only(folder)
    assert listing(folder) == ["full", "full/file", "link"]
    assert (folder / "link").read_text() == "2"
    assert not (folder / "link").is_symlink()


def test_modes_and_times_do_not_arrive(folder):
    file = folder / "full" / "file"
    file.chmod(0o700)
    os.utime(file, (1, 1))
    keep_files_only(folder)
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.stat().st_mtime > 1


def test_what_a_store_does_not_carry_is_an_error_where_it_is_written(tmp_path):
    """The fault that met the first real Kubeflow: an empty folder, on which a later step relied."""
    for spoil in (lambda made: (made / "epochs").mkdir(), lambda made: (made / "link").symlink_to(tmp_path)):
        with (
            pytest.raises(ValueError, match=r"(epochs|link): an object store carries files only"),
            writing_folder(tmp_path / "history", producer={}) as made,
        ):
            spoil(made)
        assert not (tmp_path / "history").exists()


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def careless(made: Output[Artifact]) -> None:
    """Write a folder without the library's help."""
    from pathlib import Path

    (Path(made.path) / "epochs").mkdir(parents=True)
    (Path(made.path) / "file").write_text("1")


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def trusting(found: str, made: Input[Artifact]) -> None:
    """Say what arrived."""
    from pathlib import Path

    Path(found).write_text(" ".join(sorted(path.name for path in Path(made.path).iterdir())))


@pytest.mark.slow
def test_the_next_step_of_a_local_run_finds_what_a_store_would_have_brought(tmp_path):
    @dsl.pipeline(name="two-steps")
    def two_steps(found: str):
        trusting(found=found, made=careless().outputs["made"])

    arguments = {"found": str(tmp_path / "found")}
    assert run_package(
        compile_package(two_steps), arguments=arguments, artifacts=tmp_path / "artifacts", cache=tmp_path / "cache"
    )
    assert (tmp_path / "found").read_text() == "file"
