"""The component `gather`."""

from typing import List  # noqa: UP035 - Kubeflow's compiler knows lists of artifacts by this name only.

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def gather(
    epoch: int,
    replica: int,
    run: Input[Artifact],
    trajectory_shards: Input[List[Dataset]],  # noqa: UP006
    sample_shards: Input[List[Dataset]],  # noqa: UP006
    trajectories: Output[Dataset],
    samples: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Join the shards of an epoch's sampling.

    Args:
        epoch: The epoch, counted from 0.
        replica: The chain of epochs that it belongs to, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        trajectory_shards: The recorded tails of each shard's branches.
        sample_shards: The finished branches of each shard.
        trajectories: The recorded tails of the branches.
        samples: The finished branches, to be scored.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.gather import gather as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        replica=replica,
        run=run.path,
        trajectory_shards=[shard.path for shard in trajectory_shards],
        sample_shards=[shard.path for shard in sample_shards],
        trajectories=trajectories.path,
        samples=samples.path,
    )
    record(facts, metrics=metrics, outputs=[trajectories, samples], epoch=epoch)
