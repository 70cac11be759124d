"""Object storage (S3): JSON records with conditional writes, and folders with manifests.

Access comes from the usual variables (`AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, ...) or whatever else boto3 finds.
No message holds a secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

from hrf.checkpoint import MANIFEST, Manifest, file_sha256, parse_manifest, read_folder, verify_file, writing_folder
from hrf.errors import ArtifactError, StorageError
from hrf.s3_client import ATTEMPTS, connect, error_code, explain_refusal, explain_silence

# Named, as within the class `list` is a method.
Keys: TypeAlias = list[str]

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_PRECONDITION = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_CHECK_KEY = ".write-check.json"
_MOST_DELETED = 1000
"""In one request (S3)."""


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

    Attributes:
        uri: `s3://bucket/prefix`.
    """

    def __init__(self, bucket: str, prefix: str, client: Any) -> None:
        self._bucket, self._prefix, self._client = bucket, prefix.strip("/"), client
        self.uri = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @classmethod
    def open(cls, uri: str, *, environment: Mapping[str, str] | None = None, attempts: int = ATTEMPTS) -> Self:
        """Make a client for `s3://bucket/prefix`; nothing is sent yet.

        Args:
            uri: Where everything is kept.
            environment: `AWS_*` variables to use instead of the process's own.
            attempts: How often a request is sent at most.

        Raises:
            StorageError: If the URI or the endpoint is malformed.
        """
        bucket, prefix = split_uri(uri)
        return cls(bucket, prefix, connect(uri, environment, attempts=attempts))

    def url(self, key: str) -> str:
        """The full `s3://` address of a key."""
        return f"{self.uri}/{key}"

    def create_bucket(self) -> None:
        """Make the bucket, unless it is there.

        Raises:
            StorageError: If the server refuses or does not answer.
        """
        with self._translated(""):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
                self._client.create_bucket(Bucket=self._bucket)

    def check(self) -> None:
        """Prove that the bucket can be listed, written and read, and that the server honours conditional writes.

        The promoted pointer is only safe on a server that refuses `If-None-Match` and `If-Match` where they don't hold;
        some ignore them, so that is tried on a small object.

        Raises:
            StorageError: Saying which of server, credentials, bucket, permission and conditional writes is missing, and
                the fix.
        """
        with self._translated(""):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._full(""), MaxKeys=1)
        body = b'{"purpose": "shows that this server honours conditional writes"}\n'
        with self._translated(_CHECK_KEY), _suppressed_precondition():
            self._put(_CHECK_KEY, body, IfNoneMatch="*")
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            with self._translated(_CHECK_KEY), _suppressed_precondition():
                self._put(_CHECK_KEY, body, **condition)
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
        """An object's bytes and its ETag, or None where there is none.

        Raises:
            StorageError: If the server cannot be asked.
        """
        with self._translated(key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._full(key))
                return answer["Body"].read(), answer["ETag"]
            except self._client.exceptions.ClientError as error:
                if error_code(error) in _ABSENT:
                    return None
                raise

    def read_json(self, key: str) -> tuple[Any, str] | None:
        """An object parsed as JSON and its ETag, or None where there is none.

        Raises:
            ArtifactError: If it is no JSON.
            StorageError: If the server cannot be asked.
        """
        found = self.read_bytes(key)
        if found is None:
            return None
        try:
            return json.loads(found[0]), found[1]
        except ValueError as error:
            raise ArtifactError(self.url(key), problem=f"no valid JSON: {error}", fix="restore the object") from error

    def create_json(self, key: str, value: object) -> str:
        """Write a new object and return its ETag; nothing is ever overwritten.

        An object that already holds exactly this value counts as written: it cannot be told from one's own write whose
        answer got lost on the way. Values of racing writers must therefore differ, if only one of them may win.

        Raises:
            Conflict: If the key holds another value.
            StorageError: If the server cannot be asked.
        """
        return self._write_json(key, value, IfNoneMatch="*")

    def replace_json(self, key: str, value: object, etag: str) -> str:
        """Replace exactly the version `etag` of an object and return the new ETag (compare-and-swap).

        As in `create_json`, finding one's own value there is success.

        Raises:
            Conflict: If the object has changed or gone in the meantime.
            StorageError: If the server cannot be asked.
        """
        return self._write_json(key, value, IfMatch=etag)

    def write_json(self, key: str, value: object) -> None:
        """Write an object, over whatever is there: for records of which the latest is the right one.

        Raises:
            StorageError: If the server cannot be asked.
        """
        with self._translated(key):
            self._put(key, _json_bytes(value))

    def contents_digest(self) -> str:
        """A digest of what lies below this place: of keys, sizes and ETags, without reading any object.

        Raises:
            StorageError: If nothing is there, or the server cannot be asked.
        """
        digest = hashlib.sha256()
        strip, empty = len(self._full("")), True
        with self._translated(""):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._full("")):
                for entry in page.get("Contents", []):
                    digest.update(f"{entry['Key'][strip:]} {entry['Size']} {entry['ETag']}\n".encode())
                    empty = False
        if empty:
            raise StorageError(self.uri, problem="nothing is there", fix="check the bucket and the prefix")
        return digest.hexdigest()

    def list(self, prefix: str = "") -> Keys:
        """All keys that start with `prefix`, sorted."""
        return self._list(prefix, "Contents", "Key")

    def list_folders(self, prefix: str) -> Keys:
        """The names directly below the folder `prefix` that hold keys themselves, sorted."""
        start = prefix.rstrip("/") + "/" if prefix else ""
        found = self._list(start, "CommonPrefixes", "Prefix", Delimiter="/")
        return [name.removeprefix(start).rstrip("/") for name in found]

    def delete(self, prefix: str) -> None:
        """Delete all keys that start with `prefix`; what is gone already is no error.

        Raises:
            StorageError: If the server refuses or does not answer.
        """
        keys = self.list(prefix)
        with self._translated(prefix):
            for first in range(0, len(keys), _MOST_DELETED):
                objects = [{"Key": self._full(key)} for key in keys[first : first + _MOST_DELETED]]
                self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})

    def upload_file(self, path: str | Path, key: str) -> None:
        """Upload a file, in parts where it is large, unless the same bytes are already there.

        Raises:
            StorageError: If the server refuses or does not answer.
        """
        self._upload(Path(path), key, file_sha256(path))

    def upload_folder(self, folder: str | Path, key: str, *, replace: bool = False) -> Manifest:
        """Upload a folder that `writing_folder` wrote, its manifest last: a folder with a manifest is complete.

        Args:
            folder: The folder, verified first.
            key: Its place.
            replace: Whether a complete folder with other contents may be overwritten there.

        Returns:
            The manifest of the folder.

        Raises:
            ArtifactError: If the folder is damaged, or a complete one with other contents is there already.
            StorageError: If the server refuses or does not answer.
        """
        folder = read_folder(folder)
        text = (folder / MANIFEST).read_text(encoding="utf-8")
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
        with self._translated(f"{key}/{MANIFEST}"):
            self._put(f"{key}/{MANIFEST}", text.encode())
        return manifest

    def read_manifest(self, key: str) -> Manifest | None:
        """The manifest of a folder in storage, or None where no complete folder is.

        Raises:
            ArtifactError: If it is damaged or of another format version.
        """
        found = self.read_bytes(f"{key}/{MANIFEST}")
        if found is None:
            return None
        return parse_manifest(found[0].decode(errors="replace"), self.url(f"{key}/{MANIFEST}"))

    def download_folder(self, key: str, target: str | Path) -> Path:
        """Download a folder and verify it; it appears at `target` whole or not at all.

        Raises:
            ArtifactError: If no complete folder is there, or a file is not what its producer wrote.
            StorageError: If the server refuses or does not answer, or the disk is full.
        """
        manifest = self.read_manifest(key)
        if manifest is None:
            raise ArtifactError(
                self.url(key), problem="no complete folder is there", fix="check the key; run the step that uploads it"
            )
        target = Path(target)
        with writing_folder(target, producer=manifest.producer) as partial:
            for name, entry in manifest.files.items():
                self._download(f"{key}/{name}", partial / name, manifest.describe_producer())
                verify_file(partial / name, entry, f"{manifest.describe_producer()}; from {self.url(key)}")
        return target

    def download_all(self, target: str | Path) -> Path:
        """Download everything below this place, such as a model that another tool has put there.

        Raises:
            StorageError: If nothing is there, the server refuses or does not answer, or the disk is full.
        """
        keys = self.list()
        if not keys:
            raise StorageError(self.uri, problem="nothing is there", fix="check the bucket and the prefix")
        for key in keys:
            self._download(key.removeprefix("/"), Path(target) / key.removeprefix("/"), producer="another tool")
        return Path(target)

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
        return str(answer["ETag"])

    def _write_json(self, key: str, value: object, **condition: str) -> str:
        body = _json_bytes(value)
        with self._translated(key):
            try:
                return self._put(key, body, **condition)
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _PRECONDITION | _ABSENT:
                    raise
        found = self.read_bytes(key)
        if found is not None and found[0] == body:
            return found[1]
        raise Conflict(self.url(key), problem="another writer was faster", fix="read it again and decide anew")

    def _list(self, prefix: str, group: str, field: str, **options: str) -> Keys:
        strip = len(self._full(""))
        found: Keys = []
        with self._translated(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._full(prefix), **options):
                found += [entry[field][strip:] for entry in page.get(group, [])]
        return sorted(found)

    def _upload(self, path: Path, key: str, digest: str) -> None:
        with self._translated(key):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._full(key))
                if head["ContentLength"] == path.stat().st_size and head["Metadata"].get("sha256") == digest:
                    return
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
            extra = {"Metadata": {"sha256": digest}}
            self._client.upload_file(str(path), self._bucket, self._full(key), ExtraArgs=extra)

    def _download(self, key: str, path: Path, producer: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated(key):
            try:
                self._client.download_file(self._bucket, self._full(key), str(path))
            except self._client.exceptions.ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
                raise ArtifactError(
                    self.url(key),
                    problem="the manifest lists it, but it is gone",
                    producer=producer,
                    fix="upload it again",
                ) from error

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn boto's errors into a StorageError that says what is wrong and how to put it right."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            problem, fix = explain_refusal(error, self._bucket)
            raise StorageError(self.url(key), problem=problem, fix=fix) from error
        except (BotoCoreError, Boto3Error) as error:
            cause = error.__context__ if isinstance(error, Boto3Error) else error
            if isinstance(cause, ClientError):
                problem, fix = explain_refusal(cause, self._bucket)
            else:
                problem, fix = explain_silence(cause or error, str(self._client.meta.endpoint_url))
            raise StorageError(self.url(key), problem=problem, fix=fix) from error


@contextmanager
def _suppressed_precondition() -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error_code(error) not in _PRECONDITION:
            raise


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _is_key(key: str) -> bool:
    return all(part not in ("", ".", "..") for part in key.split("/"))
