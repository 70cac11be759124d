"""The Dockerfiles, without building them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from images.build import FOLDER, ROLES

DOCKERFILES = [FOLDER / role / "Dockerfile" for role in ROLES]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=ROLES)
def test_a_dockerfile_has_no_lint(dockerfile):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=ROLES)
def test_a_dockerfile_builds_without_network_or_buildkit_and_ends_as_an_unprivileged_user(dockerfile):
    text = dockerfile.read_text()
    assert not re.search(r"^(RUN --|# syntax=|ADD )", text, re.MULTILINE)
    assert "ARG BASE_IMAGE=" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "apt-get" not in text


def test_nothing_of_the_project_folder_is_sent_to_a_build():
    lines = (FOLDER.parent / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["*"]
