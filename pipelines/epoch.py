"""One epoch as a sub-pipeline: sample, score and update (or train, for several at once), evaluate, promote, steer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from components.evaluate import evaluate
from components.gather import gather
from components.promote import promote
from components.sample import sample
from components.score import score
from components.steer import steer
from components.train import train
from components.update import update
from pipelines.placement import Site
from pipelines.plan import EpochStep


class EpochOutputs(NamedTuple):
    """What an epoch hands to the next one."""

    policy: Model
    training_state: Model
    history: Artifact


#: What a step that trains, and `steer`, call them.
EPOCH_OUTPUTS = ("new_policy", "new_training_state", "new_history")


def build_epochs(steps: Sequence[EpochStep], site: Site) -> list[tuple[EpochStep, Callable[..., Any]]]:
    """Make the sub-pipelines of a plan. Kubeflow wants them made before the pipeline that holds them.

    Args:
        steps: The plan.
        site: Where the tasks run.

    Returns:
        Each entry of the plan with its sub-pipeline; entries of the same kind share one.
    """
    kinds = [(step.evaluated, step.steered, step.in_one_task) for step in steps]
    pipelines = {kind: _build_epoch(*kind, site) for kind in dict.fromkeys(kinds)}
    return [(step, pipelines[kind]) for step, kind in zip(steps, kinds, strict=True)]


def _build_epoch(evaluated: bool, steered: bool, in_one_task: bool, site: Site) -> Callable[..., Any]:
    """Make the sub-pipeline of one kind of entry; which epochs it is about are arguments.

    Args:
        evaluated: Whether it ends with evaluate and promote.
        steered: Whether steer comes after them.
        in_one_task: Whether one task trains all its epochs.
        site: Where the tasks run.

    Returns:
        A pipeline of `epoch`, `last_epoch`, `num_epochs` and the run's artifacts that returns `EpochOutputs`.
    """

    @dsl.pipeline(name="epochs" if in_one_task else "epoch")
    def epoch_pipeline(
        epoch: int,
        last_epoch: int,
        num_epochs: int,
        run: Input[Artifact],
        base: Input[Model],
        policy: Input[Model],
        training_state: Input[Model],
        baseline: Input[Artifact],
        history: Input[Artifact],
    ) -> EpochOutputs:
        settled = {"run": run, "base": base}
        trained = {"policy": policy, "training_state": training_state, "history": history}
        if in_one_task:
            task = train(epoch=epoch, num_epochs=num_epochs, baseline=baseline, **settled, **trained)
            updated = site.place(task, "train").outputs
        else:
            sampled = _add_sampling(site, epoch=epoch, policy=policy, baseline=baseline, **settled)
            scored = site.place(score(epoch=epoch, run=run, samples=sampled["samples"]), "score").outputs
            rollout = {"trajectories": sampled["trajectories"], "scores": scored["scores"]}
            updated = site.place(update(epoch=epoch, **rollout, **settled, **trained), "update").outputs
        new_policy, new_state, new_history = (updated[name] for name in EPOCH_OUTPUTS)
        if evaluated:
            task = evaluate(epoch=last_epoch, policy=new_policy, baseline=baseline, history=new_history, **settled)
            measured = site.place(task, "evaluate").outputs
            task = promote(
                epoch=last_epoch,
                run=run,
                policy=new_policy,
                baseline=baseline,
                evaluation=measured["evaluation"],
                history=new_history,
            )
            new_history = site.place(task, "promote").outputs["new_history"]
        if steered:
            judged = {"policy": new_policy, "training_state": new_state, "history": new_history}
            task = steer(epoch=last_epoch, baseline=baseline, **settled, **judged)
            held = site.place(task, "steer").outputs
            new_policy, new_state, new_history = (held[name] for name in EPOCH_OUTPUTS)
        return EpochOutputs(policy=new_policy, training_state=new_state, history=new_history)

    return epoch_pipeline


def _add_sampling(site: Site, *, epoch: Any, run: Any, **inputs: Any) -> Mapping[str, Any]:
    """Add the tasks that sample an epoch: one, or one per shard and one that joins what they made."""
    num_shards = site.placement.shards
    whole = {"epoch": epoch, "run": run, **inputs}
    if num_shards == 1:
        outputs: Mapping[str, Any] = site.place(sample(shard=0, num_shards=1, **whole), "sample").outputs
        return outputs
    with dsl.ParallelFor(list(range(num_shards)), name="shards") as shard:
        parts = site.place(sample(shard=shard, num_shards=num_shards, **whole), "sample").outputs
    task = gather(
        epoch=epoch,
        run=run,
        trajectory_shards=dsl.Collected(parts["trajectories"]),
        sample_shards=dsl.Collected(parts["samples"]),
    )
    joined: Mapping[str, Any] = site.place(task, "gather").outputs
    return joined
