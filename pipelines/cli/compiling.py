"""`hrf compile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrf_pipelines.cli.configuring import Chosen, Epochs, Preset, Settings, choose
from hrf_pipelines.cli.console import Traceback, console, write_output

if TYPE_CHECKING:
    from hrf_pipelines import placement as placements
    from hrf_pipelines.workflow.size import WorkflowSize


Placement = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE.yaml",
        help="Resources, nodes and secrets: gpu, cpu-small or a file. Left out: what fits model.device.",
    ),
]


def compile_(
    preset: Preset,
    output: Annotated[Path, typer.Option("--output", "-o", help="The package to write.")],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    epochs: Epochs = 0,
    placement: Placement = "",
    _traceback: Traceback = False,
) -> None:
    """Compile the fine-tuning pipeline to a package for a Kubeflow cluster.

    Images come from HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD.
    """
    chosen = choose(preset, settings, epochs=epochs)
    compiled = compile_chosen(chosen, placement)
    write_output("--output", output, compiled.package)
    epochs = chosen.config.run.epochs
    screen = console()
    screen.say(f"{output}: {epochs} epochs, {compiled.num_tasks} tasks")
    screen.say(f"Workflow: {compiled.size.in_words()}")


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A package for a cluster."""

    package: str
    num_tasks: int
    size: WorkflowSize
    placement: placements.Placement


def compile_chosen(chosen: Chosen, placement: str = "") -> Compiled:
    """Compile the fine-tuning pipeline of a configuration.

    Raises:
        ConfigError: The placement is not valid or does not fit, or the run has too many tasks for a cluster.
    """
    from hrf_pipelines.compiled import compile_finetune
    from hrf_pipelines.forecasting import settle_epochs_per_step
    from hrf_pipelines.placement import load_placement
    from hrf_pipelines.plan import count_tasks, plan_epochs
    from hrf_pipelines.workflow.size import check_size, estimate

    site = load_placement(placement, chosen.config)
    package = compile_finetune(chosen.config, site, preset=chosen.preset, overrides=chosen.overrides)
    size = estimate(package)
    check_size(size)
    steps = plan_epochs(settle_epochs_per_step(chosen.config, site), num_shards=site.shards)
    return Compiled(package=package, num_tasks=count_tasks(steps), size=size, placement=site)
