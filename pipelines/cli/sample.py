"""`hrf sample`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hrf.errors import ConfigError
from hrf_pipelines.cli.console import DEFAULT_WORK_DIR, Bucket, Traceback, WorkDir, check_output, console


class Source(StrEnum):
    """Which model to draw from."""

    PROMOTED = "promoted"
    BASE = "base"


def sample(
    num: Annotated[int, typer.Option(min=1, max=1024, help="How many images.")] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("grid.png"),
    source: Annotated[
        Source, typer.Option("--from", help="The promoted model, or the base that it came from.")
    ] = Source.PROMOTED,
    experiment: Annotated[str, typer.Option(help="Whose promoted model.")] = "default",
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What a text-to-image model draws; may be repeated. By default its evaluation prompts."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same noise for both models.")] = 0,
    strength: Annotated[
        float, typer.Option(help="How much of what was learnt the promoted model keeps, above 0 and at most 1.")
    ] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Denoising steps; by default as many as in evaluations.")
    ] = None,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Draw images from the promoted model, or from the base, into one picture."""
    check_output(output, ".png")
    _check_strength(strength, source)
    from hrf.storage.s3 import adopt
    from hrf_pipelines.local.drawing import draw_samples
    from hrf_pipelines.local.object_storage import object_storage

    with object_storage(work_dir, bucket) as location:
        adopt(location.environment)
        draw_samples(
            storage=location.uri,
            experiment=experiment,
            source=source.value,
            num_samples=num,
            seed=seed,
            strength=strength,
            output=str(output),
            prompts=prompt or (),
            num_steps=steps,
        )
    at = "" if strength == 1 else f" at strength {strength:g}"
    console().say(f"{output}: {num} samples of the {source.value} model{at}")


def _check_strength(strength: float, source: Source) -> None:
    """Refuse what is no strength, and any of the base, which has learnt nothing."""
    from hrf.policies.strength import check_strength

    check_strength(strength, "--strength")
    if strength != 1 and source is Source.BASE:
        raise ConfigError(
            "--strength",
            expected="none with --from base: the base has learnt nothing to scale",
            got=strength,
            fix="leave out one of the two",
        )
