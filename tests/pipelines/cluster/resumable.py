"""A cluster's part of runs, for tests of resuming: packages run here, with Kubeflow's cache as the package has it.

Run as `python -m tests.pipelines.cluster.resumable`, in a process of its own as Kubeflow's local runner needs it. Each
line that it reads is an order in JSON, carried out by a fork of it, since imports are most of what a small run takes;
it answers with the exit status. An order says what to run: `package`, `arguments`, `run_id` (Kubeflow's), `artifacts`,
`cache` (one for all runs, as on a cluster), `notes` (a line for every step that is computed), `fail_at` (a step that
never ends), `environment` (of the run's pods) and `log` (what they say).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from kfp import components, local
from kfp.local import status, subprocess_task_handler

from hrf_pipelines.local.forked_steps import fork_steps, import_for_all

JOB_ID = "{{$.pipeline_job_uuid}}"


def watch(notes: Path, fail_at: str) -> None:
    """From now on, note each step that is computed, and have one of them fail."""
    handler = subprocess_task_handler.SubprocessTaskHandler

    class Watched(handler):
        def run(self) -> status.Status:
            step = self.full_command[-1]
            if step == fail_at:
                return status.Status.FAILURE
            with notes.open("a") as stream:
                stream.write(f"{step}\n")
            return super().run()

    subprocess_task_handler.SubprocessTaskHandler = Watched


def main() -> None:
    """Carry out orders until there are no more."""
    warnings.simplefilter("ignore")
    import_for_all()
    for line in sys.stdin:
        run = multiprocessing.get_context("fork").Process(target=carry_out, args=(json.loads(line),))
        run.start()
        run.join()
        print(run.exitcode, flush=True)  # noqa: T201


def carry_out(order: dict[str, Any]) -> None:
    """Run the package to its end, which may be an error."""
    os.environ.clear()
    os.environ.update(order["environment"])
    with open(order["log"], "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    fork_steps()
    watch(Path(order["notes"]), order["fail_at"])
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=order["artifacts"],
        enable_caching=True,
        cache_root=order["cache"],
        raise_on_error=True,
    )
    package = components.load_component_from_text(_without_retries(order["package"].replace(JOB_ID, order["run_id"])))
    try:
        package(**order["arguments"])
    except RuntimeError as error:
        sys.exit(str(error))


def _without_retries(package: str) -> str:
    """What kills a step here kills it again."""
    spec = yaml.safe_load(package)
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    for dag in dags:
        for task in dag["tasks"].values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(spec)


if __name__ == "__main__":
    main()
