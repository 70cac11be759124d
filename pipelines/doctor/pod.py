"""What `hrf doctor --pod` looks at: whether the pod that this runs in has what steps need.

`hrf doctor --cluster --run` starts such a pod, as a step's would be.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hrf.errors import ClusterError, HrfError
from hrf.steps.own_workflow import is_in_pod, read_own_workflow
from hrf.storage.objects import Storage
from hrf_pipelines.doctor.checks import Finding, fail, ok, problem_of, warn
from hrf_pipelines.doctor.image import ROLE, check_revision
from hrf_pipelines.local.object_storage import BUCKET

#: Where the kernel says what a container was given: the second version of its control groups, or the first.
MEMORY_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CPU_FILES = (Path("/sys/fs/cgroup/cpu.max"),)
SHARED_MEMORY = Path("/dev/shm")
#: Above it the first version says that there is no limit.
NO_LIMIT = 1 << 60


def examine_pod() -> list[Finding]:
    """Run all checks."""
    return [
        ok("image", f"role {os.environ.get(ROLE) or 'unknown'}"),
        check_revision(),
        check_store(),
        check_memory(),
        check_cpus(),
        check_gpus(),
        check_shared_memory(),
        check_rights(),
    ]


def check_store() -> Finding:
    """The store, as a step would use it: listed, written, read, and its conditional writes honoured."""
    uri = os.environ.get(BUCKET, "")
    try:
        Storage.open(uri if uri.startswith("s3://") else f"s3://{uri}").check()
    except HrfError as error:
        return fail("store", problem_of(error), fix=getattr(error, "fix", ""))
    return ok("store", f"{uri}: read, written, conditional writes honoured")


def check_memory() -> Finding:
    """The memory that the pod may use."""
    told = _first_word(MEMORY_FILES)
    if not told.isdigit() or int(told) >= NO_LIMIT:
        return ok("memory", "no limit but the node's")
    return ok("memory", f"{int(told) / 2**30:.1f} GiB")


def check_cpus() -> Finding:
    """The cores that the pod may use."""
    quota = _words(CPU_FILES)
    if len(quota) == 2 and quota[0].isdigit():
        return ok("cpus", f"{int(quota[0]) / int(quota[1]):g}")
    return ok("cpus", f"{len(os.sched_getaffinity(0))}, no limit but the node's")


def check_gpus() -> Finding:
    """The GPUs that torch finds."""
    try:
        import torch
    except ImportError:
        return ok("gpus", "none: this image has no torch")
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    return ok("gpus", f"{count}: {names}" if count else "none")


def check_shared_memory() -> Finding:
    """The room in /dev/shm, where the processes of one step exchange tensors."""
    total = shutil.disk_usage(SHARED_MEMORY).total
    return ok("shared memory", f"{total / 2**20:.0f} MiB")


def check_rights() -> Finding:
    """Whether the pod's account may read Workflows, of which the exit step makes out why a run failed."""
    if not is_in_pod():
        fix = "run it in a pod: hrf doctor --cluster --run"
        return warn("rights", "this is no pod of Kubernetes", fix=fix)
    try:
        read_own_workflow("hrf-doctor")
    except ClusterError as error:
        # There is none of that name; who may not look is told so before.
        if error.status != 404:
            return warn("rights", error.problem, fix=error.fix)
    return ok("rights", "may read Workflows: runs say why they fail")


def _first_word(files: tuple[Path, ...]) -> str:
    return next(iter(_words(files)), "")


def _words(files: tuple[Path, ...]) -> list[str]:
    return next((file.read_text(encoding="ascii").split() for file in files if file.is_file()), [])
