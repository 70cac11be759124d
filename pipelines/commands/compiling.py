"""`hrf compile`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.commands.configuring import Settings, choose
from pipelines.commands.console import Traceback, console, error_console


def compile_(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.yaml", help="A preset, or a configuration file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The package to write.")],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    epochs: Annotated[int, typer.Option(min=0, help="Instead of run.epochs; 0 leaves it.")] = 0,
    _traceback: Traceback = False,
) -> None:
    """Compile the fine-tuning pipeline to a package for a Kubeflow cluster.

    Images come from HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD.
    """
    from hrf.errors import ConfigError
    from pipelines.finetune import build
    from pipelines.package import compile_package
    from pipelines.plan import count_tasks, plan_epochs

    chosen = choose(preset, settings, {"epochs": epochs} if epochs else {})
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as noted:
        package = compile_package(build(chosen.config, preset=chosen.preset, overrides=chosen.overrides))
    for warning in noted:
        error_console().print(f"[yellow]Note:[/] {escape(str(warning.message))}", soft_wrap=True, highlight=False)
    try:
        output.write_text(package, encoding="ascii")
    except OSError as error:
        raise ConfigError("--output", expected="a file to write", got=str(output), fix=str(error.strerror)) from error
    tasks = count_tasks(plan_epochs(chosen.config))
    console().print(f"{output}: {chosen.config.run.epochs} epochs, {tasks} tasks", soft_wrap=True, highlight=False)
