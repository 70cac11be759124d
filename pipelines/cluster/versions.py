"""Which version of the pipeline a package is: named by the code's revision and the package's own digest."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

REVISION_DIGITS, DIGEST_DIGITS = 12, 10


@dataclass(frozen=True, kw_only=True)
class VersionName:
    """What a package is called on a cluster."""

    name: str
    """Lower case letters, digits, `-` and `.`, as Kubernetes wants names."""
    description: str
    """Where it comes from, with the whole digest: two packages of one name are told apart by it."""


def name_version(package: str, source: Path | None = None) -> VersionName:
    """Name a package.

    One revision of the code makes many packages, as presets, overrides and images differ. So the name is the revision
    and the package's digest: the same package of the same revision is always called the same, and never another.

    Args:
        package: The compiled package.
        source: Folder of the code that compiled it; by default, this code's.
    """
    from hrf import __version__

    digest = hashlib.sha256(package.encode()).hexdigest()
    revision = _git_revision(source or Path(__file__).resolve().parents[2])
    # An installed wheel has no revision, but a version.
    origin = revision or __version__
    return VersionName(
        name=f"{origin}-{digest[:DIGEST_DIGITS]}",
        description=f"hrf {__version__}, {'revision ' + revision if revision else 'installed'}, sha256:{digest}",
    )


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
