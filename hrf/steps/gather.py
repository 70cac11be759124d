"""Gather: join the shards of an epoch's sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hrf.errors import ArtifactError
from hrf.steps.context import RunContext, step
from hrf.steps.sample import sampling_metrics
from hrf.steps.score import read_prompts, write_prompts
from hrf.storage.folders import describe_producer, read_folder, read_manifest, writing_folder
from hrf.trainer.rollout import Trajectories
from hrf.trainer.state import load_trajectories, save_trajectories


@step("gather", when_stopped={"trajectories": "", "samples": ""})
def gather(
    *,
    run: str,
    epoch: int,
    trajectory_shards: Sequence[str],
    sample_shards: Sequence[str],
    trajectories: str,
    samples: str,
) -> dict[str, Any]:
    """Put what several `sample` steps made of an epoch together, bit for bit as one alone would have made it.

    Args:
        run: Folder of the run.
        epoch: From 0.
        trajectory_shards: Folders of the shards' trajectories, in any order.
        sample_shards: Folders of the shards' samples, in any order.
        trajectories: Output folder: the trajectories of the whole epoch.
        samples: Output folder: its finished samples.

    Returns:
        Window, mean start step and denoiser evaluations, of all together.

    Raises:
        ArtifactError: The shards are not those of one whole epoch.
    """
    context = RunContext.read(run)
    tails = [load_trajectories(path) for path in _in_order(trajectory_shards)]
    folders = [read_folder(path) for path in _in_order(sample_shards)]
    finished = [load_file(folder / "samples.safetensors") for folder in folders]
    prompts = [prompt for folder in folders for prompt in read_prompts(folder) or ()]
    joined = Trajectories.join([part for part, _ in tails])
    pictures = {name: torch.cat([part[name] for part in finished]) for name in ("samples", "groups")}
    record = _join_records([record for _, record in tails], joined)
    producer = context.producer("sample", epoch)
    with writing_folder(trajectories, producer=producer) as folder:
        save_trajectories(joined, record, folder)
    with writing_folder(samples, producer=producer) as folder:
        save_file(pictures, folder / "samples.safetensors")
        if prompts:
            write_prompts(prompts, folder)
    return sampling_metrics(record, joined.start_steps)


def _in_order(paths: Sequence[str]) -> list[str]:
    """The shards of an epoch by their number, which their manifests tell: Kubeflow promises no order."""
    shards = {path: read_manifest(path).producer for path in paths}
    numbers = sorted(int(producer["shard"]) for producer in shards.values())
    expected = {int(producer["num_shards"]) for producer in shards.values()}
    if len(expected) != 1 or numbers != list(range(*expected)):
        raise ArtifactError(
            ", ".join(paths),
            problem=f"shards {numbers} of {sorted(expected)} are not a whole epoch's",
            producer="; ".join(describe_producer(producer) for producer in shards.values()),
            fix="run all of the epoch's sample steps again",
        )
    return sorted(paths, key=lambda path: int(shards[path]["shard"]))


def _join_records(records: Sequence[dict[str, Any]], joined: Trajectories) -> dict[str, Any]:
    """What one `sample` would have said of the whole epoch; its time is that of the slowest shard."""
    return {
        "window": records[0]["window"],
        "mean_start_step": float(joined.start_steps.float().mean()),
        "num_evaluations": sum(record["num_evaluations"] for record in records),
        "seconds": max(record["seconds"] for record in records),
    }
