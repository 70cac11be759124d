"""Steps of a run on this machine, forked from the process that runs them, which has imported torch and diffusers.

These imports are most of what a small step takes. On a cluster every container pays for them; here they are paid for
once, and a step still is a process of its own, which begins with no state but theirs.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kfp.local import status, subprocess_task_handler
from kfp.local.subprocess_task_handler import SubprocessTaskHandler

from hrf_pipelines.local.handing_on import hand_on
from hrf_pipelines.placement import Images


def fork_steps() -> None:
    """From now on, Kubeflow's subprocess runner forks its steps from this process, and they hand their outputs on.

    Forked only on Linux: elsewhere, what torch brings along does not survive a fork.
    """
    # The runner looks its handler up by this name, and takes no other: kfp 2.17 has no public place to name one.
    subprocess_task_handler.SubprocessTaskHandler = hand_on(
        ForkedStep if sys.platform == "linux" else SubprocessTaskHandler
    )


class ForkedStep(SubprocessTaskHandler):  # type: ignore[misc]
    """Runs one step: what the runner's own handler does, without its fresh interpreter."""

    def run(self) -> status.Status:
        """Run the step to its end."""
        if self.image != Images().control:
            import_for_all()
        # `sh -ec SCRIPT SOURCE ARGUMENTS`: the script writes the component's source to a file and starts an executor.
        source, *arguments = self.full_command[3:]
        process = multiprocessing.get_context("fork").Process(target=_execute, args=(source, arguments, self.env_vars))
        process.start()
        process.join()
        return status.Status.SUCCESS if process.exitcode == 0 else status.Status.FAILURE


@functools.cache
def import_for_all() -> None:
    """Import what nearly every step with a model needs: torch, and the denoisers with all that diffusers imports."""
    # Half a million objects come to stay. To look among them for garbage again and again is a seventh of the imports;
    # in a step, whose memory is this process's until it is written to, it would also copy them.
    gc.disable()
    try:
        # Where one is missing or broken (of which diffusers makes a RuntimeError), the step that needs it says so.
        with contextlib.suppress(ImportError, RuntimeError):
            for name in ("hrf.steps.update", "diffusers.models.unets"):
                importlib.import_module(name)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _execute(source: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """What the step's process does."""
    from kfp.dsl.executor_main import executor_main

    os.environ.update(environment)
    logging.getLogger().handlers.clear()  # The runner's; the executor has its own.
    program = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    program.write_text(source, encoding="utf-8")
    sys.argv = ["executor_main", "--component_module_path", str(program), *arguments]
    executor_main()
