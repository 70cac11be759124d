"""A cluster's part of a run, for tests of resuming: the package runs here, with Kubeflow's cache as the package has it.

Run as `python -m tests.pipelines.cluster.resumable ORDER`, in a process of its own as Kubeflow's local runner needs it.
The order, a JSON file, says what to run: `package`, `arguments`, `run_id` (Kubeflow's), `artifacts`, `cache` (one for
all runs, as on a cluster), `notes` (a line for every step that is computed) and `fail_at` (a step that never ends).
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import yaml
from kfp import components, local
from kfp.local import status, subprocess_task_handler

from hrf_pipelines.local.forked_steps import fork_steps

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


def main() -> int:
    """Run the package to its end; returns the exit status."""
    order = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("ignore")
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
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _without_retries(package: str) -> str:
    """What kills a step here kills it again."""
    spec = yaml.safe_load(package)
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    for dag in dags:
        for task in dag["tasks"].values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(spec)


if __name__ == "__main__":
    sys.exit(main())
