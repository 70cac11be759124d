"""`hrf plan`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from hrf_pipelines.cli.configuring import Epochs, Preset, Settings, choose
from hrf_pipelines.cli.console import AsJson, Traceback, console, print_json

if TYPE_CHECKING:
    from hrf.planning.forecast import EpochForecast, Forecast, Work

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def plan(
    preset: Preset,
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    epochs: Epochs = 0,
    gpu: Annotated[str, typer.Option(metavar="a100|h100|l40s|l4", help="Which GPU, one of it.")] = "a100",
    utilisation: Annotated[float, typer.Option(help="Share of its FLOPs that is reached.")] = 0.3,
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Compute what a run will take: denoiser evaluations, FLOPs, time and memory on one GPU, bytes of artifacts."""
    from hrf_pipelines.forecasting import cluster_share, compute
    from hrf_pipelines.placement import Placement

    chosen = choose(preset, settings, epochs=epochs)
    found = compute(chosen.config, gpu, utilisation)
    share = cluster_share(chosen.config, Placement())
    if as_json:
        print_json({**found.to_mapping(), "cluster": asdict(share)})
        return
    screen = console()
    screen.say(
        f"{chosen.title}: {amount(found.num_parameters)} parameters, "
        f"{amount(found.forward_flops)}FLOPs for one sample's forward pass"
    )
    screen.say(_noise_levels(found))
    screen.print(_work_table(found))
    screen.print(_memory_table(found))
    screen.print(_bytes_table(found))
    epochs_each = "an epoch" if share.epochs_per_step == 1 else f"{share.epochs_per_step} epochs"
    screen.say(
        f"On a cluster: {share.tasks} tasks with {epochs_each} a step; their pods take up to "
        f"{duration(share.overhead_seconds)} beside the work."
    )
    for assumption in found.assumptions:
        screen.say(f"* {assumption}")


def _noise_levels(found: Forecast) -> str:
    """Where the steps lie, and from which on the weights are tuned."""
    levels = ", ".join(f"{sigma:.3g}" for sigma in found.sigmas)
    said = f"Its {len(found.sigmas)} steps are at sigma {levels}"
    if found.switch_step:
        said += f"; the tuned weights take step {found.switch_step} and later ones"
    if found.evaluation_steps == len(found.sigmas):
        return f"{said}."
    where = f", the tuned weights from step {found.evaluated_from} on" if found.switch_step else ""
    return f"{said}. Evaluations take {found.evaluation_steps} steps{where}."


def amount(number: float) -> str:
    """Three digits and a unit: 803273441280 -> `803 G`."""
    power = 0
    while abs(number) >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Two units at most: `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _table(title: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right")
    return table


def _work_table(found: Forecast) -> Table:
    table = _table(f"On one {found.gpu}", "part", "times", "evaluations", "FLOPs", "time")
    rows: list[tuple[str, int, Work]] = []
    for epoch in found.epochs:
        rows += [(f"{_name(epoch)}: sample", epoch.num_epochs, epoch.sample)]
        rows += [(f"{_name(epoch)}: update", epoch.num_epochs, epoch.update)]
    rows += [(name.replace("_", " "), 1, work) for name, work in found.once.items() if work.evaluations]
    for name, times, work in rows:
        table.add_row(name, str(times), f"{work.evaluations:,.0f}", amount(work.flops), duration(work.seconds))
    table.add_section()
    total = found.total
    table.add_row("the run", "", f"{total.evaluations:,.0f}", amount(total.flops), duration(total.seconds))
    return table


def _name(epoch: EpochForecast) -> str:
    window = "noise" if epoch.window is None else f"window {epoch.window[0]}-{epoch.window[1] - 1}"
    return f"an epoch from {epoch.first_epoch} on, {window}"


def _memory_table(found: Forecast) -> Table:
    table = _table(f"GPU memory, of {amount(found.gpu_memory_bytes)}B", "part", "bytes")
    for name, size in found.memory_bytes.items():
        if size:
            table.add_row(name.replace("_", " "), f"{amount(size)}B")
    return table


def _bytes_table(found: Forecast) -> Table:
    table = _table("Artifacts of an epoch", "artifact", *(_name(epoch) for epoch in found.epochs))
    for artifact in found.epochs[0].artifact_bytes:
        table.add_row(
            artifact.replace("_", " "), *(f"{amount(epoch.artifact_bytes[artifact])}B" for epoch in found.epochs)
        )
    return table
