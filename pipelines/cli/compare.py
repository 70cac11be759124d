"""`hrf compare`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hrf_pipelines.cli.configuring import Settings
from hrf_pipelines.cli.console import DEFAULT_WORK_DIR, Bucket, Traceback, WorkDir, console
from hrf_pipelines.cli.run import Fresh, run_here

if TYPE_CHECKING:
    from hrf_pipelines.compare import Arm


def compare(
    presets: Annotated[list[str], typer.Argument(metavar="PRESET...", help="Two to six presets.")],
    budget: Annotated[int, typer.Option(min=1, help="Denoiser evaluations per preset (forward 1, with backward 3).")],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    experiment: Annotated[
        str, typer.Option(help="Promoted models are kept under this name and the preset's.")
    ] = "compare",
    fresh: Fresh = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Train presets from the same base on the same budget, and put them side by side in one report."""
    from hrf_pipelines.local.runner import Request

    arms = plan_arms(presets, settings, budget)
    show_plan(arms, budget)

    def build() -> str:
        from hrf_pipelines.compare import build as build_pipeline
        from hrf_pipelines.package import compile_package

        return compile_package(build_pipeline(arms))

    request = Request(
        kind="compare",
        title=" ".join(presets),
        experiment=experiment,
        arguments={},
        configs={arm.preset: arm.config for arm in arms},
        build=build,
    )
    folder = run_here(request, work_dir, bucket, fresh=fresh)
    console().print(f"Report:    {folder.report}", soft_wrap=True, highlight=False)


def plan_arms(presets: list[str], settings: list[str], budget: int) -> list[Arm]:
    """Turn presets into arms of equal cost.

    Raises:
        ConfigError: An arm can't be run at that budget, or arms can't be compared.
    """
    from hrf.config import resolve
    from hrf.config.overrides import from_settings, lay_over
    from hrf.policies.sources import fetch_model
    from hrf_pipelines.compare import check_comparable, plan_arm, total_evaluations

    overrides = lay_over("", from_settings(settings))
    model = resolve(presets[0], overrides).model
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetch_model(model, Path(scratch))
        arms = [
            plan_arm(
                preset,
                overrides=overrides,
                budget=budget,
                evaluations=lambda config: total_evaluations(config, folder),
            )
            for preset in presets
        ]
    check_comparable(arms)
    return arms


def show_plan(arms: list[Arm], budget: int) -> None:
    """Say what each arm's budget buys."""
    table = Table("preset", "epochs", "evaluated every", title=f"{budget:,} denoiser evaluations each")
    for arm in arms:
        every = arm.config.evaluation.every
        table.add_row(arm.preset, str(arm.config.run.epochs), "epoch" if every == 1 else f"{every} epochs")
    console().print(table)
