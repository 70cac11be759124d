"""Object storage against a real S3 server: conditional writes, verified folders, errors that say what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hrf.errors import ArtifactError, StorageError
from hrf.storage.folders import MANIFEST, read_folder, writing_folder
from hrf.storage.objects import Conflict, Storage
from hrf_pipelines.local.embedded_s3 import EmbeddedS3
from tests.interrupted import Killed, dying_before, losing_the_answer_of


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    with writing_folder(tmp_path / "policy", producer={"step": "update", "run": "r1"}) as folder:
        (folder / "unet").mkdir()
        (folder / "unet" / "weights.bin").write_bytes(bytes(range(256)) * 10)
        (folder / "config.json").write_text("{}")
    return tmp_path / "policy"


def test_json_comes_back_and_an_absent_key_is_none(storage):
    etag = storage.create_json("a/b.json", {"x": [1, 2.5, "é", None]})
    assert storage.read_json("a/b.json") == ({"x": [1, 2.5, "é", None]}, etag)
    assert storage.read_json("a/c.json") is None


def test_creating_never_overwrites(storage):
    storage.create_json("k.json", {"by": "first"})
    with pytest.raises(Conflict):
        storage.create_json("k.json", {"by": "second"})
    assert storage.read_json("k.json")[0] == {"by": "first"}


def test_replacing_needs_the_current_version(storage):
    first = storage.create_json("k.json", {"n": 1})
    second = storage.replace_json("k.json", {"n": 2}, first)
    with pytest.raises(Conflict):
        storage.replace_json("k.json", {"n": 3}, first)
    assert storage.read_json("k.json") == ({"n": 2}, second)


def test_replacing_what_is_gone_is_a_conflict(storage):
    with pytest.raises(Conflict):
        storage.replace_json("k.json", {"n": 1}, '"0123456789abcdef0123456789abcdef"')
    assert storage.read_json("k.json") is None


@pytest.mark.parametrize("lost", [1, 2])
def test_a_write_whose_answer_is_lost_counts_as_done(storage, lost):
    """The client's own retry meets its first write and is refused; that must not look like another writer."""
    with losing_the_answer_of(storage, lost):
        etag = storage.create_json("k.json", {"n": 1})
        storage.replace_json("k.json", {"n": 2}, etag)
    assert storage.read_json("k.json")[0] == {"n": 2}


def test_of_16_racing_creators_one_wins(storage):
    def create(number: int) -> bool:
        try:
            storage.create_json("k.json", {"number": number})
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    assert storage.read_json("k.json")[0] == {"number": won.index(True)}


def test_nan_is_not_written(storage):
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.create_json("k.json", {"x": float("nan")})


def test_an_object_that_is_no_json_is_refused_by_name(storage, tmp_path):
    (tmp_path / "text").write_text("{")
    storage.upload_file(tmp_path / "text", "k.json")
    with pytest.raises(ArtifactError, match=r"k\.json: no valid JSON"):
        storage.read_json("k.json")


@pytest.mark.parametrize("key", ["/a", "a//b", "../a", "a/./b", "a/.."])
def test_keys_that_could_leave_the_prefix_are_refused(storage, key):
    with pytest.raises(StorageError, match="is no key"):
        storage.create_json(key, {})


def test_listing_keys_and_folders(storage):
    for key in ("e/runs/r2/run.json", "e/runs/r1/run.json", "e/runs/r1/a/b.json", "f/x.json"):
        storage.create_json(key, {})
    assert storage.list() == ["e/runs/r1/a/b.json", "e/runs/r1/run.json", "e/runs/r2/run.json", "f/x.json"]
    assert storage.list("f/") == ["f/x.json"]
    assert storage.list_folders("e/runs") == ["r1", "r2"]
    assert storage.list_folders("") == ["e", "f"]
    assert storage.list("nothing/") == []


def test_a_folder_comes_back_byte_for_byte(storage, policy, tmp_path):
    storage.upload_folder(policy, "e/policy")
    folder = read_folder(storage.download_folder("e/policy", tmp_path / "back"))
    for name in ("unet/weights.bin", "config.json", MANIFEST):
        assert (folder / name).read_bytes() == (policy / name).read_bytes()


def test_a_file_of_several_parts_comes_back(storage, tmp_path):
    with writing_folder(tmp_path / "large", producer={}) as folder:
        (folder / "file").write_bytes(b"0123456789abcdef" * (20 * 2**20 // 16))
    storage.upload_folder(tmp_path / "large", "large")
    read_folder(storage.download_folder("large", tmp_path / "back"))


def test_uploading_again_sends_nothing_and_other_contents_are_refused(storage, policy, tmp_path):
    storage.upload_folder(policy, "p")
    storage.upload_folder(policy, "p")
    with writing_folder(tmp_path / "other", producer={}) as folder:
        (folder / "config.json").write_text("{1}")
    with pytest.raises(ArtifactError, match="other contents") as caught:
        storage.upload_folder(tmp_path / "other", "p")
    assert "step update, run r1" in str(caught.value)
    storage.upload_folder(tmp_path / "other", "p", replace=True)
    assert (storage.download_folder("p", tmp_path / "back") / "config.json").read_text() == "{1}"


def test_an_upload_that_dies_anywhere_is_invisible_and_completes_when_run_again(storage, policy, tmp_path):
    number, died = 0, True
    while died:
        number += 1
        key = f"p{number}"
        try:
            with dying_before(storage, number):
                storage.upload_folder(policy, key)
            died = False
        except Killed:
            with pytest.raises(ArtifactError, match="no complete folder"):
                storage.download_folder(key, tmp_path / key)
            assert not (tmp_path / key).exists()
            storage.upload_folder(policy, key)
        read_folder(storage.download_folder(key, tmp_path / key))
    assert number == 7, "manifest read, two files each looked up and put, manifest put; the seventh was not reached"


def test_a_changed_object_is_refused_with_file_and_producer(storage, policy, tmp_path):
    storage.upload_folder(policy, "p")
    (tmp_path / "changed").write_bytes(b"\0" * 2560)
    storage.upload_file(tmp_path / "changed", "p/unet/weights.bin")
    with pytest.raises(ArtifactError, match=r"weights\.bin: its sha256 is") as caught:
        storage.download_folder("p", tmp_path / "back")
    assert "step update, run r1" in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_a_removed_object_is_refused_with_its_name(storage, policy, tmp_path):
    storage.upload_folder(policy, "p")
    prefix = storage.uri.removeprefix("s3://hrf/")
    storage._client.delete_object(Bucket="hrf", Key=f"{prefix}/p/unet/weights.bin")
    with pytest.raises(ArtifactError, match=r"p/unet/weights\.bin: the manifest lists it, but it is gone"):
        storage.download_folder("p", tmp_path / "back")


def test_check_passes_on_a_good_server_and_again(storage):
    storage.check()
    storage.check()


def opened(s3: EmbeddedS3, uri: str = "s3://hrf/x", **changes: str) -> Storage:
    return Storage.open(uri, environment=s3.environment() | changes)


def test_a_wrong_secret_is_named_and_not_shown(embedded_s3):
    with pytest.raises(StorageError, match="refuses the credentials") as caught:
        opened(embedded_s3, AWS_SECRET_ACCESS_KEY="wrong-secret-value").check()
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.fix
    assert "wrong-secret-value" not in str(caught.value)


def test_a_wrong_key_id_is_named(embedded_s3):
    with pytest.raises(StorageError, match="refuses the credentials"):
        opened(embedded_s3, AWS_ACCESS_KEY_ID="nobody").check()


def test_absent_credentials_are_named(embedded_s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", embedded_s3.endpoint)
    with pytest.raises(StorageError, match="no credentials were found"):
        Storage.open("s3://hrf/x").check()


def test_an_absent_bucket_is_named(embedded_s3):
    with pytest.raises(StorageError, match="there is no bucket 'absent'"):
        opened(embedded_s3, "s3://absent/x").check()


def test_a_bucket_that_goes_away_during_the_work_is_named_by_every_call(embedded_s3, policy, tmp_path):
    storage = opened(embedded_s3, "s3://short-lived/x")
    storage.create_bucket()
    etag = storage.create_json("k.json", {})
    storage._client.delete_object(Bucket="short-lived", Key="x/k.json")
    storage._client.delete_bucket(Bucket="short-lived")
    for call in (
        lambda: storage.read_json("k.json"),
        lambda: storage.create_json("k.json", {"n": 1}),
        lambda: storage.replace_json("k.json", {"n": 1}, etag),
        lambda: storage.list(),
        lambda: storage.upload_folder(policy, "p"),
        lambda: storage.upload_file(policy / "config.json", "c.json"),
        lambda: storage.download_folder("p", tmp_path / "back"),
    ):
        with pytest.raises(StorageError, match="there is no bucket 'short-lived'"):
            call()


def test_an_absent_server_is_named_within_seconds():
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"no answer from http://127\.0\.0\.1:9 \(EndpointConnectionError\)"):
        Storage.open("s3://hrf/x", environment=variables).check()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "http://user:hidden@127.0.0.1:9"])
def test_an_endpoint_that_is_no_plain_url_is_refused_without_showing_it(endpoint):
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL_S3": endpoint}
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3") as caught:
        Storage.open("s3://hrf/x", environment=variables)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["hrf/x", "s3://", "s3:///x", "s3://UPPER/x", "s3://hrf/a/../b", "s3://hrf/a?b", "s3://h"]
)
def test_what_is_no_s3_location_is_refused(uri):
    with pytest.raises(StorageError, match="no S3 location"):
        Storage.open(uri)


class CarelessServer(BaseHTTPRequestHandler):
    """An S3 server that stores whatever comes, whichever conditions are set, as some real ones do."""

    def do_GET(self) -> None:
        self._answer(b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>')

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def careless_endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), CarelessServer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_ignores_conditional_writes_is_refused(careless_endpoint):
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL_S3": careless_endpoint}
    with pytest.raises(StorageError, match=r"ignores conditional writes \(IfNoneMatch\)"):
        Storage.open("s3://hrf/x", environment=variables).check()
