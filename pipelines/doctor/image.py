"""What `hrf doctor --image` looks at: whether a container image holds what the steps of its role need.

It needs no network and no object storage, so it also runs where an image is built.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata

from hrf_components.outputs import GIT_SHA
from hrf_pipelines.doctor.checks import Finding, check_packages, check_python, check_shipped_model, fail, ok, warn
from hrf_pipelines.placement import ROLES

#: Set in each image: what it is for, and which torch it was built with.
ROLE, VARIANT = "HRF_IMAGE_ROLE", "HRF_TORCH_VARIANT"
#: Any step may have something to tell of its run.
TRACKING = ("mlflow", "tensorboard")
#: The extras of each role.
EXTRAS = {"control": TRACKING, "worker": ("model", *TRACKING), "reward": ("reward", *TRACKING)}
#: What else a role promises to those who build on its image.
LIBRARIES = {
    "control": ("hrf.report.tracking.mlflow_run", "tensorboardX"),
    "worker": ("hrf.report.tracking.mlflow_run", "accelerate", "transformers", "peft"),
    "reward": ("hrf.report.tracking.mlflow_run", "torchvision", "open_clip", "onnxruntime"),
}


def examine_image() -> list[Finding]:
    """Run all checks that the image's role asks for."""
    role = os.environ.get(ROLE, "")
    if role not in EXTRAS:
        fix = f"run it in an image of this project, which sets {ROLE} to one of {', '.join(EXTRAS)}"
        return [fail("role", repr(role), fix=fix)]
    return [
        ok("role", role),
        check_revision(),
        check_python(),
        check_packages(EXTRAS[role]),
        check_imports(role),
        check_torch_variant(role),
        check_kubeflow_runtime(),
        check_shipped_model(),
        check_user(),
        check_scratch(),
    ]


def check_revision() -> Finding:
    """The version and the commit that the image was built from, which go into the lineage of what it makes."""
    from hrf import __version__

    revision = os.environ.get(GIT_SHA, "")
    if revision:
        return ok("revision", f"{__version__}, {revision}")
    detail, fix = f"{__version__}, {GIT_SHA} is not set", "build with --build-arg GIT_SHA=COMMIT"
    return warn("revision", detail, fix=fix)


def check_imports(role: str) -> Finding:
    """Import every step that runs in this image, and its role's libraries."""
    steps = [step for step, needed in ROLES.items() if needed == role]
    try:
        for name in [*(f"hrf.steps.{step}" for step in steps), *LIBRARIES[role]]:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever stops an import would stop the step
        fix = "build the image again; its packages don't fit together"
        return fail("imports", f"{type(error).__name__}: {error}", fix=fix)
    return ok("imports", ", ".join([*steps, *LIBRARIES[role]]))


def check_torch_variant(role: str) -> Finding:
    """The torch that the image was built with is the one that it says; `control` has none."""
    if role == "control":
        try:
            found = metadata.version("torch")
        except metadata.PackageNotFoundError:
            return ok("torch", "none, as it should be")
        return fail("torch", found, fix="build it without: control needs no torch")
    import torch

    variant = "cpu" if torch.version.cuda is None else "cuda"
    detail = f"{torch.__version__} ({variant})"
    wanted = os.environ.get(VARIANT, "")
    if variant == wanted:
        return ok("torch", detail)
    return fail("torch", detail, fix=f"build the image again; {VARIANT} is {wanted!r}")


def check_kubeflow_runtime() -> Finding:
    """The module that Kubeflow starts in every task, started as Kubeflow does."""
    command = [sys.executable, "-m", "kfp.dsl.executor_main", "--help"]
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ok("kfp runtime", metadata.version("kfp"))
    detail = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return fail("kfp runtime", detail, fix="install kfp in the image")


def check_user() -> Finding:
    """Not root."""
    user = f"uid {os.getuid()}, gid {os.getgid()}"
    if os.getuid() == 0:
        return fail("user", user, fix="run it as the image's own user, 10001")
    return ok("user", user)


def check_scratch() -> Finding:
    """The folder for temporary files can be written, whatever the root file system is."""
    system = "read-only" if os.statvfs("/").f_flag & os.ST_RDONLY else "writable"
    try:
        with tempfile.TemporaryFile() as stream:
            stream.write(b"hrf")
    except OSError as error:
        fix = "mount something writable there, such as an emptyDir or --tmpfs /tmp"
        return fail("scratch", str(error), fix=fix)
    return ok("scratch", f"{tempfile.gettempdir()}; / is {system}")
