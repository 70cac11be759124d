"""`hrf runs list`, `show`, `resume`, `chain`, and `hrf report`. What they show of a cluster is in `cluster_runs`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hrf.errors import ArtifactError
from hrf_pipelines.cli.cluster_options import Host, Namespace, OnCluster, check_only_on_cluster
from hrf_pipelines.cli.configuring import Experiment
from hrf_pipelines.cli.console import (
    DEFAULT_WORK_DIR,
    AsJson,
    Bucket,
    Traceback,
    WorkDir,
    console,
    note,
    print_json,
)
from hrf_pipelines.cli.following import Poll, Resumes, Wait

if TYPE_CHECKING:
    from pathlib import Path

    from hrf_pipelines.local.run_state import RunFolder, RunState

app = typer.Typer(
    help="Look at the runs of this work directory, or of a cluster.", no_args_is_help=True, invoke_without_command=True
)
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its beginning.")]
AnyRunName = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run's id, or its beginning; the newest if left out.")
]


@app.callback()
def runs(
    context: typer.Context,
    cluster: OnCluster = False,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Look at the runs of this work directory, or of a cluster: `hrf runs --cluster` is `hrf runs list --cluster`."""
    if context.invoked_subcommand:
        if cluster or host or namespace or as_json:
            raise typer.BadParameter(f"write options behind `hrf runs {context.invoked_subcommand}`")
        return
    if not cluster:
        raise typer.BadParameter("name a command, such as `hrf runs list`, or give --cluster")
    list_(cluster=True, host=host, namespace=namespace, as_json=as_json)


@app.command("list")
def list_(
    cluster: OnCluster = False,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """List the runs, oldest first."""
    check_only_on_cluster(cluster, host=host, namespace=namespace)
    if cluster:
        from hrf_pipelines.cli.cluster_runs import list_cluster_runs

        list_cluster_runs(host, namespace, as_json=as_json)
        return
    from hrf_pipelines.cli.tables import runs_table
    from hrf_pipelines.local.run_state import all_runs

    known = all_runs(work_dir / "runs", lambda error: note(f"Passed over: {error}"))
    found: list[tuple[RunFolder, RunState, str]] = [(folder, state, folder.status()) for folder, state in known]
    if as_json:
        print_json([{**_plain(folder), "status": status} for folder, _, status in found])
    elif found:
        console().print(runs_table(found))
    else:
        console().print(f"No runs in {work_dir / 'runs'}. Start one: hrf run avatars-compressibility")


@app.command()
def show(
    run: RunName,
    cluster: OnCluster = False,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Show one run: how it went, its epochs, and where its model comes from."""
    check_only_on_cluster(cluster, host=host, namespace=namespace)
    if cluster:
        from hrf_pipelines.cli.cluster_runs import show_cluster_run

        show_cluster_run(run, host, namespace, as_json=as_json)
        return
    from hrf_pipelines.cli.tables import epochs_table, read_summary
    from hrf_pipelines.local.lineage import lineage_lines, trace
    from hrf_pipelines.local.run_state import find_run

    folder = find_run(work_dir / "runs", run)
    summary = read_summary(folder.summary) if folder.summary.is_dir() else None
    lineage = trace(summary, work_dir, bucket) if summary else []
    if as_json:
        plain = summary.as_json() if summary else None
        print_json({**_plain(folder), "status": folder.status(), "summary": plain, "lineage": lineage})
        return
    screen = console()
    for name, value in _facts(folder).items():
        screen.say(f"{name:<12}{escape(value)}")
    if summary:
        screen.print(epochs_table(summary))
    for line in lineage_lines(lineage):
        screen.say(escape(line))


@app.command()
def resume(
    run: RunName,
    wait: Wait = False,
    resumes: Resumes = 0,
    poll: Poll = 5.0,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Go on with a run of a cluster that failed, was terminated or got lost, from its last finished step.

    On this machine the command that started a run resumes it.
    """
    from hrf_pipelines.cli.cluster_runs import resume_cluster_run

    resume_cluster_run(run, host, namespace, wait=wait, resumes=resumes, poll=poll, as_json=as_json)


@app.command()
def chain(
    experiment: Experiment = "default",
    as_json: AsJson = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Show what an experiment's runs promoted, wherever they ran: each run's start, and the chain back to the base."""
    from hrf.promotion.chain import read_chain
    from hrf.promotion.pointer import check_name
    from hrf_pipelines.cli.chain_view import chain_view
    from hrf_pipelines.local.object_storage import has_embedded_data, is_configured, object_storage

    check_name(experiment, "experiment")
    found: dict[str, Any] = {"experiment": experiment, "storage": None, "runs": [], "promotions": [], "base": None}
    others: list[str] = []
    if is_configured(bucket) or has_embedded_data(work_dir):
        with object_storage(work_dir, bucket) as location:
            storage = location.open()
            found = read_chain(storage, experiment)
            others = [] if found["runs"] else storage.list_folders("")
    if as_json:
        print_json(found)
    elif found["runs"]:
        console().print(chain_view(found))
    else:
        there = f"There are runs of: {', '.join(others)}" if others else "Start one: hrf run avatars-compressibility"
        console().print(escape(f"No runs of experiment {experiment!r}. {there}"))


def report(
    run: AnyRunName = "",
    cluster: OnCluster = False,
    host: Host = "",
    namespace: Namespace = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Print where a run's report is, one HTML file, and open it in a browser. That of a cluster is fetched first."""
    check_only_on_cluster(cluster, host=host, namespace=namespace)
    if cluster:
        from hrf_pipelines.cli.cluster_runs import fetch_cluster_report

        _open(fetch_cluster_report(run, host, namespace, work_dir))
        return
    from hrf_pipelines.local.run_state import find_run

    folder = find_run(work_dir / "runs", run)
    if not folder.report.is_file():
        raise ArtifactError(
            folder.report,
            problem=f"the run is {folder.status()}, and has no report yet",
            fix="give the command again that started it: it goes on from the last finished step",
        )
    _open(folder.report)


def _open(page: Path) -> None:
    """Print where a page is; at a terminal, open it, too."""
    import webbrowser

    typer.echo(str(page))
    if sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())


def _facts(folder: RunFolder) -> dict[str, str]:
    state = folder.read()
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.created))
    facts = {
        "run": state.run_id,
        "what": state.title,
        "experiment": state.experiment,
        "status": f"{folder.status()}, {state.attempts} attempt{'' if state.attempts == 1 else 's'}",
        "started": started,
        "storage": state.arguments.get("storage", ""),
        "hrf": state.hrf_version,
        "log": str(folder.path / "kfp.log"),
    }
    if state.error:
        facts["error"] = f"{state.error['error_type']} in {state.error['step'] or 'the run'}: {state.error['message']}"
    if folder.report.is_file():
        facts["report"] = str(folder.report)
    return facts


def _plain(folder: RunFolder) -> dict[str, Any]:
    return {**asdict(folder.read()), "folder": str(folder.path), "report": _existing(folder.report)}


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None
