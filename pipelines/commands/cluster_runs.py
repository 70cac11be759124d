"""`hrf runs list --cluster` and `hrf runs show --cluster`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from pipelines.commands.console import console, print_json
from pipelines.commands.submit import show_results

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

#: Runs on one screen; the UI has the older ones.
MOST_RUNS = 50


def list_cluster_runs(host: str, namespace: str, *, as_json: bool) -> None:
    """List the newest runs of a cluster, the newest last as in the list of this machine's runs."""
    from pipelines.cluster.connection import Cluster
    from pipelines.cluster.runs import shown_runs
    from pipelines.cluster.view import plain_run, runs_table

    cluster = Cluster.connect(host, namespace)
    names = _names(cluster)
    newest = list(itertools.islice(shown_runs(cluster), MOST_RUNS + 1))
    found = [plain_run(run, **names) for run in reversed(newest[:MOST_RUNS])]
    if as_json:
        print_json(found)
        return
    screen = console()
    if not found:
        screen.print(f"No runs on {cluster.host}. Start one: hrf submit avatars-compressibility", soft_wrap=True)
        return
    screen.print(runs_table(found))
    if len(newest) > MOST_RUNS:
        screen.print(f"The newest {MOST_RUNS}; see {cluster.link('runs')} for the older ones.", soft_wrap=True)


def show_cluster_run(name: str, host: str, namespace: str, *, as_json: bool) -> None:
    """Show one run of a cluster: its parameters, its tasks, and what it left in its bucket."""
    from pipelines.cluster.connection import Cluster
    from pipelines.cluster.records import fetch_records
    from pipelines.cluster.runs import FINAL, find_run, package_of, task_names, tasks_of
    from pipelines.cluster.view import failure_lines, link_of, plain_run, plain_task, tasks_table

    cluster = Cluster.connect(host, namespace)
    run = find_run(cluster, name)
    tasks = tasks_of(run, task_names(package_of(cluster, run)))
    records = fetch_records(run)
    about = plain_run(run, **_names(cluster))
    failed = run.state in FINAL and run.state != "SUCCEEDED"
    failures = failure_lines(run, tasks, records) if failed else []
    if as_json:
        print_json(
            {
                **about,
                "link": link_of(cluster, run.run_id),
                "tasks": [plain_task(task) for task in tasks],
                "failures": failures,
                "records": records.where,
                "records_error": str(records.error) if records.error else None,
                "status": records.status,
                "summary": records.summary,
            }
        )
        return
    screen = console()
    for key, value in _facts(about, link_of(cluster, run.run_id), records.where).items():
        screen.print(f"{key:<14}{escape(value)}", highlight=False, soft_wrap=True)
    if tasks:
        screen.print(tasks_table(tasks))
    for line in failures:
        screen.print(f"[red]failed[/]        {escape(line)}", highlight=False, soft_wrap=True)
    if records.summary or run.state == "SUCCEEDED" or (failed and records.error):
        show_results(records)


def _names(cluster: Cluster) -> dict[str, dict[str, str]]:
    from pipelines.cluster.runs import experiment_names
    from pipelines.cluster.schedules import list_schedules

    schedules = {schedule.recurring_run_id: schedule.display_name for schedule in list_schedules(cluster)}
    return {"experiments": experiment_names(cluster), "schedules": schedules}


def _facts(about: dict[str, Any], link: str, records: str) -> dict[str, str]:
    from pipelines.cluster.view import duration_text, local_time

    facts = {
        "run": f"{about['name']}  {about['id']}",
        "experiment": about["experiment"],
        "state": about["state"].lower(),
        "created": local_time(about["created"]),
        "took": duration_text(about["seconds"]),
    }
    if about["schedule"]:
        facts["schedule"] = about["schedule"]
    facts |= {f"  {name}": str(value) for name, value in about["parameters"].items() if value != ""}
    return {**facts, "records": records, "see": link}
