"""`hrf schedule`."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf_pipelines.cli.cluster_options import (
    Host,
    Namespace,
    ServiceAccount,
    StorageUri,
    pack,
    reach,
)
from hrf_pipelines.cli.compiling import Placement
from hrf_pipelines.cli.configuring import Epochs, Experiment, Preset, Settings, StartFrom
from hrf_pipelines.cli.console import AsJson, Traceback, Yes, confirm, console, error_console, print_json

if TYPE_CHECKING:
    from hrf_pipelines.cluster.cron import Cron

#: The controller counts in its own zone, which is this one unless an administrator changed `cronScheduleTimezone`.
ZONE = "UTC"


def schedule(
    preset: Preset,
    cron: Annotated[
        str, typer.Option("--cron", help='Six fields, the second first, in UTC: "0 0 3 * * *" is every day at 03:00.')
    ],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    name: Annotated[str, typer.Option("--name", help="The schedule's name; else the preset's.")] = "",
    experiment: Experiment = "default",
    start_from: StartFrom = "",
    epochs: Epochs = 0,
    storage: StorageUri = "",
    placement: Placement = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Put this schedule in the place of the one of the same name.")
    ] = False,
    yes: Yes = False,
    service_account: ServiceAccount = "",
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Fine-tune on a Kubeflow cluster again and again, each run from what the one before promoted.

    One run at a time; times that pass meanwhile, or while the schedule is paused, are left out.
    """
    from hrf.promotion.pointer import check_name
    from hrf_pipelines.cli.cluster_view import plain_schedule
    from hrf_pipelines.cluster.cron import parse
    from hrf_pipelines.cluster.schedules import SCHEDULED_TIME, put_schedule, refuse_second
    from hrf_pipelines.cluster.submitting import put_experiment, put_version

    read = parse(cron)
    packed = pack(
        preset,
        settings,
        epochs=epochs,
        start_from=start_from,
        experiment=experiment,
        storage=storage,
        placement=placement,
    )
    called = name or packed.stem
    check_name(called, "--name")
    cluster, account = reach(host, namespace, packed.placement, service_account, packed.parameters["storage"])
    if not replace:
        refuse_second(cluster, called)
    _explain(called, read, experiment, packed.parameters["storage"])
    confirm("Make it?", yes=yes)
    version = put_version(cluster, packed.package, packed.about)
    experiment_id = put_experiment(cluster, experiment)
    made = put_schedule(
        cluster,
        name=called,
        cron=read.text,
        version=version,
        experiment_id=experiment_id,
        parameters={**packed.parameters, "run_tag": f"{called}-{SCHEDULED_TIME}", "noise_tag": SCHEDULED_TIME},
        service_account=account,
        description=f"{read.in_words()} ({ZONE}); {packed.chosen.title}, version {version.name}",
        replace=replace,
    )
    link = cluster.link(f"recurringrun/details/{made.recurring_run_id}")
    if as_json:
        print_json({**plain_schedule(made, {experiment_id: experiment}), "version": version.name, "link": link})
        return
    screen = console()
    for line in (
        f"Schedule:  {called}  {made.recurring_run_id}",
        f"Version:   {version.name}, {'was there' if version.was_there else 'uploaded'}; later code does not change it",
        f"See:       {link}",
        f"Stop it:   hrf schedules pause {called}",
    ):
        screen.say(escape(line))


def _explain(name: str, cron: Cron, experiment: str, storage: str) -> None:
    """Say what is about to be asked for, before it is."""
    screen = error_console()
    times = cron.next_times(datetime.datetime.now(datetime.UTC), 3)
    for line in (
        f"Schedule [bold]{escape(name)}[/] of experiment {escape(experiment)} in {escape(storage)}",
        f"  when      {escape(cron.in_words())} ({ZONE})",
        f"  next      {', '.join(f'{time:%a %Y-%m-%d %H:%M:%S}' for time in times)} ({ZONE})",
        "  how       one run at a time; missed times are left out",
    ):
        screen.say(line)
