"""Recurring runs: made, found, paused, resumed, deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrf.errors import ClusterError
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.submitting import Version, equals

#: Kubeflow's placeholder for what alone changes from one run of a schedule to the next.
SCHEDULED_TIME = "[[ScheduledTime]]"


def find_schedule(cluster: Cluster, name: str) -> Any:
    """The schedule of that name.

    Raises:
        ClusterError: There is none, or several.
    """
    found = with_name(cluster, name)
    if not found:
        raise ClusterError(
            cluster.host, problem=f"there is no schedule {name!r}", fix="`hrf schedules list` shows those there are"
        )
    _refuse_several(cluster, name, found)
    return found[0]


def with_name(cluster: Cluster, name: str) -> list[Any]:
    """All schedules of that name. Kubeflow allows several; this program makes one."""
    return list(list_schedules(cluster, filter=equals("display_name", name)))


def list_schedules(cluster: Cluster, **arguments: Any) -> list[Any]:
    """All schedules, also those that were made in the UI, oldest first."""
    call = cluster.api.recurring_runs.recurring_run_service_list_recurring_runs
    return list(cluster.list_all(call, "recurring_runs", sort_by="created_at asc", **arguments, **cluster.scoped()))


def refuse_second(cluster: Cluster, name: str) -> None:
    """Refuse to make a schedule whose name is taken.

    Raises:
        ClusterError: It is.
    """
    if with_name(cluster, name):
        raise ClusterError(
            cluster.host,
            problem=f"there is a schedule {name!r} already",
            fix="give --replace to put this one in its place, or --name for a second one beside it",
        )


def put_schedule(
    cluster: Cluster,
    *,
    name: str,
    cron: str,
    version: Version,
    experiment_id: str,
    parameters: Mapping[str, str],
    service_account: str,
    description: str,
    replace: bool,
) -> Any:
    """Make a schedule, in the place of the one of that name if there is one and it may be replaced.

    Raises:
        ClusterError: The cluster refuses, or the name is taken.
    """
    import kfp_server_api as models

    if not replace:
        refuse_second(cluster, name)
    old = with_name(cluster, name)
    _refuse_several(cluster, name, old)
    wanted = models.V2beta1RecurringRun(
        display_name=name,
        description=description,
        experiment_id=experiment_id,
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=models.V2beta1RuntimeConfig(parameters=dict(parameters)),
        service_account=service_account or None,
        trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=cron)),
        mode="ENABLE",
        # Two runs at a time would race for the promotion; what was missed while paused is not worth a burst of runs.
        max_concurrency="1",
        no_catchup=True,
    )
    # Paused first, as both could fire at the same time, and deleted last, as the new one may be refused.
    paused = [schedule for schedule in old if is_on(schedule)]
    for schedule in paused:
        pause(cluster, schedule)
    try:
        made = cluster.tell(cluster.api.recurring_runs.recurring_run_service_create_recurring_run, recurring_run=wanted)
    except BaseException:
        for schedule in paused:
            resume(cluster, schedule)
        raise
    for schedule in old:
        delete(cluster, schedule)
    return made


def is_on(schedule: Any) -> bool:
    """Whether it starts runs."""
    return bool(schedule.status == "ENABLED")


def pause(cluster: Cluster, schedule: Any) -> None:
    """Have it start no more runs. A run that is under way goes on."""
    call = cluster.api.recurring_runs.recurring_run_service_disable_recurring_run
    cluster.tell(call, recurring_run_id=schedule.recurring_run_id)


def resume(cluster: Cluster, schedule: Any) -> None:
    """Have it start runs again, from its next time on."""
    call = cluster.api.recurring_runs.recurring_run_service_enable_recurring_run
    cluster.tell(call, recurring_run_id=schedule.recurring_run_id)


def delete(cluster: Cluster, schedule: Any) -> None:
    """Delete it. Its runs stay, also one that is under way: without ORPHAN, Kubernetes would delete their workflows."""
    call = cluster.api.recurring_runs.recurring_run_service_delete_recurring_run
    cluster.tell(call, recurring_run_id=schedule.recurring_run_id, propagation_policy="ORPHAN")


def cron_of(schedule: Any) -> str:
    """Its expression; "" for one that counts seconds, as the UI can make them."""
    trigger = schedule.trigger.cron_schedule if schedule.trigger else None
    return str(trigger.cron or "") if trigger else ""


def _refuse_several(cluster: Cluster, name: str, found: list[Any]) -> None:
    if len(found) > 1:
        raise ClusterError(
            cluster.host,
            problem=f"there are {len(found)} schedules {name!r}",
            fix="delete all but one in the UI (Recurring Runs)",
        )
