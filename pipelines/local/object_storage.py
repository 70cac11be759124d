"""Which object storage a command on this machine works with: a configured one, or a server of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hrf.errors import ConfigError, StorageError
from hrf.storage.folders import full_disk_error
from hrf.storage.objects import Storage
from hrf.storage.secrets import check_secrets

#: Any of these says that there is a storage to use.
CONFIGURED_BY = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
BUCKET = "HRF_BUCKET"
EMBEDDED_BUCKET = "hrf"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where objects are kept, and how to reach it."""

    uri: str
    """`s3://bucket`, or with a prefix."""
    environment: Mapping[str, str]
    """Variables that reach it, where this process's own don't. They hold keys: never write them anywhere."""
    embedded: bool
    """Whether it is a server of this machine's work directory."""

    def open(self) -> Storage:
        """A client for it."""
        from hrf.storage.objects import Storage

        return Storage.open(self.uri, environment=self.environment or None)


def is_configured(bucket: str = "") -> bool:
    """Whether a storage other than the embedded server is asked for."""
    return bool(bucket or os.environ.get(BUCKET) or any(os.environ.get(name) for name in CONFIGURED_BY))


def configured_location(bucket: str = "") -> Location:
    """The storage that the environment describes.

    Args:
        bucket: `NAME`, `NAME/PREFIX` or `s3://NAME/PREFIX`; empty takes HRF_BUCKET.

    Raises:
        StorageError: No bucket is named.
    """
    name = (bucket or os.environ.get(BUCKET, "")).removeprefix("s3://").strip("/")
    if not name:
        cause = next(variable for variable in CONFIGURED_BY if os.environ.get(variable))
        raise StorageError(
            "s3://",
            problem=f"{cause} is set, so a bucket of yours is to be used, but none is named",
            fix=f"give --bucket or {BUCKET}; or unset {cause} to use a server on this machine",
        )
    return Location(uri=f"s3://{name}", environment={}, embedded=False)


@contextlib.contextmanager
def object_storage(work_dir: Path, bucket: str = "") -> Iterator[Location]:
    """The configured storage or, where there is none, a server on this machine that ends with its last user.

    Args:
        work_dir: Its `s3` folder holds the embedded server's data and keys.
        bucket: See `configured_location`.

    Raises:
        ConfigError: The work directory can't be made, or a secret is short or common.
        StorageError: No bucket is named, the embedded server does not start, or the disk is full, also in the block.
    """
    check_secrets()
    make_work_dir(work_dir)
    try:
        if is_configured(bucket):
            yield configured_location(bucket)
            return
        from hrf_pipelines.local.embedded_s3 import EmbeddedS3

        with EmbeddedS3.start(work_dir / "s3", EMBEDDED_BUCKET) as server:
            yield Location(uri=f"s3://{EMBEDDED_BUCKET}", environment=server.environment(), embedded=True)
    except OSError as error:
        if (full := full_disk_error(work_dir, error)) is not None:
            raise full from error
        raise


def make_work_dir(work_dir: Path) -> None:
    """Make a work directory, unless it is there.

    Raises:
        ConfigError: It can't be made, or not be written.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        problem = "" if os.access(work_dir, os.W_OK | os.X_OK) else "no permission to write there"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise ConfigError(
            "--work-dir",
            expected="a folder that can be written",
            got=f"{work_dir} ({problem})",
            fix="give another one, with --work-dir or HRF_WORK_DIR",
        )


def has_embedded_data(work_dir: Path) -> bool:
    """Whether an embedded server has ever been used there: reading needs no start of an empty one."""
    return (work_dir / "s3").is_dir()
