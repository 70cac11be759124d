"""What all commands share: the console, options, and how an error is told on one screen."""

from __future__ import annotations

import json
import sys
import traceback as tracebacks
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from hrf.errors import ConfigError, HrfError
from hrf.storage.secrets import without_secrets

_WANTS_TRACEBACK = "hrf.traceback"
EXIT_INTERRUPTED = 130


def _remember(context: typer.Context, value: bool) -> bool:
    context.find_root().meta[_WANTS_TRACEBACK] = value
    return value


WorkDir = Annotated[
    Path, typer.Option("--work-dir", envvar="HRF_WORK_DIR", help="Where runs and the embedded S3 server live.")
]
Bucket = Annotated[
    str, typer.Option("--bucket", help="Bucket of a configured S3 storage, NAME or NAME/PREFIX. [env: HRF_BUCKET]")
]
Traceback = Annotated[
    bool, typer.Option("--traceback", callback=_remember, help="On an error, show where in the code it came from.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
DEFAULT_WORK_DIR = Path(".hrf")


class Screen(Console):
    """A terminal, or what takes its place: no colours but those that are asked for."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False)

    def say(self, text: str) -> None:
        """Print a line without breaking it, so that addresses and commands can be copied."""
        self.print(text, soft_wrap=True)


def console() -> Screen:
    """For results, on standard output."""
    return Screen()


def error_console() -> Screen:
    """For progress and errors, on standard error."""
    return Screen(stderr=True)


def note(text: str) -> None:
    """Tell what a user should know and need not act on, on standard error."""
    error_console().say(f"[yellow]Note:[/] {escape(text)}")


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, unstyled."""
    typer.echo(json.dumps(value, indent=2))


def check_output(output: Path, ending: str) -> None:
    """Refuse a picture that couldn't be written, before it is drawn.

    Raises:
        ConfigError: If it has another one, or can't be a file there.
    """
    if output.suffix.lower() != ending or not output.resolve().parent.is_dir() or output.is_dir():
        raise ConfigError(
            "--output",
            expected=f"a file NAME{ending} in a folder that exists",
            got=str(output),
            fix="correct the name, or make the folder",
        )


def write_output(option: str, output: Path, text: str) -> None:
    """Write a file that an option names.

    Raises:
        ConfigError: It can't be written.
    """
    from hrf.storage.folders import writing_file

    try:
        with writing_file(output) as file:
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(option, expected="a file to write", got=str(output), fix=str(error.strerror)) from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask whether to go on, unless that was said.

    Raises:
        ConfigError: There is nobody to ask.
        typer.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "--yes", expected="it, as there is no terminal to ask at", got=yes, fix="add --yes if this is what you want"
        )
    typer.confirm(question, abort=True, err=True)


def wants_traceback(context: typer.Context) -> bool:
    """Whether `--traceback` was given."""
    return bool(context.find_root().meta.get(_WANTS_TRACEBACK))


def show_error(error: HrfError, *, with_traceback: bool) -> None:
    """Tell an error on one screen: what, the fix, and where the log is."""
    event: dict[str, Any] = getattr(error, "event", {})
    what, _, fix = without_secrets(str(error)).partition(". Fix: ")
    lines = [escape(what.strip())]
    if fix:
        lines += ["", f"[bold]Fix:[/] {escape(fix.strip())}"]
    log = getattr(error, "log", None)
    if log:
        lines += ["", f"[bold]Log:[/] {escape(str(log))}", "The same command goes on from the last finished step."]
    from hrf.promotion.records import place_words

    step = event.get("step")
    where = f" in {place_words(step, event.get('epoch'), event.get('replica'))}" if step else ""
    kind = event.get("error_type", type(error).__name__)
    screen = error_console()
    screen.print(Panel("\n".join(lines), title=f"[red]{escape(kind)}[/]{escape(where)}", title_align="left"))
    if with_traceback:
        told = event.get("traceback") or "".join(tracebacks.format_exception(error))
        screen.say(escape(without_secrets(told)))


def show_unexpected(error: Exception, *, with_traceback: bool) -> None:
    """Tell an error that nobody foresaw."""
    screen = error_console()
    hint = "" if with_traceback else "\n\nThis is a fault of hrf's. Run again with --traceback to see where."
    told = without_secrets(f"{type(error).__name__}: {error}")
    screen.print(Panel(escape(f"{told}{hint}"), title="[red]Unexpected error", title_align="left"))
    if with_traceback:
        told = without_secrets("".join(tracebacks.format_exception(error)))
        screen.say(escape(told))
