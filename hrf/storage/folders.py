"""Folders that steps hand to each other: written whole or not at all, with the digest of every file.

`writing_folder` builds a folder under a temporary name and renames it when it is complete, so a step killed at any
moment leaves either nothing or everything. `read_folder` refuses a folder that is not what its producer wrote. The
manifest holds no time and no host name: the same inputs give the same bytes. It is sealed, as the records in object
storage are: it holds the digest of the rest of itself, as nothing else would tell that a byte of it has changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hrf.errors import ArtifactError, StorageError

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
SEAL = "sha256"
"""Field of a sealed JSON object: the digest of the others."""
STOPPED = "stopped"
"""Producer field of a folder that was written when its run had stopped (see `hrf.promotion.floor`)."""
_PARTIAL = ".partial-"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder holds and who wrote it."""

    producer: dict[str, Any]
    """Free fields such as step, run, epoch, hrf version, config digest."""
    files: dict[str, dict[str, Any]]
    """Path within the folder (with `/`) -> {"sha256": hex, "bytes": size}."""

    def describe_producer(self) -> str:
        """The producer on one line, for messages."""
        return describe_producer(self.producer)

    @property
    def stopped(self) -> bool:
        """Whether the run had stopped when the folder was written: the steps that are given it have nothing to do."""
        return bool(self.producer.get(STOPPED))

    def content_digest(self) -> str:
        """Sha256 over the paths and digests of all files: equal contents give equal digests, whoever wrote them."""
        return hashlib.sha256(canonical_json(self.files)).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spare blanks: one value has one spelling, so it can be digested.

    Raises:
        ValueError: If the value holds NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of itself, by which `unseal` knows it again.

    Raises:
        ValueError: If it holds NaN or infinity, or a field of the seal's name.
    """
    if SEAL in value:
        raise ValueError(f"the field {SEAL} is the seal's own")
    return {SEAL: hashlib.sha256(canonical_json(value)).hexdigest(), **value}


def unseal(text: bytes, origin: object, *, fix: str) -> dict[str, Any]:
    """Read a sealed JSON object, and return it without its seal.

    One without a seal is refused, too: it can't be told from one whose seal is what was damaged.

    Raises:
        ArtifactError: If it is not, value for value, what was sealed.
    """
    try:
        value = json.loads(text.decode())
        if not isinstance(value, dict) or not isinstance(value.get(SEAL), str):
            raise ArtifactError(
                origin,
                problem=f"it has no {SEAL} of its own: it is damaged, or was not written by this version of hrf",
                fix=fix,
            )
        given = value.pop(SEAL)
        found = hashlib.sha256(canonical_json(value)).hexdigest()
    except (ValueError, RecursionError) as error:
        raise ArtifactError(origin, problem=f"no valid JSON: {error}", fix=fix) from error
    if found != given:
        raise ArtifactError(
            origin, problem=f"it was changed or damaged: its {SEAL} is {given}, its contents give {found}", fix=fix
        )
    return value


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_producer(producer: Mapping[str, Any]) -> str:
    """Spell a producer on one line, such as `step update, run r1, epoch 3`."""
    return ", ".join(f"{key} {value}" for key, value in producer.items()) or "unknown"


@contextlib.contextmanager
def writing_folder(target: str | Path, *, producer: Mapping[str, Any]) -> Iterator[Path]:
    """Build a folder next to `target` and rename it there, with its manifest, once the block ends well.

    A folder that already stands at `target` is replaced: steps are deterministic, so it holds the same or is from
    before. What killed writers of the same target left behind is cleared away first.

    Args:
        target: Where the folder will stand; its parents are made.
        producer: Who writes it (step, run, epoch, ...): JSON values, no secrets, nothing that differs between two runs
            of one step.

    Yields:
        The temporary folder to write into.

    Raises:
        StorageError: If the disk is full. Nothing is left at `target` then but what stood there before.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        partial = Path(tempfile.mkdtemp(prefix=_leftover_prefix(target), dir=target.parent))
    except OSError as error:
        if (full := full_disk_error(target, error)) is not None:
            raise full from error
        raise
    try:
        with _locked(partial):
            yield partial
            write_manifest(partial, producer)
            partial.chmod(0o755)  # mkdtemp's 0700 would shut out a later step that runs as another user.
            _move_into_place(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (full := full_disk_error(target, error)) is not None:
            raise full from error
        raise


@contextlib.contextmanager
def writing_file(target: str | Path) -> Iterator[Path]:
    """Write a file under another name beside `target`, and rename it there once the block ends well.

    Args:
        target: The file, which may be there already. What is no file, such as `/dev/stdout`, is written itself.

    Yields:
        The path to write to, with the target's ending.

    Raises:
        StorageError: If the disk is full. `target` is then what it was before.
    """
    target = Path(target)
    if target.exists() and not target.is_file():
        yield target
        return
    target = target.resolve()  # A link stays one.
    partial = target.with_name(f"{_PARTIAL}{os.getpid()}-{target.name}")
    try:
        yield partial
        os.replace(partial, target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if (full := full_disk_error(target, error)) is not None:
            raise full from error
        raise


def clear_partial_files(folder: Path) -> None:
    """Remove what killed writers of a folder's files left; only for who knows that none is at work."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        partial.unlink()


def read_folder(path: str | Path) -> Path:
    """Verify a folder against its manifest and return its path.

    Args:
        path: A folder that `writing_folder` wrote.

    Raises:
        ArtifactError: If the folder is missing or of another format version, or a file is missing, changed or unlisted.
            It names the file and the producer.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    producer = manifest.describe_producer()
    for name, entry in manifest.files.items():
        verify_file(folder / name, entry, producer)
    unlisted = sorted(_files_of(folder).keys() - manifest.files.keys())
    if unlisted:
        raise ArtifactError(
            folder / unlisted[0],
            problem="it is not in the folder's manifest, so it was added later",
            producer=producer,
            fix="remove the file, or run the step that wrote the folder again",
        )
    return folder


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a folder's manifest, without its files.

    Raises:
        ArtifactError: If it is missing, unreadable or of another format version.
    """
    folder = Path(path)
    file = folder / MANIFEST
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            folder,
            problem="no complete folder: it has no manifest.json" if folder.exists() else "no such folder",
            fix="run the step that writes it; an unfinished one leaves nothing under this name",
        ) from None
    except OSError as error:
        raise ArtifactError(
            file, problem=f"cannot be read: {error}", fix="run the step that writes it again"
        ) from error
    return parse_manifest(text, file)


def parse_manifest(text: bytes, origin: object) -> Manifest:
    """Parse a manifest and check its seal, version and shape; `origin` is what messages call it.

    Raises:
        ArtifactError: If it is no manifest of this format version, or not what was written.
    """
    fix = "run the step that writes it again"
    _check_version(text, origin)
    value = unseal(text, origin, fix=fix)
    producer, files = value.get("producer"), value.get("files")
    if not isinstance(producer, dict):
        raise ArtifactError(origin, problem="no manifest: it has no producer", fix=fix)
    if not isinstance(files, dict) or not all(_is_file_entry(name, entry) for name, entry in files.items()):
        raise ArtifactError(
            origin, problem="its list of files is damaged", producer=describe_producer(producer), fix=fix
        )
    return Manifest(producer=producer, files=files)


def _check_version(text: bytes, origin: object) -> None:
    """Tell a manifest of another version as such: it may be sealed in another way, or not at all."""
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict) or value.get("format_version", FORMAT_VERSION) == FORMAT_VERSION:
        return
    producer = value.get("producer")
    raise ArtifactError(
        origin,
        problem=f"format version {value['format_version']!r}, this program reads {FORMAT_VERSION}",
        producer=describe_producer(producer if isinstance(producer, dict) else {}),
        fix="use the hrf version that wrote it, or run the step that writes it again with this one",
    )


def verify_file(path: Path, entry: Mapping[str, Any], producer: str) -> None:
    """Check one file against its manifest entry.

    Raises:
        ArtifactError: If it is missing or its size or digest differ.
    """
    if not path.is_file():
        raise ArtifactError(path, problem="the file is missing", producer=producer, fix="run that step again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        problem = f"it has {size} bytes, the manifest says {entry['bytes']}"
    elif (digest := file_sha256(path)) != entry["sha256"]:
        problem = f"its sha256 is {digest}, the manifest says {entry['sha256']}"
    else:
        return
    raise ArtifactError(
        path,
        problem=problem,
        producer=producer,
        fix="it was changed or damaged: delete the folder and run that step again",
    )


def _is_file_entry(name: str, entry: object) -> bool:
    """Whether a manifest line is well formed and stays within the folder (manifests also come from object storage)."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and name != MANIFEST
        and isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("bytes"), int)
    )


def _files_of(folder: Path) -> dict[str, Path]:
    """All files below a folder by their relative name, the folder's own manifest left out."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop(MANIFEST, None)
    return found


def write_manifest(folder: Path, producer: Mapping[str, Any]) -> None:
    """Write down who made a folder and the digest of every file in it, and put all of it on the disk.

    Raises:
        ValueError: If the folder holds what an object store does not carry: an empty folder, a link, a device.
    """
    for path in sorted(folder.rglob("*")):
        carried = path.is_file() or (path.is_dir() and any(path.iterdir()))
        if path.is_symlink() or not carried:
            raise ValueError(
                f"{path.relative_to(folder)}: an object store carries files only, and this is "
                f"{'a link' if path.is_symlink() else 'an empty folder' if path.is_dir() else 'no file'}"
            )
    files = {}
    for name, path in _files_of(folder).items():
        path.chmod(0o644)  # safetensors writes 0600, which would shut out a later step that runs as another user.
        _sync(path)
        files[name] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    value = seal({"format_version": FORMAT_VERSION, "producer": dict(producer), "files": files})
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    _sync(manifest)
    for directory in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        _sync(directory)


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename the finished folder to its target; a full folder there is set aside first, as rename cannot replace it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        aside = Path(tempfile.mkdtemp(prefix=_leftover_prefix(target), dir=target.parent))
        target.rename(aside / "replaced")
        partial.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        partial.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Ask the operating system to put a file or directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leftover_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a temporary folder, which says to others that its writer lives."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks only costs the clearing of leftovers.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _clear_leftovers(target: Path) -> None:
    """Remove temporary folders of writers that are gone: those whose lock is free."""
    for leftover in list(target.parent.iterdir()):
        if not leftover.name.startswith(_leftover_prefix(target)):
            continue
        try:
            descriptor = os.open(leftover, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(descriptor)


def full_disk_error(target: str | Path, error: BaseException) -> StorageError | None:
    """The error to raise, or to show, where the disk is full or a limit on its use is met; None for any other cause."""
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    # Safetensors reports the operating system's error only as text.
    told = not isinstance(error, OSError) and any(os.strerror(number) in str(error) for number in _DISK_FULL)
    if not full and not told:
        return None
    return StorageError(
        str(target),
        problem="no space left on the disk, or a limit on its use is met; nothing was written",
        fix="free some space (or give the volume more) and run the step again",
    )
