"""`hrf rewards`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hrf_pipelines.cli.console import AsJson, console, print_json

app = typer.Typer(help="What there is to reward, and the sha256 that pins weights.", invoke_without_command=True)


@app.callback()
def rewards(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the rewards: what they measure, range and direction, weights, licence, cost, and what to install."""
    if ctx.invoked_subcommand:
        return
    from hrf.rewards import CATALOGUE

    if as_json:
        print_json([asdict(record) for record in CATALOGUE])
        return
    for record in CATALOGUE:
        table = Table(
            box=None, show_header=False, title=f"[bold]{record.name}[/]", title_justify="left", padding=(0, 2)
        )
        for name, value in asdict(record).items():
            if name != "name" and value:
                shown = "yes" if value is True else str(value)
                table.add_row(name.replace("_", " "), escape(shown))
        console().print(table)
        console().print()


@app.command()
def digest(path: Annotated[Path, typer.Argument(exists=True, help="A file or a folder.")]) -> None:
    """Print the sha256 to write beside a source of weights."""
    from hrf.storage.weights import digest_of

    typer.echo(digest_of(path))
