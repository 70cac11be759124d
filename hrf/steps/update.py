"""Update: train the policy on an epoch's trajectories and rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrf.distributed.ranks import ALONE, this_rank
from hrf.distributed.sharding import collect, is_sharded, placed_as
from hrf.policies.folders import load_policy, load_unsharded, save_policy, weights_of
from hrf.policies.policy_folder import EVALUATED, MERGE
from hrf.policies.weights import tuned_parameters
from hrf.steps.context import TRAINED, RunContext, step
from hrf.steps.history import copy_updates, write_update
from hrf.steps.numbers import update_metrics
from hrf.steps.processes import in_processes
from hrf.steps.tracking import track
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import POLICY_FILE
from hrf.trainer.record import EpochRecord
from hrf.trainer.state import (
    load_scores,
    load_training_state,
    load_trajectories,
    moments_of,
    save_training_state,
)
from hrf.trainer.trainer import Trainer


@step("update", when_stopped=TRAINED)
@in_processes
def update(
    *,
    run: str,
    base: str,
    policy: str,
    training_state: str,
    trajectories: str,
    scores: str,
    epoch: int,
    replica: int,
    new_policy: str,
    new_training_state: str,
) -> dict[str, Any]:
    """Make one epoch's updates.

    Returns:
        The last update's metrics.
    """
    context = RunContext.read(run, replica=replica)
    base_folder, policy_folder = read_folder(base), read_folder(policy)
    trainer = load_trainer(context, base_folder, policy_folder, training_state)
    recorded, sampling = load_trajectories(trajectories)
    record = trainer.learn(recorded, sampling, load_scores(scores), epoch=epoch)
    write_trained(
        trainer,
        [record],
        context,
        base_folder,
        policy_folder,
        step_name="update",
        new_policy=new_policy,
        new_training_state=new_training_state,
    )
    return update_metrics(record)


def load_trainer(context: RunContext, base: Path, policy: Path, training_state: str) -> Trainer:
    """A trainer that goes on from verified folders of the base and the policy, and a folder of the training state."""
    config = context.config
    current = load_policy(
        config,
        base,
        policy,
        prompts=context.prompts_folder,
        reference=config.update.uses_reference,
        ranks=this_rank() if config.model.shard_weights else ALONE,
    )
    average = None
    if config.update.ema_decay > 0:
        # Where the weights are: every update moves it towards all of them.
        loaded = weights_of(config).load_average(current.denoiser, policy)
        average = {name: placed_as(value, current.denoiser.get_parameter(name)) for name, value in loaded.items()}
    trainer = Trainer(
        current,
        config,
        run_seed=context.run_seed,
        texts=context.texts,
        average=average,
        ranks=this_rank(),
    )
    load_training_state(training_state, trainer)
    return trainer


def write_trained(
    trainer: Trainer,
    records: Sequence[EpochRecord],
    context: RunContext,
    base: Path,
    policy: Path,
    *,
    step_name: str,
    new_policy: str,
    new_training_state: str,
) -> None:
    """Write what a trainer has made of a policy, with the records of its epochs, once all ranks have come so far."""
    ranks, denoiser, average = trainer.ranks, trainer.policy.denoiser, trainer.updater.average
    tuned = collect(tuned_parameters(denoiser), ranks)
    average = None if average is None else collect(average, ranks)
    moments = moments_of(trainer)
    ranks.wait_for_all()
    if not ranks.is_first:
        return
    if is_sharded(denoiser):
        denoiser = load_unsharded(context.config, base, policy, tuned)
    about = json.loads((policy / POLICY_FILE).read_text(encoding="utf-8"))
    # A start may be a candidate's, measured and with its strength folded in, or a mean; what comes of it is neither.
    for origin in ("strength", EVALUATED, MERGE):
        about.pop(origin, None)
    producer = context.producer(step_name, records[-1].epoch)
    with writing_folder(new_policy, producer=producer) as folder:
        save_policy(folder, denoiser, base, about, average, weights_of(context.config))
        copy_updates(policy, folder)
        for record in records:
            write_update(folder, record)
    with writing_folder(new_training_state, producer=producer) as folder:
        save_training_state(trainer, moments, folder)
    if context.config.run.replicas == 1:
        # Of several, `merge` tells what they have in common.
        track(context, policy=new_policy)
