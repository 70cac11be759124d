"""`hrf doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pipelines.commands.console import DEFAULT_WORK_DIR, AsJson, Bucket, Traceback, WorkDir, console, print_json

MARKS = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def doctor(
    image: Annotated[
        bool, typer.Option("--image", help="Check the container image that this runs in: nothing else, no network.")
    ] = False,
    as_json: AsJson = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Check that this machine can do what `hrf` does, and say how to put right what it can't. Exits with 1 then."""
    from pipelines.doctor import examine
    from pipelines.image_check import examine_image

    findings = examine_image() if image else examine(work_dir, bucket)
    if as_json:
        print_json([finding.to_mapping() for finding in findings])
    else:
        screen = console()
        for finding in findings:
            screen.print(
                f"{MARKS[finding.level]}  {finding.name:<16} {escape(finding.detail)}", highlight=False, soft_wrap=True
            )
            if finding.fix:
                screen.print(f"      {'':<16} Fix: {escape(finding.fix)}", highlight=False, soft_wrap=True)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)
