"""The wheels that images are made of: collected once, outside of any build, so that the builds need no network."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from hrf.errors import ConfigError
from hrf_pipelines.doctor.image import EXTRAS
from images.commands import WORK_DIR, ImagesError, run

PROJECT = Path(__file__).resolve().parents[1]
CONSTRAINTS = PROJECT / "constraints.txt"
WHEELHOUSE, APPLICATION, CONTEXTS = WORK_DIR / "wheelhouse", WORK_DIR / "application", WORK_DIR / "contexts"
#: What our own wheel is made of. A copy of it, since setuptools would also pack what earlier builds left behind.
_SOURCES = ("hrf", "hrf_components", "hrf_pipelines", "pyproject.toml", "README.md", "LICENSE")
_DISTRIBUTION = "hrf-pipelines"
#: The extras of the last image hold those of all others.
_WIDEST = ",".join(EXTRAS["reward"])
#: Of kfp, a task needs the module that runs it, and none of the packages that compiling needs.
_ALONE = "kfp"
_FIX = "look at what pip said; pip's own configuration decides where packages come from"


def collect(created: str = "") -> None:
    """Put the wheels of all images into WHEELHOUSE, and this project's own into APPLICATION.

    What is there already and was made by the same lock file and the same pip settings is kept.

    The time of the commit goes into our own wheel, so that one commit makes the same bytes twice.
    """
    with clean_sources() as sources:
        stamp, wanted = WHEELHOUSE / "made-for", _fingerprint()
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(WHEELHOUSE, ignore_errors=True)
            _make_wheels(f"{sources}[{_WIDEST}]", target=WHEELHOUSE)
            _make_wheels("--no-deps", _ALONE, target=WHEELHOUSE)
            for own in WHEELHOUSE.glob("hrf_pipelines-*.whl"):
                own.unlink()
            stamp.write_text(wanted)
        shutil.rmtree(APPLICATION, ignore_errors=True)
        epoch = {"SOURCE_DATE_EPOCH": str(int(datetime.fromisoformat(created).timestamp()))} if created else {}
        _make_wheels("--no-deps", str(sources), target=APPLICATION, environment=epoch)


def lay_out_contexts() -> dict[str, Path]:
    """Make the folder that each image is built from: its wheels, as hard links, and the script that installs them.

    Returns:
        The folder of each role.
    """
    wheels = wheels_by_role()
    shutil.rmtree(CONTEXTS, ignore_errors=True)
    for role, paths in wheels.items():
        folder = CONTEXTS / role
        _link(paths, folder / "wheels")
        shutil.copy(Path(__file__).parent / "install.sh", folder)
        if role != "reward":
            _link(APPLICATION.glob("*.whl"), folder / "application")
    return {role: CONTEXTS / role for role in wheels}


def wheels_by_role() -> dict[str, set[Path]]:
    """The wheels of other projects that each image is built with; `reward`, on top of `worker`, needs only the rest."""
    (own,) = APPLICATION.glob("*.whl")
    at_hand = {_normalized(path.name.split("-")[0]): path for path in WHEELHOUSE.glob("*.whl")}
    needs = {role: _closure(own, extras, at_hand) for role, extras in EXTRAS.items()}
    kfp = at_hand[_ALONE]
    return {
        "control": needs["control"] | {kfp},
        "worker": needs["worker"] | {kfp},
        "reward": needs["reward"] - needs["worker"],
    }


def installed_variant() -> str:
    """The kind of torch that this environment has, `cpu` or `cuda`: asked in the same way, pip finds the same again."""
    (version,) = (file for file in metadata.files("torch") or () if file.as_posix() == "torch/version.py")
    return _variant_of(version.read_text())


def check_variant(wanted: str) -> str:
    """Tell which torch the wheelhouse holds, `cpu` or `cuda`; "" takes whichever it is.

    Raises:
        ConfigError: It is not the one that is wanted.
    """
    (wheel,) = WHEELHOUSE.glob("torch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("torch/version.py").decode()
    found = _variant_of(text)
    if wanted in ("", found):
        return found
    other = {
        "cpu": "give pip the index of PyTorch's CPU builds as an extra index (PIP_EXTRA_INDEX_URL)",
        "cuda": "remove the CPU builds of torch from pip's indexes and find-links (`pip config list` shows them)",
    }
    raise ConfigError(
        "VARIANT", expected=f"what pip found, {wheel.name} ({found})", got=wanted, fix=other.get(wanted, "cpu or cuda")
    )


def _variant_of(version: str) -> str:
    """`cpu` or `cuda`, by the text of `torch/version.py`."""
    return "cuda" if re.search(r"^cuda\b.*=\s*['\"]", version, re.MULTILINE) else "cpu"


def _fingerprint() -> str:
    """Digest of all that decides which wheels pip takes."""
    settings = run([*_pip(), "config", "list"], fix=_FIX)
    texts = [(PROJECT / "pyproject.toml").read_text(), CONSTRAINTS.read_text(), settings, sys.version]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@contextmanager
def clean_sources() -> Iterator[Path]:
    """A clean copy of what our own wheel is made of."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in _SOURCES:
            source, target = PROJECT / name, Path(scratch) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(scratch)


def _make_wheels(*arguments: str, target: Path, environment: Mapping[str, str] | None = None) -> None:
    options = ["--quiet", "-c", str(CONSTRAINTS), "--wheel-dir", str(target)]
    run([*_pip(), "wheel", *options, *arguments], fix=_FIX, environment=environment)


def _closure(wheel: Path, extras: Iterable[str], at_hand: Mapping[str, Path]) -> set[Path]:
    """The wheels that a wheel needs, with some of its extras, and what they need in turn; pip has chosen them."""
    found: set[Path] = set()
    todo, seen = [(wheel, extra) for extra in ("", *extras)], set[tuple[Path, str]]()
    while todo:
        needing, extra = todo.pop()
        if (needing, extra) in seen:
            continue
        seen.add((needing, extra))
        (about,) = metadata.distributions(path=[str(needing)])
        for requirement in map(Requirement, about.requires or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = _normalized(requirement.name)
            needed = wheel if name == _DISTRIBUTION else at_hand.get(name)
            if needed is None:
                problem = f"{WHEELHOUSE} lacks {name}, which {needing.name} needs"
                raise ImagesError(problem, fix="remove it, so that it is filled anew")
            found.add(needed)
            todo += [(needed, asked) for asked in ("", *requirement.extras)]
    return found - {wheel}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _link(wheels: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for wheel in wheels:
        os.link(wheel, folder / wheel.name)


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
