"""The wheels that images are made of: collected once, outside of any build, so that the builds need no network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hrf.errors import ConfigError
from images.commands import WORK_DIR, ImagesError, run
from pipelines.image_check import EXTRAS

PROJECT = Path(__file__).resolve().parents[1]
CONSTRAINTS = PROJECT / "constraints.txt"
WHEELHOUSE, APPLICATION, CONTEXTS = WORK_DIR / "wheelhouse", WORK_DIR / "application", WORK_DIR / "contexts"
#: What our own wheel is made of. A copy of it, since setuptools would also pack what earlier builds left behind.
_SOURCES = ("hrf", "components", "pipelines", "pyproject.toml", "README.md", "LICENSE")
_DISTRIBUTION = "hrf-pipelines"
#: The extra that holds all others that images need.
_WIDEST = "reward"
#: Of kfp, a task needs the module that runs it, and none of the packages that compiling needs.
_ALONE = "kfp"
_FIX = "look at what pip said; pip's own configuration decides where packages come from"


def collect() -> None:
    """Put the wheels of all images into WHEELHOUSE, and this project's own into APPLICATION.

    What is there already and was made by the same lock file and the same pip settings is kept.

    Raises:
        ImagesError: pip failed.
    """
    with _sources() as sources:
        stamp, wanted = WHEELHOUSE / "made-for", _fingerprint()
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(WHEELHOUSE, ignore_errors=True)
            _make_wheels(f"{sources}[{_WIDEST}]", target=WHEELHOUSE)
            _make_wheels("--no-deps", _ALONE, target=WHEELHOUSE)
            for own in WHEELHOUSE.glob("hrf_pipelines-*.whl"):
                own.unlink()
            stamp.write_text(wanted)
        shutil.rmtree(APPLICATION, ignore_errors=True)
        _make_wheels("--no-deps", str(sources), target=APPLICATION)


def lay_out_contexts() -> dict[str, Path]:
    """Make the folder that each image is built from: its wheels, as hard links, and the script that installs them.

    Returns:
        The folder of each role.

    Raises:
        ImagesError: The wheelhouse lacks something.
    """
    worker = _closure(EXTRAS["worker"]) | {_ALONE}
    wheels = {
        "control": _closure(EXTRAS["control"]) | {_ALONE},
        "worker": worker,
        "reward": _closure(EXTRAS["reward"]) - worker,
    }
    shutil.rmtree(CONTEXTS, ignore_errors=True)
    for role, names in wheels.items():
        folder = CONTEXTS / role
        _link(_wheels_of(names), folder / "wheels")
        shutil.copy(Path(__file__).parent / "install.sh", folder)
        if role != "reward":
            _link(APPLICATION.glob("*.whl"), folder / "application")
    return {role: CONTEXTS / role for role in wheels}


def check_variant(wanted: str) -> str:
    """Tell which torch the wheelhouse holds.

    Args:
        wanted: `cpu`, `cuda`, or "" for whichever it is.

    Returns:
        `cpu` or `cuda`.

    Raises:
        ConfigError: It is not the one that is wanted.
    """
    (wheel,) = _wheels_of({"torch"})
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("torch/version.py").decode()
    found = "cuda" if re.search(r"^cuda\b.*=\s*['\"]", text, re.MULTILINE) else "cpu"
    if wanted in ("", found):
        return found
    other = {
        "cpu": "give pip the index of PyTorch's CPU builds as an extra index (PIP_EXTRA_INDEX_URL)",
        "cuda": "remove the CPU builds of torch from pip's indexes and find-links (`pip config list` shows them)",
    }
    raise ConfigError(
        "VARIANT", expected=f"what pip found, {wheel.name} ({found})", got=wanted, fix=other.get(wanted, "cpu or cuda")
    )


def _fingerprint() -> str:
    """Digest of all that decides which wheels pip takes."""
    settings = run([*_pip(), "config", "list"], fix=_FIX)
    texts = [(PROJECT / "pyproject.toml").read_text(), CONSTRAINTS.read_text(), settings, sys.version]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@contextmanager
def _sources() -> Iterator[Path]:
    """A clean copy of what our own wheel is made of."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in _SOURCES:
            source, target = PROJECT / name, Path(scratch) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(scratch)


def _make_wheels(*arguments: str, target: Path) -> None:
    run([*_pip(), "wheel", "--quiet", "-c", str(CONSTRAINTS), "--wheel-dir", str(target), *arguments], fix=_FIX)


def _closure(extras: Iterable[str]) -> set[str]:
    """Names of all that our package needs with some extras, by pip's own resolver; without our package."""
    wanted = f"{_DISTRIBUTION}[{','.join(extras)}]"
    command = [*_pip(), "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", "--no-index"]
    found = run(
        [*command, "--find-links", str(WHEELHOUSE), "--find-links", str(APPLICATION), "-c", str(CONSTRAINTS), wanted],
        fix=f"remove {WHEELHOUSE}, so that it is filled anew",
    )
    names = {_normalized(entry["metadata"]["name"]) for entry in json.loads(found)["install"]}
    return names - {_normalized(_DISTRIBUTION)}


def _wheels_of(names: set[str]) -> list[Path]:
    wheels = {_normalized(path.name.split("-")[0]): path for path in sorted(WHEELHOUSE.glob("*.whl"))}
    lacking = sorted(names - wheels.keys())
    if lacking:
        raise ImagesError(f"{WHEELHOUSE} lacks {', '.join(lacking)}", fix="remove it, so that it is filled anew")
    return [wheels[name] for name in sorted(names)]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _link(wheels: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for wheel in wheels:
        os.link(wheel, folder / wheel.name)


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
