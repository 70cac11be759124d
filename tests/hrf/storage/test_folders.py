"""Folders are whole or absent, and a changed one is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hrf.errors import ArtifactError, StorageError
from hrf.storage.folders import MANIFEST, SEAL, canonical_json, read_folder, read_manifest, seal, unseal, writing_folder

PRODUCER = {"step": "update", "run": "r1", "epoch": 3, "hrf": "0.1.0"}
# What a writer of folders asks of the file system; a process may be killed right before any of these.
_FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"})
_DIED = 99


def write(target: Path, text: str = "weights") -> None:
    with writing_folder(target, producer=PRODUCER) as folder:
        (folder / "unet").mkdir()
        (folder / "unet" / "weights.bin").write_text(text)
        (folder / "config.json").write_text("{}")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_written_folder_reads_back_with_its_producer(tmp_path):
    write(tmp_path / "deep" / "policy")
    folder = read_folder(tmp_path / "deep" / "policy")
    assert (folder / "unet/weights.bin").read_text() == "weights"
    assert read_manifest(folder).producer == PRODUCER
    assert set(read_manifest(folder).files) == {"unet/weights.bin", "config.json"}
    assert leftovers(folder.parent) == []


def test_writing_the_same_twice_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_the_content_digest_ignores_the_producer_and_sees_every_byte(tmp_path):
    for name, producer, text in (("a", {"step": "x"}, "1"), ("b", {"step": "y"}, "1"), ("c", {"step": "x"}, "2")):
        with writing_folder(tmp_path / name, producer=producer) as folder:
            (folder / "file").write_text(text)
    digests = [read_manifest(tmp_path / name).content_digest() for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_failing_writer_leaves_what_stood_there(tmp_path):
    write(tmp_path / "policy", "old")

    def fail() -> None:
        with writing_folder(tmp_path / "policy", producer=PRODUCER) as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (read_folder(tmp_path / "policy") / "unet/weights.bin").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_finished_writer_replaces_an_older_folder_and_an_empty_one(tmp_path):
    (tmp_path / "policy").mkdir()
    write(tmp_path / "policy", "first")
    write(tmp_path / "policy", "second")
    assert (read_folder(tmp_path / "policy") / "unet/weights.bin").read_text() == "second"


def write_and_die_before(event_number: int, target: Path, text: str) -> bool:
    """Run the writer in a child that dies on the spot before its n-th file operation; returns whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event: str, arguments: object) -> None:
            nonlocal seen
            seen += event in _FILE_EVENTS
            if seen == event_number:
                os._exit(_DIED)

        sys.addaudithook(die)
        try:
            write(target, text)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _DIED


@pytest.mark.parametrize("stood_before", [False, True])
def test_a_kill_before_any_file_operation_leaves_all_or_nothing_and_a_second_run_completes(tmp_path, stood_before):
    number, was_killed = 0, True
    while was_killed:
        number += 1
        target = tmp_path / str(number) / "policy"
        if stood_before:
            write(target, "old")
        was_killed = write_and_die_before(number, target, "new")
        if target.exists():
            assert (read_folder(target) / "unet/weights.bin").read_text() in (
                {"old", "new"} if stood_before else {"new"}
            )
        write(target, "new")
        assert (read_folder(target) / "unet/weights.bin").read_text() == "new"
        assert leftovers(target.parent) == []
    assert number > 10, "the writer makes more file operations than that"


def test_the_temporary_folder_of_a_living_writer_is_left_alone(tmp_path):
    with writing_folder(tmp_path / "policy", producer=PRODUCER) as folder:
        code = (
            "import sys; from hrf.storage.folders import writing_folder\n"
            "with writing_folder(sys.argv[1], producer={}): pass"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "policy")], check=True)
        assert folder.is_dir()


def change_a_byte(folder: Path) -> None:
    (folder / "unet/weights.bin").write_text("weightz")


def cut_a_file(folder: Path) -> None:
    (folder / "unet/weights.bin").write_text("weigh")


def remove_a_file(folder: Path) -> None:
    (folder / "unet/weights.bin").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "unet/other.bin").write_text("x")


def remove_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def garble_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff{")


def edit_manifest(folder: Path, **changes: object) -> None:
    """By somebody who seals it again."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[SEAL]
    (folder / MANIFEST).write_text(json.dumps(seal(manifest | changes)))


def raise_the_version(folder: Path) -> None:
    edit_manifest(folder, format_version=3)


def write_as_an_earlier_version(folder: Path) -> None:
    edit_manifest(folder, format_version=1)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(SEAL, "x", 1))


def rename_its_seal(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(SEAL, "sha255", 1))


def change_its_producer(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"r1"', '"r2"'))


def point_outside(folder: Path) -> None:
    edit_manifest(folder, files={"../../outside": {"sha256": "0", "bytes": 1}})


@pytest.mark.parametrize(
    ("damage", "named", "knows_producer"),
    [
        (change_a_byte, "unet/weights.bin: its sha256 is", True),
        (cut_a_file, "unet/weights.bin: it has 5 bytes, the manifest says 7", True),
        (remove_a_file, "unet/weights.bin: the file is missing", True),
        (add_a_file, "unet/other.bin: it is not in the folder's manifest", True),
        (remove_the_manifest, "it has no manifest.json", False),
        (garble_the_manifest, MANIFEST, False),
        (raise_the_version, "format version 3, this program reads 2", True),
        (write_as_an_earlier_version, "format version 1, this program reads 2", True),
        (rename_its_seal, "it has no sha256 of its own", False),
        (change_its_producer, "it was changed or damaged", False),
        (point_outside, "its list of files is damaged", True),
    ],
)
def test_a_damaged_folder_is_refused_with_file_and_producer(
    tmp_path, damage: Callable[[Path], None], named: str, knows_producer: bool
):
    write(tmp_path / "policy")
    damage(tmp_path / "policy")
    with pytest.raises(ArtifactError) as caught:
        read_folder(tmp_path / "policy")
    assert named in str(caught.value)
    assert ("step update, run r1, epoch 3" in str(caught.value)) == knows_producer


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        read_folder(tmp_path / "nothing")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path):
    def fill() -> None:
        with writing_folder(tmp_path / "p", producer={}) as folder:
            (folder / "half").write_text("half")
            Path("/dev/full").write_text("x")

    with pytest.raises(StorageError, match="no space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_object_comes_back_and_not_with_any_other_value():
    """Kills: the seal left out of the check, one that does not see names, order of nesting or kinds of numbers."""
    sealed = seal({"a": [1, {"b": None}], "c": "é"})
    assert unseal(json.dumps(sealed).encode(), "x", fix="") == {"a": [1, {"b": None}], "c": "é"}
    for other in ({"a": [1, {"b": 0}]}, {"a": [{"b": None}, 1]}, {"a": [1.0, {"b": None}]}, {"d": 1}, {"c": "e"}):
        with pytest.raises(ArtifactError, match="it was changed or damaged"):
            unseal(json.dumps({**sealed, **other}).encode(), "x", fix="")


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"1", b"{}", b'{"sha256": 1}', b"[" * 100_000, b'{"sha256": "x", "a": NaN}']
)
def test_what_is_no_sealed_object_is_refused(text):
    with pytest.raises(ArtifactError, match=r"no valid JSON|no sha256 of its own"):
        unseal(text, "x", fix="")


def test_canonical_json_has_one_spelling_and_refuses_nan():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_other_users_may_read_a_folder_whatever_wrote_its_files(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read; on a cluster the next step may be another user."""
    with writing_folder(tmp_path / "out", producer={"step": "test"}) as folder:
        (folder / "weights").touch(mode=0o600)

    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
