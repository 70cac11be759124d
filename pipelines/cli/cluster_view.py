"""Runs and schedules of a cluster as tables for a terminal, and as plain data."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from hrf.errors import ConfigError
from hrf_pipelines.cli.tables import simple_table
from hrf_pipelines.cluster.cron import Cron, parse
from hrf_pipelines.cluster.runs import FINAL, UTC, Task, error_text, moment, names_in_bucket, parameters_of, state_of
from hrf_pipelines.cluster.schedules import cron_of, is_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hrf_pipelines.cluster.connection import Cluster

STATE_COLOURS = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "TERMINATED": "yellow",
    "CANCELED": "yellow",
    "CANCELING": "yellow",
    "RUNNING": "cyan",
}


def plain_run(run: Any, *, experiments: Mapping[str, str], schedules: Mapping[str, str]) -> dict[str, Any]:
    """A run, as the API describes it, as plain data, with the names of experiments and schedules by their ids."""
    created, finished = moment(run.created_at), moment(run.finished_at)
    return {
        "id": run.run_id,
        "name": run.display_name,
        "run_id": names_in_bucket(run)[0],
        "experiment": experiments.get(run.experiment_id, run.experiment_id),
        "state": state_of(run),
        "created": created.isoformat() if created else None,
        "finished": finished.isoformat() if finished else None,
        "seconds": (finished - created).total_seconds() if created and finished else None,
        "schedule": schedules.get(run.recurring_run_id, run.recurring_run_id) if run.recurring_run_id else None,
        "parameters": parameters_of(run),
        "error": error_text(run.error) or None,
    }


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One line per run."""
    table = simple_table(
        "id", "name", "experiment", "state", "created", "took", "schedule", whole=("id", "state", "took")
    )
    for run in runs:
        table.add_row(
            run["id"][:8],
            escape(run["name"] or ""),
            escape(run["experiment"] or ""),
            state_text(run["state"]),
            local_time(run["created"]),
            duration_text(_seconds_until_now(run)),
            escape(run["schedule"] or ""),
        )
    return table


def tasks_table(tasks: Sequence[Task]) -> Table:
    """One line per task that has begun."""
    table = simple_table("task", "state", "took", whole=("task", "state", "took"))
    for task in tasks:
        table.add_row(escape(task.name), state_text(task.state), duration_text(task.seconds))
    return table


def plain_task(task: Task) -> dict[str, Any]:
    """A task as plain data."""
    return {
        "name": task.name,
        "state": task.state,
        "started": task.started.isoformat() if task.started else None,
        "seconds": task.seconds,
        "error": task.error or None,
    }


def plain_schedule(schedule: Any, experiments: Mapping[str, str]) -> dict[str, Any]:
    """A schedule as plain data."""
    cron = _cron(schedule)
    upcoming = cron.next_times(datetime.datetime.now(UTC), 1) if cron and is_on(schedule) else []
    reference = schedule.pipeline_version_reference
    return {
        "id": schedule.recurring_run_id,
        "name": schedule.display_name,
        "cron": cron_of(schedule),
        "in_words": cron.in_words() if cron else "",
        "state": "on" if is_on(schedule) else "paused",
        "next": upcoming[0].isoformat() if upcoming else None,
        "experiment": experiments.get(schedule.experiment_id, schedule.experiment_id),
        "version_id": reference.pipeline_version_id if reference else None,
        "parameters": parameters_of(schedule),
    }


def schedules_table(schedules: Sequence[Mapping[str, Any]]) -> Table:
    """One line per schedule."""
    table = simple_table("name", "when (UTC)", "in words", "state", "next (UTC)", "experiment", whole=("name", "state"))
    for schedule in schedules:
        upcoming = datetime.datetime.fromisoformat(schedule["next"]) if schedule["next"] else None
        table.add_row(
            escape(schedule["name"]),
            escape(schedule["cron"] or "not by cron"),
            escape(schedule["in_words"]),
            "[green]on[/]" if schedule["state"] == "on" else "[yellow]paused[/]",
            f"{upcoming:%Y-%m-%d %H:%M:%S}" if upcoming else "-",
            escape(schedule["experiment"] or ""),
        )
    return table


def state_text(state: str) -> str:
    """A state, coloured."""
    return f"[{STATE_COLOURS.get(state, 'white')}]{state.lower().replace('_', ' ')}[/]"


def duration_text(seconds: float | None) -> str:
    """A duration, such as `1 h 02 min`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def local_time(time: str | None) -> str:
    """A time of plain data, in this machine's zone."""
    return f"{datetime.datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M}" if time else "-"


def link_of(cluster: Cluster, run_id: str) -> str:
    """The run's page in the UI."""
    return cluster.link(f"runs/details/{run_id}")


def _cron(schedule: Any) -> Cron | None:
    """What can be made in the UI is not always what `hrf schedule` would let pass."""
    try:
        return parse(cron_of(schedule))
    except ConfigError:
        return None


def _seconds_until_now(run: Mapping[str, Any]) -> float | None:
    seconds: float | None = run["seconds"]
    if seconds is not None or run["state"] in FINAL or not run["created"]:
        return seconds
    return (datetime.datetime.now(UTC) - datetime.datetime.fromisoformat(run["created"])).total_seconds()
