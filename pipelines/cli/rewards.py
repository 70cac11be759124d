"""`hrf rewards`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hrf.errors import ConfigError
from hrf_pipelines.cli.configuring import Preset, Settings, choose
from hrf_pipelines.cli.console import AsJson, Traceback, console, error_console, print_json

app = typer.Typer(
    help="What there is to reward, the sha256 that pins weights, and a correction to fit.", invoke_without_command=True
)


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


@app.command()
def fit_direction(
    preset: Preset,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    settings: Settings = [],  # noqa: B006 - typer reads it, nobody changes it.
    num_samples: Annotated[int, typer.Option(min=1, help="Pictures of the base, for its training prompts.")] = 512,
    weight: Annotated[float, typer.Option(help="How far beyond the direction, above 0.5: reward.weight.")] = 1.5,
    norm: Annotated[float, typer.Option(help="Bound of the direction's length, between 0 and 1.")] = 0.2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient ascent.")] = 300,
    learning_rate: Annotated[float, typer.Option(help="Of the ascent, above 0.")] = 0.05,
    as_json: AsJson = False,
    _traceback: Traceback = False,
) -> None:
    """Fit the direction of the reward `guided_text` to pictures of the base; the reward is `clip_score` or `pickscore`.

    The folder is for one encoder, one base model and one set of training prompts. For a cluster, upload it as it is.
    """
    from hrf.rewards.guided_text import corrected_by
    from hrf.storage.weights import digest_of
    from hrf.storage.yaml_text import dump_yaml
    from hrf_pipelines.local.directions import fit_text_direction

    for option, rule, value, holds in (
        ("--weight", "more than 0.5", weight, 0.5 < weight < math.inf),
        ("--norm", "between 0 and 1: a prompt's embedding has length 1, and could be cancelled", norm, 0 < norm < 1),
        ("--learning-rate", "more than 0", learning_rate, 0 < learning_rate < math.inf),
        ("--output", "a folder that is not there yet", str(output), not output.exists()),
    ):
        if not holds:
            raise ConfigError(option, expected=rule, got=value, fix="choose another one")
    config = choose(preset, settings).config
    error_console().say(f"Drawing {num_samples} pictures of the base, and fitting to them")
    record = fit_text_direction(
        config, output, num_samples=num_samples, weight=weight, norm=norm, steps=steps, learning_rate=learning_rate
    )
    digest = digest_of(output)
    if as_json:
        print_json({"folder": str(output), "sha256": digest, **record.as_json()})
        return
    plain, _ = corrected_by(config.reward, "reward")
    reward = {
        "name": "guided_text",
        "reward": {"name": plain.name, **plain.model_dump(mode="json", exclude_defaults=True)},
        "direction": {"source": str(output.resolve()), "sha256": digest},
        "weight": weight,
    }
    screen = console()
    screen.say(f"Loss:         {record.loss_before:.4f} -> {record.loss_after:.4f}, minus the mean cosine")
    screen.say(f"Norm:         {record.norm:.4g}, of at most {norm:g}")
    screen.say(f"Closed form:  cosine {record.closed_form_cosine:.4f} to the best of all short directions")
    screen.say(f"{output}, for a configuration:\n")
    screen.out(dump_yaml({"reward": reward}), highlight=False, end="")
