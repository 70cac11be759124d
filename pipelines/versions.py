"""Which version of the pipeline a package is: named for what it runs and where, and by its own digest."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

REVISION_DIGITS, DIGEST_DIGITS = 12, 8
#: Characters of a preset's and of a placement's name: Kubeflow's database holds 127 of a version's.
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class VersionName:
    """What a package is called on a cluster."""

    name: str
    """Lower case letters, digits, `-` and `.`, as Kubernetes wants names."""
    description: str
    """Where it comes from, with the whole digest."""
    digest: str
    """By which two packages of one name are told apart."""


def about_package(title: str, num_epochs: int, placement: str) -> str:
    """What a package is about, fit for a name of Kubernetes: such as `avatars-hrf-6-epochs-gpu`."""
    epochs = f"{num_epochs}-epoch{'s' if num_epochs > 1 else ''}"
    return "-".join(filter(None, [_as_name(title), epochs, _as_name(placement)]))


def name_version(package: str, about: str, source: Path | None = None) -> VersionName:
    """Name a package: for what it is about, by hrf's version and by the beginning of the package's digest.

    One version of the code makes many packages, as overrides and images differ, too. With its digest, the same package
    is always called the same, and another never so.
    """
    from hrf import __version__

    digest = hashlib.sha256(package.encode()).hexdigest()
    revision = _git_revision(source or Path(__file__).resolve().parents[1])
    return VersionName(
        name="-".join(filter(None, [about, __version__, digest[:DIGEST_DIGITS]])),
        description=f"hrf {__version__}, {'revision ' + revision if revision else 'installed'}, sha256:{digest}",
        digest=digest,
    )


def _as_name(text: str) -> str:
    """A name without what Kubernetes would not take in one, nor the ending of a file."""
    plain = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\.ya?ml$", "", Path(text).name).lower())
    return plain.strip("-")[:_LONGEST].strip("-")


def _git_revision(folder: Path) -> str:
    """The revision that is checked out there, with `-dirty` if files differ from it; "" where it is no checkout."""
    if not (folder / ".git").exists():
        # Also so within somebody else's repository: a virtual environment often lies in one.
        return ""
    try:
        head = _git(folder, "rev-parse", f"--short={REVISION_DIGITS}", "HEAD")
        changes = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head[:REVISION_DIGITS]}-dirty" if changes else head[:REVISION_DIGITS]


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
