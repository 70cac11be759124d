"""The command line, from what typer knows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from hrf_pipelines.cli.main import app


def page() -> str:
    """A heading for each command, with its arguments and options."""
    group = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in _commands("hrf", group))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that can be given, by the words that it begins with."""
    subcommands = getattr(command, "commands", {})
    if not subcommands or command.params:
        yield name, command
    for key, sub in subcommands.items():
        if not sub.hidden:
            yield from _commands(f"{name} {key}", sub)


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [_line(parameter.get_help_record(context)) for parameter in command.params if parameter.name != "help"]
    return "\n\n".join([f"## {name}", _plain(command.help or ""), f"```text\n{usage}\n```", "\n".join(lines)])


def _line(record: tuple[str, str]) -> str:
    """A parameter's, with its default as typer shows it."""
    words, said = record
    return f"* `{words}`: " + re.sub(r"\[([^\]]*)\]$", r"*(\1)*", _plain(said))


def _plain(text: str) -> str:
    """Help for a page: paragraphs as they are, lines joined, without a terminal's marks."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("\f", "")))
