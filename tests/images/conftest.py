"""A Docker daemon, and the images that `make images` has built."""

import json
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator

import pytest

from hrf_pipelines.placement import Images
from images.build import LOCKED_DOWN, REFERENCES_FILE, ROLES
from images.commands import ImagesError
from images.daemon import ensure_daemon


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """A daemon's address, also in DOCKER_HOST. Without any, the tests are skipped, and say so."""
    try:
        host = ensure_daemon()
    except ImagesError as error:
        reason = f"NO CONTAINER TESTS HERE: {error}"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        yield host


@pytest.fixture(scope="session")
def images(docker_host: str) -> Images:
    """What `make images` built last, or what the environment names."""
    named = any(os.environ.get(f"HRF_IMAGE_{role.upper()}") for role in ROLES)
    if named or not REFERENCES_FILE.is_file():
        return Images.from_environment()
    return Images(**json.loads(REFERENCES_FILE.read_text()))


@pytest.fixture(scope="session", params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    """Every role in turn."""
    return request.param


@pytest.fixture(scope="session")
def in_container(images: Images) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a role's image as it is meant to be run: no network, a read-only root, nothing but /tmp."""

    def run(role: str, *command: str) -> subprocess.CompletedProcess[str]:
        arguments = ["docker", "run", *LOCKED_DOWN, getattr(images, role), *command]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def listed(images: Images) -> Callable[[str, str], list[str]]:
    """Runs `find /` with some tests in a role's image: all of its files, as its user sees them, nothing mounted."""

    def find(role: str, tests: str) -> list[str]:
        command = f"find / -xdev {tests} 2>/dev/null"
        arguments = ["docker", "run", "--rm", "--network", "none", getattr(images, role), "sh", "-c", command]
        return subprocess.run(arguments, capture_output=True, text=True, check=False).stdout.split()

    return find


@pytest.fixture(scope="session")
def inspected(images: Images, role: str) -> dict:
    """What Docker knows of a role's image."""
    found = subprocess.run(
        ["docker", "image", "inspect", getattr(images, role)], capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout)[0]
