"""What S3 servers answer that is not what was asked for, and what this machine's own AWS settings say beside it."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from hrf.errors import ArtifactError, StorageError
from hrf.promotion.protocol import history
from hrf.storage.folders import writing_folder
from hrf.storage.objects import Storage
from hrf.storage.s3 import ATTEMPTS, adopt, process_variables
from hrf.storage.weights import PinnedWeights, digest_of, weights_file
from tests.hrf.storage.answering_s3 import LISTING, Answer, answering, listing, refusal

OTHER_SETTINGS = ("no profile", "damaged files")
WHOLE = Answer(body="content", headers={"ETag": '"1"'})


@pytest.fixture
def other_settings(request, tmp_path, monkeypatch) -> str:
    """AWS settings of another machine or another storage; the name of the variable that is to blame."""
    if request.param == "no profile":
        monkeypatch.setenv("AWS_PROFILE", "not-on-this-machine")
        return "AWS_PROFILE"
    (tmp_path / "damaged").write_text("[default\nregion = x\n")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "damaged"))
    return "AWS_CONFIG_FILE"


def opened(s3, uri: str = "s3://bucket/prefix") -> Storage:
    return Storage.open(uri, environment=s3.environment)


class TestSettings:
    @pytest.mark.parametrize("other_settings", OTHER_SETTINGS, indirect=True)
    def test_those_of_other_storages_play_no_part_for_a_server_of_ones_own(self, other_settings, embedded_s3):
        Storage.open("s3://hrf/x", environment=embedded_s3.environment()).check()

    @pytest.mark.parametrize("other_settings", OTHER_SETTINGS, indirect=True)
    def test_nor_for_the_processes_that_work_with_it(self, other_settings, embedded_s3, monkeypatch):
        monkeypatch.setattr(os, "environ", dict(os.environ))
        adopt(embedded_s3.environment())
        Storage.open("s3://hrf/x").check()

    def test_variables_without_a_storage_stay_as_they_are(self, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "mine")
        assert process_variables({"HRF_X": "1"}) == {**os.environ, "HRF_X": "1"}
        assert "AWS_PROFILE" not in process_variables({"AWS_ACCESS_KEY_ID": "a"})

    @pytest.mark.parametrize("other_settings", OTHER_SETTINGS, indirect=True)
    def test_with_a_storage_of_ones_own_what_is_wrong_is_told_by_its_variable(self, s3_environment, other_settings):
        with pytest.raises(StorageError, match=other_settings):
            Storage.open("s3://hrf/x")

    @pytest.mark.parametrize(
        ("variables", "region"),
        [
            ({}, "us-east-1"),
            ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
            ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
            ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-central-1"),
        ],
    )
    @pytest.mark.parametrize("own", [True, False])
    def test_the_region_reaches_the_signature(self, variables, region, own, monkeypatch):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        with answering(lambda *_: Answer(body=LISTING.format(""))) as s3:
            for name, value in {**s3.environment, **variables}.items():
                monkeypatch.setenv(name, value)
            Storage.open("s3://bucket/prefix", environment=None if own else {**s3.environment, **variables}).list()
        assert s3.headers[0]["Authorization"].split("/")[2] == region


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "status", "words"),
        [
            ("RequestTimeTooSkewed", 403, ("clock", "NTP")),
            ("AuthorizationHeaderMalformed", 400, ("region", "AWS_REGION", "eu-west-3")),
            ("PermanentRedirect", 301, ("region", "AWS_REGION")),
            ("SlowDown", 503, ("too much to do", "wait")),
            ("NoSuchBucket", 404, ("no bucket 'bucket'", "create the bucket")),
            ("AccessDenied", 403, ("may not do that", "AWS_ACCESS_KEY_ID")),
            ("InternalError", 500, ("InternalError", "server's log")),
        ],
    )
    def test_each_says_what_to_do(self, code, status, words):
        with answering(lambda *_: refusal(code, status)) as s3, pytest.raises(StorageError) as caught:
            opened(s3).list()
        assert [word for word in words if word not in str(caught.value)] == []

    @pytest.mark.parametrize("conditional", [True, False])
    def test_one_of_a_conditional_write_that_the_server_does_not_know_says_so(self, conditional):
        with answering(lambda *_: refusal("NotImplemented", 501)) as s3, pytest.raises(StorageError) as caught:
            (opened(s3).create_json if conditional else opened(s3).write_json)("k.json", {})
        assert ("conditional writes" in str(caught.value)) == conditional

    def test_an_answer_without_an_etag_is_told(self):
        with answering(lambda *_: Answer(body="{}")) as s3, pytest.raises(StorageError, match="sends no ETag"):
            opened(s3).read_bytes("k.json")


BROKEN = {
    "a whole body cut": Answer(body="content", headers={"ETag": '"1"'}, cut=3),
    "a whole body reset": Answer(body="content", headers={"ETag": '"1"'}, cut=3, resets=True),
    "chunks cut": Answer(body="content", headers={"ETag": '"1"'}, cut=6, chunked=True),
    "a refusal cut": Answer(status=404, body="<Error><Code>NoSuchBucket</Code></Error>", cut=12),
    "a refusal reset": Answer(status=404, body="<Error><Code>NoSuchKey</Code></Error>", cut=12, resets=True),
    "chunks of a refusal cut": Answer(status=404, body="<Error><Code>NoSuchKey</Code></Error>", cut=9, chunked=True),
    "a fault cut": Answer(status=500, body="<Error><Code>InternalError</Code></Error>", cut=12, chunked=True),
}


class TestBrokenAnswers:
    @pytest.mark.parametrize("name", BROKEN)
    def test_reading_is_tried_again(self, name):
        with answering(lambda _, number: BROKEN[name] if number < ATTEMPTS else WHOLE) as s3:
            assert opened(s3).read_bytes("k") == (b"content", '"1"')
        assert len(s3.asked) == ATTEMPTS

    def test_a_body_that_stalls_is_tried_again(self, monkeypatch):
        monkeypatch.setattr("hrf.storage.s3._READ_SECONDS", 0.5)
        stalled = Answer(body="content", headers={"ETag": '"1"'}, cut=3, stalls_seconds=2.0)
        with answering(lambda _, number: stalled if number == 1 else WHOLE) as s3:
            assert opened(s3).read_bytes("k") == (b"content", '"1"')
        assert len(s3.asked) == 2

    @pytest.mark.parametrize("name", BROKEN)
    def test_at_last_it_is_a_storage_error(self, name):
        with answering(lambda *_: BROKEN[name]) as s3, pytest.raises(StorageError):
            opened(s3).read_bytes("k")

    @pytest.mark.parametrize("resets", [True, False])
    def test_a_listing_is_whole_or_tried_again(self, resets):
        """Kills: a body that breaks off between two entries, and is taken for all of them."""
        whole = listing(**{"prefix/a": 1, "prefix/b": 2})
        end = whole.body.index("<Contents><Key>prefix/b")
        cut = Answer(body=whole.body, cut=end, resets=resets)
        with answering(lambda _, number: cut if number == 1 else whole) as s3:
            assert opened(s3).list() == ["a", "b"]

    def test_a_file_is_whole_or_tried_again(self, tmp_path):
        def answer(asked: str, number: int) -> Answer:
            if asked.startswith("HEAD"):
                return WHOLE
            return BROKEN["chunks of a refusal cut"] if number == 2 else WHOLE

        with answering(answer) as s3:
            opened(s3).download_file("k", tmp_path / "k")
        assert (tmp_path / "k").read_bytes() == b"content"


class TestDeleting:
    ERROR = "<DeleteResult><Error><Key>prefix/b</Key><Code>{}</Code></Error></DeleteResult>"

    def ask(self, code: str, times: int):
        def answer(asked: str, number: int) -> Answer:
            if asked.startswith("GET"):
                return listing(**{"prefix/a": 1, "prefix/b": 1})
            return Answer(body=self.ERROR.format(code) if number <= 1 + times else "<DeleteResult/>")

        return answering(answer)

    def test_a_key_that_the_server_keeps_is_told(self):
        with self.ask("AccessDenied", 1) as s3, pytest.raises(StorageError, match=r"prefix/b: .* \(AccessDenied\)"):
            opened(s3).delete("")
        assert len(s3.asked) == 2, "what is forbidden is not tried again"

    @pytest.mark.parametrize("times", [1, ATTEMPTS])
    def test_a_key_that_was_left_for_now_is_tried_again(self, times):
        with self.ask("SlowDown", times) as s3:
            if times < ATTEMPTS:
                opened(s3).delete("")
            else:
                with pytest.raises(StorageError, match="SlowDown"):
                    opened(s3).delete("")
        assert len(s3.asked) == 1 + min(times + 1, ATTEMPTS)


class TestFoldersOfOthers:
    def test_folder_objects_are_no_files_and_change_no_digest(self, storage, tmp_path):
        (tmp_path / "file").write_text("x")
        for key in ("model/model_index.json", "model/unet/config.json"):
            storage.upload_file(tmp_path / "file", key)
        model = Storage.open(f"{storage.uri}/model")
        before = model.contents_digest()
        prefix = storage.uri.removeprefix("s3://hrf/")
        for key in ("model/", "model/unet/", "model/empty/"):
            storage._client.put_object(Bucket="hrf", Key=f"{prefix}/{key}", Body=b"")
        assert model.contents_digest() == before
        target = model.download_all(tmp_path / "model")
        found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
        assert found == ["model_index.json", "unet/config.json"]

    def test_folder_objects_among_records_are_none_and_go_with_them(self, storage):
        prefix = storage.uri.removeprefix("s3://hrf/")
        for key in ("e/history/", "e/"):
            storage._client.put_object(Bucket="hrf", Key=f"{prefix}/{key}", Body=b"")
        assert history(storage, "e") == []
        storage.create_json("e/history/000001.json", {})
        assert storage.list("e/") == ["e/history/000001.json"]
        storage.delete("e/")
        listed = storage._client.list_objects_v2(Bucket="hrf", Prefix=f"{prefix}/e/")
        assert listed.get("Contents", []) == []

    @pytest.mark.parametrize(
        "keys",
        [
            ["../../evil/x"],
            ["a/../../x"],
            ["/x"],
            ["a//x"],
            ["./x"],
            ["x/"],
            ["x" * 256],
            ["unet", "unet/config.json"],
            ["a", "a/b/c"],
        ],
    )
    def test_names_that_can_not_be_files_of_one_folder_are_refused_before_anything_is_made(self, keys, tmp_path):
        told = listing(**{f"prefix/{key}": 1 for key in keys})
        with answering(lambda *_: told) as s3, pytest.raises(StorageError, match=r"s3://bucket/prefix/.*Fix: re"):
            opened(s3).download_all(tmp_path / "inner" / "model")
        assert list(tmp_path.iterdir()) == []

    def test_a_key_of_a_folder_is_checked_before_a_directory_is_made(self, storage, tmp_path):
        with pytest.raises(StorageError, match="is no key"):
            storage.download_file("../../evil/x", tmp_path / "inner" / "x")
        assert list(tmp_path.iterdir()) == []


def test_one_file_of_a_folder_is_verified_without_the_others(storage, tmp_path):
    """Kills: the file, or the manifest, taken as it comes."""
    digests = {}
    for name in ("first", "second"):
        with writing_folder(tmp_path / name, producer={"step": name}) as folder:
            (folder / "a.json").write_text(name)
            (folder / "b.bin").write_text("b")
        digests[name] = storage.upload_folder(tmp_path / name, name).content_digest()
    assert storage.read_file("first", "a.json", content_digest=digests["first"]) == b"first"
    with pytest.raises(ArtifactError, match="its digest is not"):
        storage.read_file("first", "a.json", content_digest=digests["second"])
    (tmp_path / "other").write_text("other")
    storage.upload_file(tmp_path / "other", "first/a.json")
    with pytest.raises(ArtifactError, match=r"a\.json: its sha256 is not the manifest's .*step first"):
        storage.read_file("first", "a.json", content_digest=digests["first"])
    storage.delete("first/a.json")
    with pytest.raises(ArtifactError, match=r"a\.json: it is gone"):
        storage.read_file("first", "a.json", content_digest=digests["first"])


def test_weights_are_fetched_without_being_held_in_memory(storage, tmp_path, monkeypatch):
    """Kills: the whole file read at once."""
    size = 96 * 2**20
    file = tmp_path / "large.safetensors"
    with open(file, "wb") as stream:
        stream.truncate(size)
    storage.upload_file(file, "large.safetensors")
    digest = digest_of(Path(file))
    monkeypatch.setenv("HRF_CACHE_DIR", str(tmp_path / "cache"))
    tracemalloc.start()
    try:
        kept = weights_file(PinnedWeights(source=f"{storage.uri}/large.safetensors", sha256=digest), "reward.head")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept.stat().st_size == size
    assert peak < size / 2
