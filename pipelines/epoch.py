"""How a pipeline trains: one epoch as a sub-pipeline of sample, score and update, or several epochs as one task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from hrf_components.gather import gather
from hrf_components.sample import sample
from hrf_components.score import score
from hrf_components.train import train
from hrf_components.update import update
from hrf_pipelines.placement import Site
from hrf_pipelines.plan import EpochStep


class Trained(NamedTuple):
    """What an epoch hands to the next one."""

    policy: Model
    training_state: Model


#: What a step that trains, and `steer`, call them.
TRAINED = ("new_policy", "new_training_state")


def build_epoch(steps: Sequence[EpochStep], site: Site) -> Callable[..., Any] | None:
    """Make the sub-pipeline of one epoch. Kubeflow wants it made before the pipeline that holds it.

    Returns:
        A pipeline of `epoch`, `replica` and the run's artifacts that returns `Trained`; None if the plan has no single
        epochs.
    """
    if all(step.in_one_step for step in steps):
        return None

    @dsl.pipeline(name="epoch")
    def epoch_pipeline(
        epoch: int,
        replica: int,
        run: Input[Artifact],
        base: Input[Model],
        policy: Input[Model],
        training_state: Input[Model],
        baseline: Input[Artifact],
    ) -> Trained:
        settled, numbers = {"run": run, "base": base}, {"epoch": epoch, "replica": replica}
        sampled = _add_sampling(site, numbers, policy=policy, baseline=baseline, **settled)
        scored = site.place(score(run=run, samples=sampled["samples"], **numbers), "score").outputs
        rollout = {"trajectories": sampled["trajectories"], "scores": scored["scores"]}
        task = update(policy=policy, training_state=training_state, **numbers, **rollout, **settled)
        updated = site.place(task, "update").outputs
        return Trained(*(updated[name] for name in TRAINED))

    return epoch_pipeline


def add_training(
    step: EpochStep, epoch_pipeline: Callable[..., Any] | None, site: Site, *, replica: int, **inputs: Any
) -> tuple[Any, dict[str, Any]]:
    """Add a replica's training of one entry of the plan to the pipeline that is being built.

    Returns:
        The task, and the artifacts that are current after it, by name.
    """
    if step.in_one_step:
        numbers = {"epoch": step.first_epoch, "num_epochs": step.num_epochs, "replica": replica}
        task = site.place(train(**numbers, **inputs), "train")
        task.set_display_name(f"{step.label_of(replica).replace(': ', ', ')}: train")
        outputs = [task.outputs[name] for name in TRAINED]
    else:
        assert epoch_pipeline is not None
        task = epoch_pipeline(epoch=step.first_epoch, replica=replica, **inputs)
        task.set_display_name(step.label_of(replica))
        outputs = [task.outputs[name] for name in Trained._fields]
    return task, dict(zip(Trained._fields, outputs, strict=True))


def _add_sampling(site: Site, numbers: Mapping[str, Any], *, run: Any, **inputs: Any) -> Mapping[str, Any]:
    """Add the tasks that sample an epoch: one, or one per shard and one that joins what they made."""
    num_shards = site.placement.shards
    whole = {**numbers, "run": run, **inputs}
    if num_shards == 1:
        outputs: Mapping[str, Any] = site.place(sample(shard=0, num_shards=1, **whole), "sample").outputs
        return outputs
    with dsl.ParallelFor(list(range(num_shards)), name="shards") as shard:
        parts = site.place(sample(shard=shard, num_shards=num_shards, **whole), "sample").outputs
    task = gather(
        **numbers,
        run=run,
        trajectory_shards=dsl.Collected(parts["trajectories"]),
        sample_shards=dsl.Collected(parts["samples"]),
    )
    joined: Mapping[str, Any] = site.place(task, "gather").outputs
    return joined
