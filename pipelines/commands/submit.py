"""`hrf submit`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipelines.commands.cluster_options import (
    Epochs,
    Experiment,
    Host,
    Namespace,
    ServiceAccount,
    StartFrom,
    StorageUri,
    check_prepared,
    connect,
    pack,
)
from pipelines.commands.compiling import Placement
from pipelines.commands.configuring import Settings
from pipelines.commands.console import AsJson, Traceback, console, error_console, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pipelines.cluster.causes import Cause
    from pipelines.cluster.connection import Cluster
    from pipelines.cluster.records import Records
    from pipelines.cluster.watching import Ended

ENDS = {"FAILED": "failed", "TERMINATED": "was terminated", "CANCELED": "was cancelled"}


def submit(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset, or a configuration file.")],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    experiment: Experiment = "default",
    start_from: StartFrom = "",
    epochs: Epochs = 0,
    storage: StorageUri = "",
    placement: Placement = "",
    run_tag: Annotated[
        str, typer.Option("--run-tag", help="The run's name in the bucket, to be used once; else Kubeflow's id.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end. Exits with 1 if it does not succeed.")
    ] = False,
    poll: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="How often to look, with --wait.")] = 5.0,
    service_account: ServiceAccount = "",
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Fine-tune on a Kubeflow cluster: upload the package, unless it is there, and start a run of it."""
    from hrf.promoted import check_name
    from pipelines.cluster.submitting import PIPELINE, put_experiment, put_version, start_run
    from pipelines.cluster.view import link_of

    if run_tag:
        check_name(run_tag, "--run-tag")
    packed = pack(
        preset,
        settings,
        epochs=epochs,
        start_from=start_from,
        experiment=experiment,
        storage=storage,
        placement=placement,
    )
    cluster, account = connect(host, namespace), service_account or packed.placement.service_account
    check_prepared(cluster, packed, account)
    version = put_version(cluster, packed.package, packed.about)
    experiment_id = put_experiment(cluster, experiment)
    run = start_run(
        cluster,
        version=version,
        experiment_id=experiment_id,
        name=run_tag or f"{packed.stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        parameters={**packed.parameters, "run_tag": run_tag},
        service_account=account,
    )
    place = f"{packed.parameters['storage']}/{experiment}/runs/{run_tag or run.run_id}"
    facts = {
        "id": run.run_id,
        "name": run.display_name,
        "version": version.name,
        "uploaded": not version.was_there,
        "experiment": experiment,
        "storage": place,
        "link": link_of(cluster, run.run_id),
    }
    # Results go to standard output; with --json they are one document, and all this is progress.
    screen = error_console() if as_json else console()
    lines = (
        f"Version:  {version.name} of {PIPELINE}, {'was there' if version.was_there else 'uploaded'}",
        f"Run:      {run.display_name}  {run.run_id}",
        f"See:      {facts['link']}",
        f"Records:  {place}",
        *(() if wait else (f"Follow:   hrf runs show {run.run_id[:8]} --cluster",)),
    )
    for line in lines:
        screen.print(escape(line), soft_wrap=True, highlight=False)
    if not wait:
        if as_json:
            print_json(facts)
        return
    ended, records = _wait(cluster, run, packed.package, poll)
    if as_json:
        print_json({**facts, "state": ended.state, "summary": records.summary})
    elif ended.state == "SUCCEEDED":
        show_results(records)
    if ended.state != "SUCCEEDED":
        raise typer.Exit(1)


def show_results(records: Records) -> None:
    """The table of a finished run's epochs and what was promoted, as at the end of `hrf run`."""
    from pipelines.tables import epochs_table

    screen = console()
    if records.error:
        screen.print(f"Records can't be read from here. {escape(str(records.error))}", soft_wrap=True, highlight=False)
        return
    if records.summary is None:
        screen.print(f"No summary at {escape(records.where)}", soft_wrap=True, highlight=False)
        return
    screen.print(epochs_table(records.summary))
    promoted = records.summary["promoted"]
    told = promoted["candidate_id"] if promoted else "nothing yet; the report says what the gate missed"
    screen.print(f"Promoted: {escape(told)}", soft_wrap=True, highlight=False)
    screen.print(f"Report:   {escape(records.where)}/report.html", soft_wrap=True, highlight=False)


def show_causes(causes: Sequence[Cause], screen: Console) -> None:
    """Why a run did not succeed, one line each, and whose log may tell more."""
    for cause in causes:
        screen.print(f"[red]{escape(cause.line)}[/]", soft_wrap=True, highlight=False)
        if cause.pod:
            screen.print(f"  pod {escape(cause.pod)}", soft_wrap=True, highlight=False)


def _wait(cluster: Cluster, run: Any, package: str, poll: float) -> tuple[Ended, Records]:
    """Follow a run to its end, and say there why it failed if it did."""
    import yaml

    from hrf.errors import ClusterError
    from pipelines.cluster.causes import find_causes
    from pipelines.cluster.records import fetch_records
    from pipelines.cluster.runs import tasks_of
    from pipelines.cluster.watching import RunView, follow

    screen = error_console()
    spec = next(yaml.safe_load_all(package))
    try:
        with RunView(screen, spec) as view:
            ended = follow(cluster, run.run_id, view, poll_seconds=poll)
    except (KeyboardInterrupt, ClusterError):
        screen.print(
            f"The run goes on in the cluster. To look at it:\n  hrf runs show {run.run_id[:8]} --cluster",
            highlight=False,
        )
        raise
    records = fetch_records(ended.run, spec)
    if ended.state != "SUCCEEDED":
        screen.print(f"[red]The run {ENDS.get(ended.state, 'was skipped')}.[/]", highlight=False)
        show_causes(find_causes(cluster, ended.run, tasks_of(ended.run, spec), records), screen)
    return ended, records
