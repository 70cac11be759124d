"""`hrf run`."""

from __future__ import annotations

import shlex
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf_pipelines.cli.configuring import Epochs, Experiment, Preset, Settings, StartFrom, choose
from hrf_pipelines.cli.console import DEFAULT_WORK_DIR, Bucket, Traceback, WorkDir, console, error_console, note

if TYPE_CHECKING:
    from pathlib import Path

    from hrf_pipelines.local.run_state import RunFolder
    from hrf_pipelines.local.runner import Request

Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew, even if the same command has an unfinished run.")]


def run(
    preset: Preset,
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    experiment: Experiment = "default",
    start_from: StartFrom = "",
    epochs: Epochs = 0,
    fresh: Fresh = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Fine-tune on this machine. Given again after a kill, the same command goes on where the run was."""
    from hrf_pipelines.local.runner import Request
    from hrf_pipelines.plan import check_task_budget, count_tasks, plan_epochs

    chosen = choose(preset, settings, epochs=epochs, start_from=start_from)
    with without_budget_warnings():
        check_task_budget(count_tasks(plan_epochs(chosen.config)))

    def build() -> str:
        from hrf_pipelines.finetune import build as build_pipeline
        from hrf_pipelines.package import compile_package

        return compile_package(build_pipeline(chosen.config, preset=chosen.preset, overrides=chosen.overrides))

    request = Request(
        title=chosen.title,
        experiment=experiment,
        arguments={"preset": chosen.preset, "overrides": chosen.overrides, "start_from": start_from},
        config=chosen.config,
        build=build,
    )
    folder = run_here(request, work_dir, bucket, fresh=fresh)
    show_finished(folder, work_dir, bucket)


def run_here(request: Request, work_dir: Path, bucket: str, *, fresh: bool) -> RunFolder:
    """Run a request on this machine and show its progress; returns the finished run."""
    from hrf.promotion.pointer import check_name
    from hrf_pipelines.cli.progress_view import ProgressView
    from hrf_pipelines.local.object_storage import object_storage
    from hrf_pipelines.local.runner import check_devices, execute, open_run

    check_name(request.experiment, "experiment")
    check_devices([request.config])
    screen = error_console()
    with object_storage(work_dir, bucket) as location:
        location.open().check()
        with without_budget_warnings():
            folder, resumed = open_run(request, work_dir / "runs", location, fresh=fresh, tell=note)
        word = "Resuming" if resumed else "Starting"
        screen.print(f"{word} run [bold]{folder.path.name}[/] of {escape(request.title)} ({location.uri})")
        try:
            asked = folder.read()
            with ProgressView(screen, asked.epochs, asked.config.get("run", {}).get("replicas", 1)) as view:
                execute(folder, location, view.handle)
        except KeyboardInterrupt:
            screen.print(f"Stopped run {folder.path.name}. The same command resumes it:\n  {escape(this_command())}")
            raise
        finally:
            folder.unlock()
    return folder


def show_finished(folder: RunFolder, work_dir: Path, bucket: str) -> None:
    """The end of a run: a table of its epochs, where everything is, and what to do next."""
    from hrf_pipelines.cli.tables import epochs_table, read_summary

    state, screen = folder.read(), console()
    summary = read_summary(folder.summary)
    screen.print(epochs_table(summary))
    screen.say(f"Report:    {folder.report}")
    promoted = summary.promoted
    if not promoted:
        screen.print("Promoted:  nothing yet; the report says what the gate missed")
        return
    where = f"{state.arguments['storage']}/{promoted.candidate_key}"
    screen.say(f"Promoted:  {promoted.candidate_id}  {where}")
    options = "" if work_dir == DEFAULT_WORK_DIR else f" --work-dir {shlex.quote(str(work_dir))}"
    options += f" --bucket {shlex.quote(bucket)}" if bucket else ""
    command = f"hrf sample --experiment {shlex.quote(state.experiment)} --num 16 -o grid.png{options}"
    screen.say(f"Samples:   {command}")


def without_budget_warnings() -> warnings.catch_warnings[None]:
    """A block without the warning of many tasks: what a cluster can't retry, this machine can resume."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def this_command() -> str:
    """The command line, as it was typed."""
    return shlex.join(["hrf", *sys.argv[1:]])
