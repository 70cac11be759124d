"""The component `sample`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def sample(
    epoch: int,
    replica: int,
    shard: int,
    num_shards: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    baseline: Input[Artifact],
    trajectories: Output[Dataset],
    samples: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Draw roots, start branches from them and record their tails.

    Args:
        epoch: The epoch, counted from 0.
        replica: The chain of epochs that it belongs to, counted from 0; each has noise of its own.
        shard: Which part of the epoch's roots, from 0.
        num_shards: How many parts there are.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that this step is given.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        trajectories: The recorded tails of the branches.
        samples: The finished branches, to be scored.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.sample import sample as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        replica=replica,
        shard=shard,
        num_shards=num_shards,
        run=run.path,
        base=base.path,
        policy=policy.path,
        baseline=baseline.path,
        trajectories=trajectories.path,
        samples=samples.path,
    )
    record(facts, metrics=metrics, outputs=[trajectories, samples], epoch=epoch)
