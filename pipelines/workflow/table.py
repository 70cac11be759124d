"""Writes docs/workflow-size.md: `python -m hrf_pipelines.workflow.table docs/workflow-size.md`, or `make manifests`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hrf.config import resolve
from hrf.config.loading import list_presets
from hrf_pipelines.compiled import compile_finetune
from hrf_pipelines.placement import default_placement, load_placement
from hrf_pipelines.workflow.size import MOST_RETRIED, MOST_UNPACKED, WorkflowSize, estimate, megabytes

_TEXT = f"""\
<!-- Written by `make manifests`; don't edit. -->
# How large a run's Workflow becomes

Kubeflow has Argo run a package, and Argo keeps the state of a whole run in one object of Kubernetes, the Workflow. Each
step of a run stands in it in up to six places, with its source and all that it is given. As it grows, less works:

* Above {megabytes(MOST_UNPACKED)} Argo packs it. The run goes on, while Kubeflow's UI and its API tell nothing of its
  tasks any more; `hrf submit --wait`, `hrf runs show` and the report read the run's own records.
* Above {megabytes(MOST_RETRIED)} Retry in the UI is refused (`etcdserver: request is too large`); `hrf runs resume`
  goes on with such a run.
* Where it has {megabytes(MOST_UNPACKED)} even packed, Argo gives up. `hrf compile` and `hrf submit` refuse such a run.

`hrf compile` tells the size, and `hrf submit` one above the first limit. It is an estimate from the package, which
reproduces a recorded run within 2 %; what depends on the cluster, such as addresses, makes some per cent of difference.
Sizes are those at the end of a run without a failure. The first one is with Argo's configuration as Kubeflow 2.17 has
it, where each node may be tried again and so stands there twice; the second is without `templateDefaults` in that
configuration, where only steps that have `retries` do. Steps are all that have a pod of their own, the status included.

| preset | placement | steps | nodes | Workflow | without `templateDefaults` | UI shows tasks | Retry in the UI |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table() -> str:
    """The page: one row for each preset, as it is compiled with the placement that fits its device."""
    return _TEXT + "".join(_row(info.name) for info in list_presets())


def _row(preset: str) -> str:
    config = resolve(preset)
    package = compile_finetune(config, load_placement("", config), preset=preset)
    size, smaller = estimate(package), estimate(package, "steps")
    cells = [
        f"`{preset}`",
        f"`{default_placement(config)}`",
        str(size.num_steps),
        str(size.num_nodes),
        megabytes(size.total_bytes),
        megabytes(smaller.total_bytes),
        _mark(size, "is_shown"),
        _mark(size, "can_be_retried"),
    ]
    return f"| {' | '.join(cells)} |\n"


def _mark(size: WorkflowSize, what: str) -> str:
    return "yes" if getattr(size, what) else "no"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write the sizes of all presets' Workflows.")
    parser.add_argument("output", type=Path)
    parser.parse_args().output.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    _main()
