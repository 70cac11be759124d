"""The command `hrf`: run, study, compile and look at fine-tuning runs.

Exit codes: 0 done, 1 unexpected, 2 usage, 3 configuration, 4 artifact, 5 numerical, 6 storage, 7 cluster, 8 remote
reward, 9 process, 130 interrupted.
"""

from __future__ import annotations

import select
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hrf import __version__
from hrf.errors import HrfError
from hrf.storage.folders import full_disk_error
from hrf_pipelines.cli import (
    compare_runs,
    compiling,
    doctor,
    front,
    plan,
    presets,
    rewards,
    run,
    runs,
    sample,
    schedule,
    schedules,
    study,
    submit,
)
from hrf_pipelines.cli.console import EXIT_INTERRUPTED, error_console, show_error, show_unexpected, wants_traceback


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more; a connection to a server breaks in the same way."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class Commands(TyperGroup):
    """Tells every error on one screen and turns it into its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except HrfError as error:
            show_error(error, with_traceback=wants_traceback(ctx))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            error_console().print("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _reader_has_left():
                raise  # As `hrf ... | head` does, which is no fault: typer ends quietly.
            if full := full_disk_error(getattr(error, "filename", None) or "a file", error):
                show_error(full, with_traceback=wants_traceback(ctx))
                raise typer.Exit(full.exit_code) from error
            show_unexpected(error, with_traceback=wants_traceback(ctx))
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Commands,
    name="hrf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hrf {__version__}")
        raise typer.Exit


@app.callback()
def hrf(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune diffusion models on a reward, keeping their diversity."""


app.command("run")(run.run)
app.command("study")(study.study)
app.command("compile")(compiling.compile_)
app.command("submit")(submit.submit)
app.command("schedule")(schedule.schedule)
app.add_typer(schedules.app, name="schedules")
app.add_typer(runs.app, name="runs")
app.command("compare-runs")(compare_runs.compare_runs)
app.command("report")(runs.report)
app.command("sample")(sample.sample)
app.command("front")(front.front)
app.command("plan")(plan.plan)
app.command("presets")(presets.presets)
app.add_typer(rewards.app, name="rewards")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of `hrf`."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(app())


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
