"""Object storage (S3): sealed JSON records with conditional writes, and folders with manifests.

Access comes from the usual variables (`AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, ...) or whatever else boto3 finds.
No message holds a secret. Whatever fails on the way is tried again; then it is a StorageError.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self, TypeAlias, TypeVar

from hrf.errors import ArtifactError, HrfError, StorageError
from hrf.storage.folders import (
    MANIFEST,
    Manifest,
    file_sha256,
    parse_manifest,
    read_folder,
    seal,
    unseal,
    verify_file,
    writing_folder,
)
from hrf.storage.s3 import (
    ATTEMPTS,
    BUSY,
    BrokenAnswer,
    broken_answers,
    connect,
    error_code,
    explain_refusal,
    explain_silence,
)

# Named, as within the class `list` is a method.
Keys: TypeAlias = list[str]
Entries: TypeAlias = list[Mapping[str, Any]]
Answer = TypeVar("Answer")

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_PRECONDITION = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_CHECK_KEY = ".write-check.json"
_MOST_DELETED = 1000
"""In one request (S3)."""
_PAUSE_SECONDS = 0.2
_LONGEST_NAME = 255
"""Of a file, in bytes (Linux)."""
RESTORE = "restore it, from the bucket's own versions or a copy"


def split_uri(uri: str) -> tuple[str, str]:
    """The bucket and the prefix of `s3://bucket/prefix`.

    Raises:
        StorageError: If it is none.
    """
    match = _URI.fullmatch(uri)
    prefix = ((match["prefix"] or "") if match else "").strip("/")
    if match is None or not _is_key(prefix or "x"):
        raise StorageError(uri, problem="no S3 location", fix="write s3://BUCKET or s3://BUCKET/PREFIX")
    return match["bucket"], prefix


class Conflict(StorageError):  # noqa: N818 - it is an outcome that callers expect, not a fault.
    """A conditional write found another object, or another version of it, than it asked for."""


class Storage:
    """One prefix of one bucket. Keys are relative to the prefix.

    Whatever asks the server raises a StorageError where that refuses or does not answer, with the fix.

    Attributes:
        uri: `s3://bucket/prefix`.
    """

    def __init__(self, bucket: str, prefix: str, client: Any, attempts: int = ATTEMPTS) -> None:
        self._bucket, self._prefix, self._client, self._attempts = bucket, prefix.strip("/"), client, attempts
        self.uri = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @classmethod
    def open(cls, uri: str, *, environment: Mapping[str, str] | None = None, attempts: int = ATTEMPTS) -> Self:
        """Make a client for `s3://bucket/prefix`; nothing is sent yet.

        Args:
            uri: Where everything is kept.
            environment: `AWS_*` variables to use instead of the process's own.
            attempts: How often a request is sent at most.

        Raises:
            StorageError: If the URI, the endpoint or a file of AWS settings is malformed.
        """
        bucket, prefix = split_uri(uri)
        return cls(bucket, prefix, connect(uri, environment, attempts=attempts), attempts)

    def url(self, key: str) -> str:
        """The full `s3://` address of a key."""
        return f"{self.uri}/{key}"

    def create_bucket(self) -> None:
        """Make the bucket, unless it is there."""

        def create() -> None:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
                self._client.create_bucket(Bucket=self._bucket)

        self._ask("", create)

    def check(self) -> None:
        """Prove that the bucket can be listed, written and read, and that the server honours conditional writes.

        The promoted pointer is only safe on a server that refuses `If-None-Match` and `If-Match` where they don't hold;
        some ignore them, so that is tried on a small object.

        Raises:
            StorageError: Saying which of server, credentials, bucket, permission and conditional writes is missing, and
                the fix.
        """
        self._ask("", lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._full(""), MaxKeys=1))
        body = b'{"purpose": "shows that this server honours conditional writes"}\n'
        self._put_if(_CHECK_KEY, body, IfNoneMatch="*")
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            if self._put_if(_CHECK_KEY, body, **condition) is not None:
                raise StorageError(
                    self.url(_CHECK_KEY),
                    problem=f"the server ignores conditional writes ({next(iter(condition))})",
                    fix="use a store that honours them, such as AWS S3 or SeaweedFS; without them one promotion could"
                    " overwrite another",
                )
        # A server that has just started may answer for names before it can deliver contents.
        if self.read_bytes(_CHECK_KEY) is None:
            raise StorageError(
                self.url(_CHECK_KEY),
                problem="what was written there can't be found",
                fix="use a store that shows an object as soon as it is written; an expiry rule must not remove it",
            )

    def read_bytes(self, key: str) -> tuple[bytes, str] | None:
        """An object's bytes and its ETag, or None where there is none."""

        def read() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._full(key))
            except self._client.exceptions.ClientError as error:
                if error_code(error) in _ABSENT:
                    return None
                raise
            with broken_answers(while_reading=True):
                return answer["Body"].read(), self._etag(answer)

        return self._ask(key, read)

    def read_json(self, key: str, *, if_damaged: str = RESTORE) -> tuple[dict[str, Any], str] | None:
        """A sealed JSON object and its ETag, or None where there is none.

        Raises:
            ArtifactError: If it is not what was written.
        """
        found = self.read_bytes(key)
        return None if found is None else (unseal(found[0], self.url(key), fix=if_damaged), found[1])

    def create_json(self, key: str, value: Mapping[str, Any]) -> str:
        """Write a new object, sealed, and return its ETag; nothing is ever overwritten.

        An object that already holds exactly this value counts as written: it cannot be told from one's own write whose
        answer got lost on the way. Values of racing writers must therefore differ, if only one of them may win.

        Raises:
            Conflict: If the key holds another value.
        """
        return self._write_json(key, value, IfNoneMatch="*")

    def replace_json(self, key: str, value: Mapping[str, Any], etag: str) -> str:
        """Replace exactly the version `etag` of an object and return the new ETag (compare-and-swap).

        As in `create_json`, finding one's own value there is success.

        Raises:
            Conflict: If the object has changed or gone in the meantime.
        """
        return self._write_json(key, value, IfMatch=etag)

    def write_json(self, key: str, value: Mapping[str, Any]) -> None:
        """Write an object, sealed, over whatever is there: for records of which the latest is the right one."""
        body = _json_bytes(value)
        self._ask(key, lambda: self._put(key, body))

    def contents_digest(self) -> str:
        """A digest of what `download_all` brings: of keys, sizes and ETags, without reading any object.

        Raises:
            StorageError: If nothing is there, it can't be a folder, or the server cannot be asked.
        """
        digest = hashlib.sha256()
        for key, entry in self._files().items():
            digest.update(f"{key} {entry['Size']} {entry['ETag']}\n".encode())
        return digest.hexdigest()

    def list(self, prefix: str = "") -> Keys:
        """All keys that start with `prefix`, sorted, without the empty objects that stand for folders."""
        return sorted(entry["Key"] for entry in self._listed(prefix, "Contents") if not _is_folder(entry))

    def list_folders(self, prefix: str) -> Keys:
        """The names directly below the folder `prefix` that hold keys themselves, sorted."""
        start = prefix.rstrip("/") + "/" if prefix else ""
        found = self._listed(start, "CommonPrefixes", Delimiter="/")
        return sorted(entry["Prefix"].removeprefix(start).rstrip("/") for entry in found)

    def delete(self, prefix: str) -> None:
        """Delete all keys that start with `prefix`; what is gone already is no error."""
        keys = sorted(entry["Key"] for entry in self._listed(prefix, "Contents"))
        for first in range(0, len(keys), _MOST_DELETED):
            self._delete_keys(keys[first : first + _MOST_DELETED])

    def upload_file(self, path: str | Path, key: str) -> None:
        """Upload a file, in parts where it is large, unless the same bytes are already there."""
        self._upload(Path(path), key, file_sha256(path))

    def upload_folder(self, folder: str | Path, key: str, *, replace: bool = False) -> Manifest:
        """Upload a folder that `writing_folder` wrote, its manifest last: a folder with a manifest is complete.

        Args:
            folder: The folder, verified first.
            key: Its place.
            replace: Whether a complete folder with other contents may be overwritten there.

        Raises:
            ArtifactError: If the folder is damaged, or a complete one with other contents is there already.
        """
        folder = read_folder(folder)
        text = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(text, folder / MANIFEST)
        there = self.read_manifest(key)
        if there is not None and there.files == manifest.files:
            return there
        if there is not None and not replace:
            raise ArtifactError(
                self.url(key),
                problem=f"other contents than those of {folder} are there already",
                producer=there.describe_producer(),
                fix="run ids must not be used twice: start again under a new one (hrf run --fresh)",
            )
        for name, entry in manifest.files.items():
            self._upload(folder / name, f"{key}/{name}", entry["sha256"])
        self._ask(f"{key}/{MANIFEST}", lambda: self._put(f"{key}/{MANIFEST}", text))
        return manifest

    def read_manifest(self, key: str) -> Manifest | None:
        """The manifest of a folder in storage, or None where no complete folder is.

        Raises:
            ArtifactError: If it is damaged or of another format version.
        """
        found = self.read_bytes(f"{key}/{MANIFEST}")
        if found is None:
            return None
        return parse_manifest(found[0], self.url(f"{key}/{MANIFEST}"))

    def download_folder(self, key: str, target: str | Path) -> Path:
        """Download a folder and verify it; it appears at `target` whole or not at all.

        Raises:
            ArtifactError: If no complete folder is there, or a file is not what its producer wrote.
            StorageError: If the server refuses or does not answer, or the disk is full.
        """
        manifest = self._whole_manifest(key)
        target = Path(target)
        with writing_folder(target, producer=manifest.producer) as partial:
            for name, entry in manifest.files.items():
                gone = ArtifactError(
                    self.url(f"{key}/{name}"),
                    problem="the manifest lists it, but it is gone",
                    producer=manifest.describe_producer(),
                    fix="upload it again",
                )
                self._download(f"{key}/{name}", partial / name, gone)
                verify_file(partial / name, entry, f"{manifest.describe_producer()}; from {self.url(key)}")
        return target

    def read_file(self, key: str, name: str, *, content_digest: str) -> bytes:
        """One file of a folder with contents of this digest, verified without the others.

        Raises:
            ArtifactError: If no complete folder is there, it is another one, or the file is not as it was written.
        """
        manifest = self._whole_manifest(key)
        file, producer = self.url(f"{key}/{name}"), manifest.describe_producer()
        if manifest.content_digest() != content_digest:
            raise ArtifactError(
                self.url(key), problem=f"its digest is not {content_digest}", producer=producer, fix=RESTORE
            )
        found = self.read_bytes(f"{key}/{name}")
        if found is None or name not in manifest.files:
            raise ArtifactError(file, problem="it is gone", producer=producer, fix=RESTORE)
        if hashlib.sha256(found[0]).hexdigest() != manifest.files[name]["sha256"]:
            raise ArtifactError(file, problem="its sha256 is not the manifest's", producer=producer, fix=RESTORE)
        return found[0]

    def download_all(self, target: str | Path) -> Path:
        """Download everything below this place, such as a model that another tool has put there.

        Raises:
            StorageError: If nothing is there, it can't be a folder, the server refuses or does not answer, or the disk
                is full.
        """
        for key in self._files():
            gone = StorageError(
                self.url(key), problem="it went away meanwhile", fix="see who else changes it; run again"
            )
            self._download(key, Path(target) / key, gone)
        return Path(target)

    def download_file(self, key: str, target: Path) -> None:
        """Download one object to a file, a piece at a time.

        Raises:
            StorageError: If there is none, the server refuses or does not answer.
        """
        gone = StorageError(self.url(key), problem="nothing is there", fix="check the bucket and the key")
        self._download(key, target, gone)

    def _whole_manifest(self, key: str) -> Manifest:
        manifest = self.read_manifest(key)
        if manifest is None:
            raise ArtifactError(
                self.url(key), problem="no complete folder is there", fix="check the key; run the step that uploads it"
            )
        return manifest

    def _files(self) -> dict[str, Mapping[str, Any]]:
        """What lies below this place, by keys that can be names of files in one folder."""
        entries = sorted(self._listed("", "Contents"), key=lambda entry: str(entry["Key"]))
        files = {str(entry["Key"]): entry for entry in entries if not _is_folder(entry)}
        if not files:
            raise StorageError(self.uri, problem="nothing is there", fix="check the bucket and the prefix")
        for key in files:
            if not _is_key(key) or any(len(part.encode()) > _LONGEST_NAME for part in key.split("/")):
                raise StorageError(
                    self.url(key),
                    problem="it can't be a file of a folder, for its name",
                    fix="rename the object, so that no part between slashes is empty, '.', '..' or longer than"
                    f" {_LONGEST_NAME} bytes",
                )
            above = next((str(path) for path in PurePosixPath(key).parents if str(path) in files), None)
            if above is not None:
                raise StorageError(
                    self.url(key),
                    problem=f"there is an object {above}, too, and no file can lie in another",
                    fix="remove one of them",
                )
        return files

    def _full(self, key: str) -> str:
        if key and not _is_key(key.removesuffix("/")):
            raise StorageError(
                self.uri,
                problem=f"{key!r} is no key",
                fix="use names without empty, '.' and '..' parts between slashes",
            )
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, body: bytes, **conditions: str) -> str:
        kind = {"ContentType": "application/json"} if key.endswith(".json") else {}
        answer = self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=body, **kind, **conditions)
        return self._etag(answer)

    def _etag(self, answer: Mapping[str, Any]) -> str:
        if "ETag" not in answer:
            raise StorageError(
                self.uri,
                problem="the server sends no ETag, by which a version of an object is known",
                fix="use a store that does, such as AWS S3 or SeaweedFS; a proxy must let the header through",
            )
        return str(answer["ETag"])

    def _put_if(self, key: str, body: bytes, **condition: str) -> str | None:
        """Write an object if a condition holds; None if it does not."""

        def put() -> str | None:
            try:
                return self._put(key, body, **condition)
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _PRECONDITION | _ABSENT:
                    raise
                return None

        return self._ask(key, put, conditional=True)

    def _write_json(self, key: str, value: Mapping[str, Any], **condition: str) -> str:
        body = _json_bytes(value)
        if (etag := self._put_if(key, body, **condition)) is not None:
            return etag
        found = self.read_bytes(key)
        if found is not None and found[0] == body:
            return found[1]
        raise Conflict(self.url(key), problem="another writer was faster", fix="read it again and decide anew")

    def _listed(self, prefix: str, group: str, **options: str) -> Entries:
        """A listing's entries, with keys as this class has them."""
        strip = len(self._full(""))

        def pages() -> Entries:
            paginator = self._client.get_paginator("list_objects_v2")
            found = paginator.paginate(Bucket=self._bucket, Prefix=self._full(prefix), **options)
            return [entry for page in found for entry in page.get(group, [])]

        entries = self._ask(prefix, pages)
        return [
            {name: value[strip:] if name in ("Key", "Prefix") else value for name, value in entry.items()}
            for entry in entries
        ]

    def _delete_keys(self, keys: Keys) -> None:
        for attempt in range(1, self._attempts + 1):
            objects = {"Objects": [{"Key": self._full(key)} for key in keys], "Quiet": True}
            request = functools.partial(self._client.delete_objects, Bucket=self._bucket, Delete=objects)
            answer = self._ask(keys[0], request)
            failed = {entry["Key"][len(self._full("")) :]: str(entry.get("Code")) for entry in answer.get("Errors", [])}
            if not failed:
                return
            keys = sorted(failed)
            if attempt == self._attempts or not BUSY.issuperset(failed.values()):
                break
            time.sleep(_PAUSE_SECONDS * attempt)
        others = f", and {len(keys) - 1} more objects" if len(keys) > 1 else ""
        raise StorageError(
            self.url(keys[0]),
            problem=f"the server does not delete it ({failed[keys[0]]}){others}",
            fix="give these credentials the right to delete here, and end what locks or retains the objects",
        )

    def _upload(self, path: Path, key: str, digest: str) -> None:
        def upload() -> None:
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._full(key))
                if head.get("ContentLength") == path.stat().st_size and head["Metadata"].get("sha256") == digest:
                    return
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
            extra = {"Metadata": {"sha256": digest}}
            self._client.upload_file(str(path), self._bucket, self._full(key), ExtraArgs=extra)

        self._ask(key, upload)

    def _download(self, key: str, path: Path, gone: HrfError) -> None:
        place = self._full(key)
        path.parent.mkdir(parents=True, exist_ok=True)

        def download() -> None:
            try:
                self._client.download_file(self._bucket, place, str(path))
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
                raise gone from error

        self._ask(key, download)

    def _ask(self, key: str, request: Callable[[], Answer], *, conditional: bool = False) -> Answer:
        """Send requests, and once more where an answer did not arrive whole: boto only does so for short ones.

        Raises:
            StorageError: The server refuses or does not answer. It says what is wrong and how to put it right.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                with self._translated(key, conditional=conditional), broken_answers():
                    return request()
            except BrokenAnswer as error:
                if attempt == self._attempts:
                    raise StorageError(
                        self.url(key),
                        problem=f"no answer arrives whole ({error}), also after {attempt} attempts",
                        fix="look at the network between here and the server, and at proxies; run again",
                    ) from error
                time.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError("there is at least one attempt")

    @contextmanager
    def _translated(self, key: str, *, conditional: bool) -> Iterator[None]:
        """Turn boto's errors into a StorageError that says what is wrong and how to put it right."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            cause: BaseException = error
            if isinstance(error, Boto3Error):
                cause = getattr(error, "last_exception", None) or error.__context__ or error
            if isinstance(cause, ClientError):
                problem, fix = explain_refusal(cause, self._bucket, conditional=conditional)
            else:
                problem, fix = explain_silence(cause, str(self._client.meta.endpoint_url))
            raise StorageError(self.url(key), problem=problem, fix=fix) from error


def _is_folder(entry: Mapping[str, Any]) -> bool:
    """Whether it is an empty object for a folder, `unet/`, as consoles and tools that synchronise leave them.

    The place itself is among them.
    """
    return bool(entry["Size"] == 0 and (not entry["Key"] or entry["Key"].endswith("/")))


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(seal(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _is_key(key: str) -> bool:
    return all(part not in ("", ".", "..") for part in key.split("/"))
