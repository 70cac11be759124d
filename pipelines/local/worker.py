"""The process that runs a compiled package with Kubeflow's local runner: `python -m` with this module, RUN_FOLDER.

It is a child of `hrf run`, in a process group of its own, and ends that whole group when its parent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from hrf_pipelines.local.run_state import PACKAGE_FILE, RunFolder
from hrf_pipelines.package import with_caching

WATCH_SECONDS = 0.5


def main() -> int:
    """Run the package of a run folder to its end; returns the exit status."""
    folder = RunFolder(Path(sys.argv[1]))
    _end_with_parent(os.getppid())
    finished = run_package(
        (folder.path / PACKAGE_FILE).read_text(encoding="ascii"),
        arguments=folder.read().arguments,
        artifacts=folder.path / "artifacts",
        cache=folder.path / "cache",
    )
    return 0 if finished else 1


def run_package(package: str, *, arguments: dict[str, str], artifacts: Path, cache: Path) -> bool:
    """Run a compiled package in subprocesses, going on where an earlier attempt ended.

    Args:
        package: The compiled package.
        arguments: The pipeline's parameters.
        artifacts: Where the steps' outputs go.
        cache: Where Kubeflow notes which steps are finished; private to this run.

    Returns:
        Whether it finished. A step that failed has reported its error.
    """
    from kfp import components, local
    from kfp.local import executor_input_utils

    from hrf_pipelines.local.forked_steps import fork_steps

    # What only matters on a cluster (display names, images) has no effect here, and needs no warning.
    warnings.filterwarnings("ignore", module=r"kfp\.")
    warnings.filterwarnings("ignore", message=r"Task .* have no effect in the current local runner")
    warnings.filterwarnings("ignore", message=r"You may be attemping to run a task that uses custom or non-Python")
    # Not a folder for each attempt: a step that is done again writes where it wrote before, and as the same bytes come
    # out of it, the steps after it, which know their inputs by place and digest, stay finished. kfp 2.17 always puts
    # the time into the name, and has no public place to say another.
    executor_input_utils.get_local_pipeline_resource_name = lambda pipeline_name: pipeline_name
    fork_steps()
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts),
        enable_caching=True,
        cache_root=str(cache),
        raise_on_error=True,
    )
    try:
        components.load_component_from_text(with_caching(package))(**arguments)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return False
    return True


def _end_with_parent(parent: int) -> None:
    """End this process group as soon as the parent is no longer `parent`: nobody else would."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
