"""`hrf schedules list`, `pause`, `resume` and `delete`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from hrf_pipelines.cli.cluster_options import Host, Namespace, connect
from hrf_pipelines.cli.console import AsJson, Traceback, Yes, confirm, console, print_json

app = typer.Typer(help="Look at the schedules of a cluster, pause, resume or delete them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


@app.command("list")
def list_(host: Host = "", namespace: Namespace = "", as_json: AsJson = False, _traceback: Traceback = False) -> None:
    """List the schedules, oldest first."""
    from hrf_pipelines.cli.cluster_view import plain_schedule, schedules_table
    from hrf_pipelines.cluster.runs import experiment_names
    from hrf_pipelines.cluster.schedules import list_schedules

    cluster = connect(host, namespace)
    experiments = experiment_names(cluster)
    found = [plain_schedule(schedule, experiments) for schedule in list_schedules(cluster)]
    if as_json:
        print_json(found)
    elif found:
        console().print(schedules_table(found))
    else:
        console().say('No schedules. Make one: hrf schedule avatars-compressibility --cron "0 0 3 * * *"')


@app.command()
def pause(
    name: Name, host: Host = "", namespace: Namespace = "", as_json: AsJson = False, _traceback: Traceback = False
) -> None:
    """Have a schedule start no more runs. A run that is under way goes on."""
    from hrf_pipelines.cluster.schedules import pause as act

    _change(name, host, namespace, act, "paused", as_json=as_json)


@app.command()
def resume(
    name: Name, host: Host = "", namespace: Namespace = "", as_json: AsJson = False, _traceback: Traceback = False
) -> None:
    """Have a paused schedule start runs again, from its next time on."""
    from hrf_pipelines.cluster.schedules import resume as act

    _change(name, host, namespace, act, "on", as_json=as_json)


@app.command()
def delete(
    name: Name,
    yes: Yes = False,
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Delete a schedule. Its runs stay, and what they promoted."""
    from hrf_pipelines.cluster.schedules import delete as act

    confirm(f"Delete the schedule {name}?", yes=yes)
    _change(name, host, namespace, act, "deleted", as_json=as_json)


def _change(
    name: str, host: str, namespace: str, act: Callable[[Any, Any], None], state: str, *, as_json: bool
) -> None:
    from hrf_pipelines.cluster.schedules import find_schedule

    cluster = connect(host, namespace)
    schedule = find_schedule(cluster, name)
    act(cluster, schedule)
    if as_json:
        print_json({"id": schedule.recurring_run_id, "name": name, "state": state})
    else:
        console().print(f"Schedule {escape(name)} is {state}.")
