"""Following a run on a cluster to its end, and saying there how it went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hrf.errors import ClusterError, ConfigError
from hrf_pipelines.cli.console import Screen, console, error_console, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hrf_pipelines.cluster.causes import Cause
    from hrf_pipelines.cluster.connection import Cluster
    from hrf_pipelines.cluster.records import Records
    from hrf_pipelines.cluster.watching import Ended

ENDS = {"FAILED": "failed", "TERMINATED": "was terminated", "CANCELED": "was cancelled"}
Wait = Annotated[bool, typer.Option("--wait", help="Follow the run to its end. Exits with 1 if it does not succeed.")]
Poll = Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="How often to look, with --wait.")]
Resumes = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="With --wait: go on so often with a run that failed from its surroundings."),
]


def check_resumes(resumes: int, wait: bool) -> None:
    """Refuse resumes that nobody would wait for."""
    if resumes and not wait:
        raise ConfigError("--resumes", expected="--wait beside it", got=resumes, fix="add --wait, or leave it out")


def tell_start(run: Any, lines: Sequence[str], facts: Mapping[str, Any], *, wait: bool, as_json: bool) -> None:
    """Say that a run was started, and how to follow it unless that is done here.

    With `as_json` the lines are progress only, and the facts one document, printed at the end that is awaited.
    """
    screen = error_console() if as_json else console()
    for line in (*lines, *([] if wait else [f"Follow:   hrf runs show {run.run_id[:8]} --cluster"])):
        screen.say(escape(line))
    if as_json and not wait:
        print_json(facts)


def tell_end(
    cluster: Cluster,
    run: Any,
    spec: Mapping[str, Any],
    *,
    poll: float,
    resumes: int,
    facts: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Follow a run to its end, tell it, and exit with 1 if it did not succeed.

    With `as_json` the end is one document, with the facts.
    """
    ended, records = follow_to_end(cluster, run, spec, poll=poll, resumes=resumes)
    if as_json:
        summary = records.summary and records.summary.as_json()
        print_json({**facts, "id": ended.run.run_id, "state": ended.state, "summary": summary})
    elif ended.state == "SUCCEEDED":
        show_results(records)
    if ended.state != "SUCCEEDED":
        raise typer.Exit(1)


def follow_to_end(
    cluster: Cluster, run: Any, spec: Mapping[str, Any], *, poll: float, resumes: int
) -> tuple[Ended, Records]:
    """Follow a run, and the runs that go on with it, to the end; say there why it failed if it did."""
    from hrf_pipelines.cluster.causes import find_causes
    from hrf_pipelines.cluster.records import fetch_records
    from hrf_pipelines.cluster.resuming import resume_run
    from hrf_pipelines.cluster.runs import tasks_of
    from hrf_pipelines.cluster.watching import RunView, follow

    screen = error_console()
    while True:
        try:
            with RunView(screen, spec) as view:
                ended = follow(cluster, run.run_id, view, poll_seconds=poll)
        except (KeyboardInterrupt, ClusterError):
            screen.print(f"The run goes on in the cluster. To look at it:\n  hrf runs show {run.run_id[:8]} --cluster")
            raise
        records = fetch_records(ended.run, spec)
        if ended.state == "SUCCEEDED":
            return ended, records
        causes = find_causes(cluster, ended.run, tasks_of(ended.run, spec), records)
        screen.print(f"[red]The run {ENDS.get(ended.state, 'was skipped')}.[/]")
        show_causes(causes, screen)
        if not resumes or not all(cause.may_pass for cause in causes):
            return ended, records
        resumes -= 1
        run = resume_run(cluster, ended.run)
        screen.say(f"Going on with it as {run.run_id}.")


def show_results(records: Records) -> None:
    """The table of a finished run's epochs and what was promoted, as at the end of `hrf run`."""
    from hrf_pipelines.cli.tables import epochs_table

    screen = console()
    if records.error:
        screen.say(f"Records can't be read from here. {escape(str(records.error))}")
        return
    if records.summary is None:
        screen.say(f"No summary at {escape(records.where)}")
        return
    screen.print(epochs_table(records.summary))
    promoted = records.summary.promoted
    told = promoted.candidate_id if promoted else "nothing yet; the report says what the gate missed"
    screen.say(f"Promoted: {escape(told)}")
    screen.say(f"Report:   {escape(records.where)}/report.html")


def show_causes(causes: Sequence[Cause], screen: Screen) -> None:
    """Why a run did not succeed, one line each, and whose log may tell more."""
    for cause in causes:
        screen.say(f"[red]{escape(cause.line)}[/]")
        if cause.pod:
            screen.say(f"  pod {escape(cause.pod)}")
