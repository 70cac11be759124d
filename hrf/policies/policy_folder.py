"""Policy folders, copied from step to step. Needs no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hrf.errors import ArtifactError
from hrf.storage.names import AVERAGE_FOLDER, LORA_FILE, POLICY_FILE

MERGE = "merge"
"""What `policy.json` calls what weights are the mean of: `hrf.trainer.record.MergeRecord`."""
EVALUATED = "evaluation"
"""What `policy.json` calls how a candidate was sampled to be measured, where with other steps than in training."""
ADAPTER_NAMES = {"unet": (".lora.down.", ".lora.up."), "transformer": (".lora_A.", ".lora_B.")}
"""A denoiser's folder -> what an adapter's matrices A and B are called in the file that diffusers reads."""
DENOISER_FOLDERS = tuple(ADAPTER_NAMES)
"""A denoiser's folder in a model or a policy, as diffusers' pipelines call it."""


def adapter_pairs(names: Iterable[str]) -> dict[str, str]:
    """Of the names in an adapter's file: each A, with the B that belongs to it."""
    sides = ADAPTER_NAMES.values()
    return {name: name.replace(down, up) for name in names for down, up in sides if down in name}


def denoiser_folder(folder: Path) -> Path:
    """Where the denoiser of a model or a policy lies: in a folder of its own, or in the given one itself.

    The latter is the layout of early hub models, and of a moving average.
    """
    return next((folder / name for name in DENOISER_FOLDERS if (folder / name).is_dir()), folder)


def split_at(switch_step: int) -> dict[str, Any]:
    """What `policy.json` says of the step from which the weights are used."""
    return {"kind": "split" if switch_step else "full", "switch_step": switch_step}


def copy_policy(source: Path, target: Path, *, averaged: bool = False) -> None:
    """Copy a policy into an existing folder, as it would be shipped: one set of weights, and what goes with them.

    Args:
        source: A policy folder.
        target: Where.
        averaged: Take the moving average in the weights' place, where there is one.

    Raises:
        ArtifactError: If there are no weights.
    """
    average, denoiser = source / AVERAGE_FOLDER, denoiser_folder(source)
    averaged = averaged and average.is_dir()
    if (source / LORA_FILE).is_file():
        shutil.copyfile((average if averaged else source) / LORA_FILE, target / LORA_FILE)
    elif denoiser != source:
        shutil.copytree(average if averaged else denoiser, target / denoiser.name)
        shutil.copytree(source / "scheduler", target / "scheduler")
    else:
        raise ArtifactError(source, problem="no weights here", fix="run the step that made this folder again")
    for name in ("model_index.json", POLICY_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
