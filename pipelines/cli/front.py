"""`hrf front`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrf.errors import ConfigError
from hrf_pipelines.cli.console import (
    DEFAULT_WORK_DIR,
    AsJson,
    Bucket,
    Traceback,
    WorkDir,
    check_output,
    console,
    error_console,
    print_json,
)
from hrf_pipelines.cli.runs import AnyRunName

if TYPE_CHECKING:
    from rich.table import Table

    from hrf_pipelines.local.fronts import Front

DEFAULT_STRENGTHS = "0.125,0.25,0.375,0.5,0.75,1"


def front(
    run: AnyRunName = "",
    experiment: Annotated[str, typer.Option(help="Whose run.")] = "default",
    epoch: Annotated[
        int | None, typer.Option(min=0, help="The epoch whose candidate is measured; the last if left out.")
    ] = None,
    strengths: Annotated[str, typer.Option(help="Which ones, with commas between them.")] = DEFAULT_STRENGTHS,
    num_samples: Annotated[
        int | None, typer.Option(min=8, help="How many of the run's fixed seeds; all of them if left out.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write, an SVG file.")] = Path(
        "front.svg"
    ),
    as_json: AsJson = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Measure a run's candidate at several strengths: reward and diversity of base + a (tuned - base), untrained.

    Runs are found in the storage, finished or not, promoted or rejected. A candidate that is stored with a strength
    folded in is measured at shares of that one.
    """
    check_output(output, ".svg")
    chosen = _parse(strengths)
    from hrf.report.fronts import front_picture
    from hrf.rewards import reward_unit
    from hrf.storage.folders import writing_file
    from hrf.storage.s3 import adopt
    from hrf_pipelines.local.fronts import measure_front
    from hrf_pipelines.local.object_storage import object_storage

    screen = error_console()
    with object_storage(work_dir, bucket) as location:
        adopt(location.environment)
        found = measure_front(
            storage=location.uri,
            experiment=experiment,
            run=run,
            epoch=epoch,
            strengths=chosen,
            num_samples=num_samples or 0,
            tell=screen.say,
        )
    with writing_file(output) as file:
        picture = front_picture(found.candidate_id, found.points, found.floor, unit=reward_unit(found.reward))
        file.write_text(picture, encoding="utf-8")
    if as_json:
        print_json(found.as_json())
        return
    console().print(_table(found))
    console().say(f"{output}: reward gain and diversity of {found.candidate_id} over strength")


def _parse(text: str) -> list[float]:
    """The strengths of `--strengths`."""
    from hrf.policies.strength import check_strength

    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(
            "--strengths",
            expected="numbers with commas between them",
            got=text,
            fix=f"write them like {DEFAULT_STRENGTHS}",
        ) from None
    for strength in found:
        check_strength(strength, "--strengths")
    return found


def _table(found: Front) -> Table:
    from hrf_pipelines.cli.progress_view import interval
    from hrf_pipelines.cli.tables import simple_table

    kept = "" if found.strength == 1 else f"; shares of {found.strength:g}, at which it is stored"
    headings = ("strength", "change from base", "diversity / base's", "unrec.", "PVS")
    title = f"{found.candidate_id} by strength, {found.reward}{kept}"
    table = simple_table(*headings, f"keeps {found.floor:g}", whole=headings, title=title)
    for point in found.points:
        unrecognised, variance = (
            point.monitors.get(name) for name in ("unrecognised_fraction", "photographic_variance")
        )
        table.add_row(
            f"{point.strength:g}",
            interval(point.reward_vs_base.as_json()),
            interval(point.diversity_ratio.as_json(), 2),
            "-" if unrecognised is None or unrecognised.value is None else f"{unrecognised.value:.2f}",
            "-" if variance is None or variance.change is None else f"{variance.change:+.0%}",
            "yes" if point.keeps(found.floor) else f"no: {', '.join(point.tripped_monitors) or 'diversity'}",
        )
    return table
