"""The command ``python -m tools.base_model.second_classifier OUT``: a classifier with another view of the same styles.

Whoever rewards a model for what a classifier recognises, and measures it with the same classifier, measures in part how
well that classifier was fooled. So a second one ships, trained on other drawings, from another seed.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import torch

from hrf import __version__
from hrf.storage.folders import write_manifest
from tools.base_model.build import BuildSettings
from tools.base_model.card import describe_classifier
from tools.base_model.dataset import render, without_copies_of
from tools.base_model.train_classifier import ClassifierTraining, evaluate, train

_COMMAND = "python -m tools.base_model.second_classifier hrf/assets/second-classifier"
SETTINGS = replace(BuildSettings(), data_seed=2, classifier=ClassifierTraining(seed=8))
"""As the first one but for both seeds."""


def build(folder: Path, settings: BuildSettings) -> None:
    """Train it, judge it on pictures that it has not seen, and write it with a page about itself.

    Args:
        folder: Made if need be; the classifier that it already holds is replaced.
        settings: Its data and training; those of the diffusion model are not looked at.

    Raises:
        ImportError: The drawing packages are not installed.
    """
    data = render(images_per_style=settings.images_per_style, seed=settings.data_seed)
    held_out = render(images_per_style=settings.held_out_per_style, seed=settings.data_seed, split="test")
    began = time.perf_counter()
    classifier = train(data, settings.classifier)
    seconds = time.perf_counter() - began
    result = evaluate(
        classifier,
        without_copies_of(held_out, data),
        outliers_per_kind=settings.outliers_per_kind,
        seed=settings.data_seed,
    )
    classifier.save_pretrained(folder)
    page = f"""# A second classifier of avatars

It names the same six drawing styles as the classifier of [avatars-32](../avatars-32/README.md), whose page tells where
they come from, and is trained on other drawings of them (data seed {settings.data_seed}), from another seed. Name it
`shipped-second` wherever a configuration asks for a classifier: to train on what one classifier recognises and measure
by the other.

Made by

    {_COMMAND}

{describe_classifier(settings.classifier, seconds, result)}
"""
    (folder / "README.md").write_text(page, encoding="utf-8")
    write_manifest(folder, {"command": _COMMAND, "data_seed": settings.data_seed, "hrf": __version__})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the classifier and its page")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    build(parser.parse_args().output, SETTINGS)
