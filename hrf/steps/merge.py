"""Merge: the mean of the replicas' policies, which is the candidate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from hrf.errors import ArtifactError
from hrf.planning.cost import pool_evaluations
from hrf.policies.averaging import average_policies
from hrf.policies.policy_folder import MERGE
from hrf.steps.context import RunContext, step
from hrf.steps.history import UPDATES, read_updates, write_record, write_update
from hrf.steps.numbers import update_metrics
from hrf.steps.tracking import track
from hrf.storage.folders import canonical_json, describe_producer, read_folder, read_manifest, writing_folder
from hrf.storage.names import POLICY_FILE
from hrf.trainer.record import EpochRecord, MergeRecord, Parent


@step("merge")
def merge(*, run: str, policies: Sequence[str], epoch: int, new_policy: str) -> dict[str, Any]:
    """Average the weights that the replicas have come to, and join the records of their training.

    Policies may come in any order. The new one's `policy.json` names what it is the mean of.

    Returns:
        The last update's metrics, averaged; of adapters, the share of their mean that one adapter can't hold.

    Raises:
        ArtifactError: The policies are not those of each of the run's replicas after this epoch.
    """
    context = RunContext.read(run)
    folders = [read_folder(path) for path in _in_order(context, policies, epoch)]
    no_weights = (f"{UPDATES}/", POLICY_FILE)
    files = [
        {name: entry for name, entry in read_manifest(folder).files.items() if not name.startswith(no_weights)}
        for folder in folders
    ]
    parents = tuple(
        Parent(
            replica=replica,
            run_seed=context.about["replica_seeds"][replica],
            weights=hashlib.sha256(canonical_json(weights)).hexdigest(),
        )
        for replica, weights in enumerate(files)
    )
    epochs = zip(*(read_updates(folder) for folder in folders), strict=True)
    num_shared = pool_evaluations(context.config)
    records = [EpochRecord.of_replicas([entry.update for entry in each], num_shared=num_shared) for each in epochs]
    about = json.loads((folders[0] / POLICY_FILE).read_text(encoding="utf-8"))
    with writing_folder(new_policy, producer=context.producer("merge", epoch)) as folder:
        left_out = average_policies(folders, files[0], folder)
        merged = MergeRecord(parents=parents, adapter_left_out_fraction=left_out)
        write_record(folder / POLICY_FILE, {**about, MERGE: merged.as_json()})
        for record in records:
            write_update(folder, record)
    track(context, policy=new_policy)
    metrics = update_metrics(records[-1])
    if context.config.policy.lora:
        metrics["adapter_left_out_fraction"] = left_out
    return metrics


def _in_order(context: RunContext, paths: Sequence[str], epoch: int) -> list[str]:
    """The replicas by their number, which their manifests tell, once it is clear that each is there once."""
    producers = [read_manifest(path).producer for path in paths]
    asked = context.producer("", epoch)
    for path, producer in zip(paths, producers, strict=True):
        if other := [name for name in ("run", "config", "epoch") if producer.get(name) != asked[name]]:
            raise ArtifactError(
                path,
                problem=f"not of {', '.join(f'{name} {asked[name]}' for name in other)}",
                producer=describe_producer(producer),
                fix="give the policies of one run's replicas after the same epoch",
            )
    numbers = [int(producer.get("replica", 0)) for producer in producers]
    count = context.config.run.replicas
    if sorted(numbers) != list(range(count)):
        raise ArtifactError(
            ", ".join(paths),
            problem=f"replicas {sorted(numbers)} are not the run's {count}, each of them once",
            producer="; ".join(map(describe_producer, producers)),
            fix="give the policy of every replica once",
        )
    return [path for _, path in sorted(zip(numbers, paths, strict=True))]
