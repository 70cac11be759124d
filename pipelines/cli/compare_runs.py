"""`hrf compare-runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf.errors import ArtifactError
from hrf_pipelines.cli.cluster_options import Host, Namespace, OnCluster, check_only_on_cluster, connect
from hrf_pipelines.cli.console import DEFAULT_WORK_DIR, AsJson, Traceback, WorkDir, console, print_json, write_output

if TYPE_CHECKING:
    from hrf.promotion.records import RunSummary


def compare_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two to ten finished runs.")],
    cluster: OnCluster = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the numbers there, too.")] = None,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Put finished runs side by side, by the numbers that each ended in."""
    check_only_on_cluster(cluster, host=host, namespace=namespace)
    from hrf_pipelines.cli.run_comparison import as_csv, as_plain, as_table, compare, notes

    summaries = _from_cluster(runs, host, namespace) if cluster else _from_here(runs, work_dir)
    compared = compare(summaries)
    if csv:
        write_output("--csv", csv, as_csv(compared))
    if as_json:
        print_json(as_plain(compared))
        return
    screen = console()
    screen.print(as_table(compared))
    for note in notes(compared):
        screen.say(f"[yellow]Not comparable:[/] {escape(note)}")


def _from_here(names: list[str], work_dir: Path) -> dict[str, RunSummary]:
    from hrf_pipelines.cli.tables import read_summary
    from hrf_pipelines.local.run_state import find_run

    folders = [find_run(work_dir / "runs", name) for name in names]
    return {folder.path.name: read_summary(folder.summary) for folder in folders}


def _from_cluster(names: list[str], host: str, namespace: str) -> dict[str, RunSummary]:
    from hrf_pipelines.cluster.records import fetch_records
    from hrf_pipelines.cluster.runs import find_run

    connected = connect(host, namespace)
    summaries: dict[str, RunSummary] = {}
    for run in {run.run_id: run for run in (find_run(connected, name) for name in names)}.values():
        records = fetch_records(run)
        if records.summary is None:
            raise records.error or ArtifactError(
                f"{records.where}/summary.json",
                problem=f"run {run.display_name} is {str(run.state).lower()}, and has left no summary",
                fix="compare runs that have succeeded; `hrf runs --cluster` shows their states",
            )
        # Two runs may have the same name on a cluster.
        taken = run.display_name in summaries
        summaries[f"{run.display_name} {run.run_id[:8]}" if taken else run.display_name] = records.summary
    return summaries
