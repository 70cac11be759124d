"""Replicas: chains of epochs with noise of their own, and the mean of their weights."""

import json
import shutil
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load_file

from hrf.config import Config
from hrf.errors import ArtifactError
from hrf.seeds import replica_seed
from hrf.steps.history import read_epochs
from hrf.steps.merge import merge
from hrf.steps.sequence import Call, Leg, Trained, training, whole_run
from hrf.storage.folders import read_manifest, writing_folder
from tests.hrf.steps.conftest import TINY, StepByStep
from tests.hrf.steps.test_epochs import SPLIT

LEG = Leg(first_epoch=0, num_epochs=2, in_one_step=True, evaluated=True)
WEIGHTS = "diffusion_pytorch_model.safetensors"
REPLICAS = 3


def calls(*steps: str, num_replicas: int = REPLICAS) -> list[Call]:
    return [call for call in whole_run([LEG], num_replicas=num_replicas) if call.step in steps]


def trained(folder, model, replicas: int) -> StepByStep:
    """A run that has trained its first leg, with a prefix pool and averages; replicas are still to be merged."""
    changes = {**SPLIT, "update": {"ema_decay": 0.9}, "run": {"epochs": 2, "replicas": replicas}}
    config = Config.from_mapping({**TINY, "model": {"source": str(model)}}).with_changes(changes)
    run = StepByStep(folder, f"s3://hrf/{uuid.uuid4().hex}", config)
    run.prepare()
    for call in calls("train", num_replicas=replicas):
        call(run.at)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, embedded_s3) -> Iterator[StepByStep]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in embedded_s3.environment().items():
            patch.setenv(name, value)
        yield trained(tmp_path_factory.mktemp("replicas"), tiny_model, REPLICAS)


def policies(run, order=range(REPLICAS)) -> list[str]:
    return [run.at(f"replica-{replica}-policy-2") for replica in order]


def weights(run, policy: str, part: str = "unet") -> dict:
    return load_file(run.folder / policy / part / WEIGHTS)


def test_the_merged_weights_are_the_mean_of_chains_with_noise_of_their_own(run, tmp_path, tiny_model):
    """The mean by numpy, of the weights and of their moving average. The first chain is a run without replicas.

    Kills: one replica counted twice, noise that is the same in all replicas or in none as without them, an average that
    is copied.
    """
    alone = trained(tmp_path, tiny_model, 1)
    for call in calls("merge"):
        call(run.at)

    for part in ("unet", "average"):
        chains = [weights(run, f"replica-{replica}-policy-2", part) for replica in range(REPLICAS)]
        merged, first = weights(run, "policy-2", part), weights(alone, "policy-2", part)
        for name, value in merged.items():
            expected = np.mean([chain[name].astype(np.float64) for chain in chains], axis=0)
            np.testing.assert_array_equal(value, expected.astype(np.float32))
            np.testing.assert_array_equal(chains[0][name], first[name])
        moved = [np.concatenate([chain[name].ravel() for name in sorted(chain)]) for chain in chains]
        assert len({chain.tobytes() for chain in moved}) == REPLICAS


def test_the_order_in_which_replicas_arrive_changes_no_bit(run):
    """Kills: a sum in the order of arrival; with three terms of float64 it rounds otherwise, in some of the weights."""
    for name, order in (("one", (0, 1, 2)), ("other", (2, 0, 1))):
        merge(run=run.at("run"), policies=policies(run, order), epoch=1, new_policy=run.at(name))

    assert read_manifest(run.at("one")) == read_manifest(run.at("other"))


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ((0, 1, 1), r"replicas \[0, 1, 1\] are not the run's 3"),
        ((0, 2), r"replicas \[0, 2\]"),
        ((0, 1, 2, 2), r"replicas \[0, 1, 2, 2\]"),
    ],
    ids=["twice", "missing", "one-too-many"],
)
def test_each_replica_counts_once(run, order, problem):
    """Kills: one replica counted twice."""
    with pytest.raises(ArtifactError, match=problem):
        merge(run=run.at("run"), policies=policies(run, order), epoch=1, new_policy=run.at("merged"))


def test_policies_of_another_epoch_or_run_are_refused(run, tmp_path):
    """Kills: a mean of what was trained for different lengths of time."""
    with pytest.raises(ArtifactError, match="not of epoch 2"):
        merge(run=run.at("run"), policies=policies(run), epoch=2, new_policy=run.at("merged"))
    foreign = tmp_path / "foreign"
    producer = {**read_manifest(policies(run)[1]).producer, "run": "another"}
    with writing_folder(foreign, producer=producer) as folder:
        ignored = shutil.ignore_patterns("manifest.json")
        shutil.copytree(policies(run)[1], folder, dirs_exist_ok=True, ignore=ignored)
    given = [*policies(run, (0, 2)), str(foreign)]
    with pytest.raises(ArtifactError, match="not of run run"):
        merge(run=run.at("run"), policies=given, epoch=1, new_policy=run.at("merged"))


def test_the_history_has_the_records_of_all_replicas_and_names_the_parents(run):
    """Evaluations are the sum, with the prefix pool once. Kills: a pool for each replica, records of one replica."""
    for call in calls("merge", "evaluate", "promote"):
        call(run.at)

    epochs = read_epochs(run.folder / "judged-1")
    parts = [entry.update.replicas for entry in epochs]
    assert [len(replicas) for replicas in parts] == [REPLICAS, REPLICAS]
    pool = run.config.policy.prefix_pool * run.config.switch_step
    last = epochs[-1]
    spent = sum(record.num_evaluations - pool for record in parts[-1]) + pool
    assert last.evaluation.num_evaluations == last.update.num_evaluations == spent
    assert last.update.reward_mean == pytest.approx(np.mean([record.reward_mean for record in parts[-1]]))
    losses = [[update.loss for update in record.updates] for record in parts[-1]]
    assert [update.loss for update in last.update.updates] == pytest.approx(np.mean(losses, axis=0))
    seed = json.loads((run.folder / "run" / "run.json").read_text())["run_seed"]
    about = json.loads((run.folder / "policy-2" / "policy.json").read_text())
    parents = [(parent.replica, parent.run_seed) for parent in last.merge.parents]
    assert parents == [(replica, replica_seed(seed, replica)) for replica in range(REPLICAS)]
    assert about["merge"] == last.merge.as_json()
    assert len({parent.weights for parent in last.merge.parents}) == REPLICAS
    assert epochs[0].merge is None


def test_what_is_trained_further_is_no_mean_any_more(run):
    """As in the next run, which starts from a promoted mean. Kills: parents that are handed on."""
    for call in calls("merge"):
        call(run.at)
    leg = Leg(first_epoch=0, in_one_step=True)
    (call,) = training(leg, Trained(policy="policy-2", training_state="state-0"))
    call(run.at)

    assert "merge" not in json.loads((run.folder / "policy-1" / "policy.json").read_text())
