"""Gather: join the shards of an epoch's sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hrf.errors import ArtifactError
from hrf.steps.context import RunContext, step
from hrf.steps.sample import sampling_metrics
from hrf.storage.folders import describe_producer, read_manifest
from hrf.trainer.episodes import Episodes
from hrf.trainer.state import load_episodes, save_episodes


@step("gather", when_stopped={"trajectories": "", "samples": ""})
def gather(
    *,
    run: str,
    epoch: int,
    replica: int,
    trajectory_shards: Sequence[str],
    sample_shards: Sequence[str],
    trajectories: str,
    samples: str,
) -> dict[str, Any]:
    """Put what several `sample` steps made of an epoch together, bit for bit as one alone would have made it.

    Shards may come in any order.

    Returns:
        Window, mean start step and denoiser evaluations, of all together.

    Raises:
        ArtifactError: The shards are not those of one whole epoch.
    """
    context = RunContext.read(run, replica=replica)
    shards = zip(_in_order(trajectory_shards), _in_order(sample_shards), strict=True)
    episodes = Episodes.join([load_episodes(*folders) for folders in shards])
    save_episodes(episodes, trajectories, samples, context.producer("sample", epoch))
    return sampling_metrics(episodes)


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
