"""The command ``python -m tools.base_model OUT``."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

import torch

from tools.base_model.build import BuildSettings, build
from tools.base_model.train_diffusion import DiffusionTraining


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: Without the program's name.

    Returns:
        ``output``, ``updates``, ``images_per_style``, ``samples``, ``scratch``, ``threads``.
    """
    defaults = BuildSettings()
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        prog="python -m tools.base_model",
        description="Draw the data, train the base model and its classifier, judge both.",
    )
    parser.add_argument("output", type=Path, help="folder for the models and the model card")
    parser.add_argument("--updates", type=int, default=defaults.diffusion.num_updates, help="diffusion updates")
    parser.add_argument("--images-per-style", type=int, default=defaults.images_per_style)
    parser.add_argument("--samples", type=int, default=defaults.num_samples, help="samples to judge by")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path.home() / ".cache" / "hrf" / "base-model",
        help="folder of the training's checkpoint; an interrupted training goes on from it",
    )
    parser.add_argument("--threads", type=int, default=cores, help="threads to train with and processes to draw with")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: Without the program's name.
    """
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    settings = BuildSettings(
        diffusion=DiffusionTraining(num_updates=options.updates),
        images_per_style=options.images_per_style,
        num_samples=options.samples,
    )
    build(
        options.output,
        settings,
        scratch=options.scratch,
        num_workers=options.threads,
        command=shlex.join(["python", "-m", "tools.base_model", *arguments]),
        machine=f"{options.threads} CPU cores",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
