"""What `hrf runs` and `hrf report` do on a cluster."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hrf.errors import ArtifactError, ClusterError, HrfError
from hrf_pipelines.cli.cluster_options import connect
from hrf_pipelines.cli.console import console, print_json
from hrf_pipelines.cli.following import check_resumes, show_causes, show_results, tell_end, tell_start

if TYPE_CHECKING:
    from pathlib import Path

    from hrf_pipelines.cluster.connection import Cluster
    from hrf_pipelines.cluster.records import Records

#: Runs on one screen; the UI has the older ones.
MOST_RUNS = 50


def list_cluster_runs(host: str, namespace: str, *, as_json: bool) -> None:
    """List the newest runs of a cluster, the newest last as in the list of this machine's runs."""
    from hrf_pipelines.cli.cluster_view import plain_run, runs_table
    from hrf_pipelines.cluster.runs import shown_runs

    cluster = connect(host, namespace)
    names = _names(cluster)
    newest = list(itertools.islice(shown_runs(cluster), MOST_RUNS + 1))
    found = [plain_run(run, **names) for run in reversed(newest[:MOST_RUNS])]
    if as_json:
        print_json(found)
        return
    screen = console()
    if not found:
        screen.say(f"No runs on {cluster.host}. Start one: hrf submit avatars-compressibility")
        return
    screen.print(runs_table(found))
    if len(newest) > MOST_RUNS:
        screen.say(f"The newest {MOST_RUNS}; see {cluster.link('runs')} for the older ones.")


def show_cluster_run(name: str, host: str, namespace: str, *, as_json: bool) -> None:
    """Show one run of a cluster: its parameters, its tasks, and what it left in its bucket."""
    from hrf_pipelines.cli.cluster_view import link_of, plain_run, plain_task, tasks_table
    from hrf_pipelines.cluster.causes import find_causes
    from hrf_pipelines.cluster.records import end_of, fetch_records
    from hrf_pipelines.cluster.runs import FINAL, find_run, package_of, stands_still, state_of, tasks_of

    cluster = connect(host, namespace)
    run = find_run(cluster, name)
    spec = package_of(cluster, run)
    tasks, records = tasks_of(run, spec), fetch_records(run, spec)
    # Kubeflow's own agent can be minutes behind; the bucket knows of an end as soon as the exit step has run.
    end = None if run.state in FINAL else end_of(run, records)
    state = end.outcome.upper() if end else state_of(run)
    about = {**plain_run(run, **_names(cluster)), "state": state}
    failed = state in FINAL and state != "SUCCEEDED"
    causes = find_causes(cluster, run, tasks, records) if failed else []
    if as_json:
        print_json(
            {
                **about,
                "link": link_of(cluster, run.run_id),
                "tasks": [plain_task(task) for task in tasks],
                "failures": [cause.line for cause in causes],
                "records": records.where,
                "records_error": str(records.error) if records.error else None,
                "status": records.status.as_json() if records.status else None,
                "summary": records.summary.as_json() if records.summary else None,
            }
        )
        return
    screen = console()
    for key, value in _facts(about, link_of(cluster, run.run_id), records.where).items():
        screen.say(f"{key:<14}{escape(value)}")
    if end:
        screen.say("Kubeflow's own record of it is behind: it still says running.")
    if tasks:
        screen.print(tasks_table(tasks))
    if stands_still(run):
        screen.say("Kubeflow stopped to tell of this run's tasks before they ended, as it does past 1 MiB of them.")
    if state not in FINAL:
        _show_progress(cluster, run.run_id, records)
    show_causes(causes, screen)
    if records.summary or state == "SUCCEEDED" or (failed and records.error):
        show_results(records)


def fetch_cluster_report(name: str, host: str, namespace: str, work_dir: Path) -> Path:
    """Fetch a run's report from its bucket; of a run that has none, make the page that says how it ended.

    Raises:
        ClusterError: There is no such run.
        ArtifactError: It has neither yet.
        StorageError: Its bucket can't be read from here.
    """
    from hrf.report import render_status
    from hrf_pipelines.cluster.records import end_of, fetch_records, read_report
    from hrf_pipelines.cluster.runs import find_run, package_of, shown_runs, state_of

    cluster = connect(host, namespace)
    newest = "" if name else next((run.run_id for run in shown_runs(cluster)), "")
    run = find_run(cluster, name or newest)
    spec = package_of(cluster, run)
    records = fetch_records(run, spec)
    if records.error:
        raise records.error
    folder = work_dir / "cluster" / str(run.run_id)
    page = read_report(records)
    status = end_of(run, records)
    if page is None and status is not None:
        # The report of the exit step, for the same people, from what it stored.
        page = render_status(status).encode()
    if page is None:
        state = state_of(run).lower()
        fix = f"hrf runs show {run.run_id[:8]} --cluster"
        raise ArtifactError(records.where, problem=f"the run is {state}, and has no report yet", fix=fix)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "report.html"
    file.write_bytes(page)
    return file


def resume_cluster_run(
    name: str, host: str, namespace: str, *, wait: bool, resumes: int, poll: float, as_json: bool
) -> None:
    """Go on with a run that did not succeed, in a new one."""
    from hrf_pipelines.cli.cluster_view import link_of
    from hrf_pipelines.cluster.resuming import resume_run
    from hrf_pipelines.cluster.runs import find_run, package_of

    check_resumes(resumes, wait)
    cluster = connect(host, namespace)
    found = find_run(cluster, name)
    run = resume_run(cluster, found)
    tag = run.runtime_config.parameters["run_tag"]
    facts = {"id": run.run_id, "name": run.display_name, "resumes": found.run_id, "run_tag": tag}
    facts["link"] = link_of(cluster, run.run_id)
    lines = (
        f"Run:      {run.display_name}  {run.run_id}",
        f"Goes on:  with {tag}; what it has finished comes from Kubeflow's cache",
        f"See:      {facts['link']}",
    )
    tell_start(run, lines, facts, wait=wait, as_json=as_json)
    if not wait:
        return
    spec = package_of(cluster, run)
    if spec is None:
        raise ClusterError(cluster.host, problem="its pipeline version is gone", fix="look at the run in the UI")
    tell_end(cluster, run, spec, poll=poll, resumes=resumes, facts=facts, as_json=as_json)


def _show_progress(cluster: Cluster, run_id: str, records: Records) -> None:
    """What is known of a run at work beside its tasks: its candidates, and pods that wait for something."""
    from hrf_pipelines.cluster.causes import find_long_waits, pods_command

    screen = console()
    for decision in records.decisions:
        screen.print(f"candidate of epoch {decision.epoch} {decision.outcome}")
    try:
        lines = [f"{wait.where} waits: {wait.why or 'no reason is told'}" for wait in find_long_waits(cluster, run_id)]
    except HrfError:
        lines = [f"What its pods wait for, if they do: {pods_command(cluster, run_id)}"]
    for line in lines:
        screen.say(escape(line))


def _names(cluster: Cluster) -> dict[str, dict[str, str]]:
    from hrf_pipelines.cluster.runs import experiment_names
    from hrf_pipelines.cluster.schedules import list_schedules

    schedules = {schedule.recurring_run_id: schedule.display_name for schedule in list_schedules(cluster)}
    return {"experiments": experiment_names(cluster), "schedules": schedules}


def _facts(about: dict[str, Any], link: str, records: str) -> dict[str, str]:
    from hrf_pipelines.cli.cluster_view import duration_text, local_time

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
