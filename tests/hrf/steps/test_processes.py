"""Steps in several processes against the same steps in one: what is equal bit for bit, and what up to rounding."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hrf.config import Config
from hrf.distributed.processes import run_in_processes
from hrf.distributed.ranks import this_rank
from hrf.errors import ConfigError, NumericalError, ProcessError
from hrf.rewards import build_reward
from hrf.rewards.python import PythonReward
from hrf.steps.history import read_update
from hrf.steps.processes import _on_gpu
from hrf.steps.sample import sample
from hrf.steps.score import score
from hrf.steps.update import update
from hrf.storage.folders import read_manifest
from hrf.trainer.episodes import Finished
from hrf.trainer.record import EpochRecord
from hrf.trainer.trainer import score_episodes
from tests.hrf.shared_work import call_steps
from tests.hrf.steps.test_epochs import DDPO, SELECTED, SHARED_START, SPLIT

#: Three roots: two processes have unequal parts. Every minibatch ends in a part of one.
SHARED = {
    "rollout": {"roots": 3, "branches": 3},
    "update": {"minibatch": 4, "microbatch": 5, "ema_decay": 0.5, "kl_weight": 0.1},
}
DIFFERENCE = {
    "shaping": {"reward": {"name": "python", "function": "tests.hrf.shared_work:mean_blue"}},
    "update": {
        **SHARED["update"],
        "kl_weight": 0.0,
        "objective": "difference",
        "proximal_weight": 1.0,
        "reference_weight": 0.5,
        "sibling_distance_weight": 0.5,
    },
}
KINDS = {
    "hrf": {},
    "split": SPLIT,
    "shared": {
        **SHARED_START,
        "rollout": {**SHARED["rollout"], "share_start": True},
        "update": {**SHARED["update"], **SHARED_START["update"]},
    },
    "ddpo": DDPO,
    "hrf-d": SELECTED,
    "difference": DIFFERENCE,
}


def contents(folder: str) -> dict:
    """Digest of each file, or its contents without times where it tells those."""
    files = {name: entry["sha256"] for name, entry in read_manifest(folder).files.items()}
    for name in files:
        told = json.loads((Path(folder) / name).read_text()) if name.endswith(".json") else None
        if isinstance(told, dict):
            files[name] = {key: value for key, value in told.items() if key != "seconds"}
    return files


@pytest.fixture
def sampled(steps):
    """A run of each kind with its first epoch sampled, scored and trained on by one process."""
    runs = {}
    for kind, changes in KINDS.items():
        run = steps(kind, {**SHARED, **changes, "run": {"epochs": 2}})
        run.prepare(experiment=kind)
        run.epoch(0)
        runs[kind] = run
    return runs


FIRST = {"epoch": 0, "replica": 0}


def arguments_of_sample(run, suffix: str) -> dict:
    inputs = {name: run.at(name) for name in ("run", "base", "baseline")}
    outputs = {name: run.at(f"{name}-0{suffix}") for name in ("trajectories", "samples")}
    return {**inputs, **outputs, "policy": run.at("policy-0"), **FIRST, "shard": 0, "num_shards": 1}


def arguments_of_score(run, suffix: str) -> dict:
    return {"run": run.at("run"), "samples": run.at("samples-0"), **FIRST, "scores": run.at(f"scores-0{suffix}")}


def arguments_of_update(run, suffix: str) -> dict:
    inputs = {name: run.at(f"{name}-0") for name in ("policy", "trajectories", "scores")}
    outputs = {f"new_{name}": run.at(f"{short}-1{suffix}") for name, short in OUTPUTS.items()}
    return {
        **{name: run.at(name) for name in ("run", "base")},
        **inputs,
        "training_state": run.at("state-0"),
        **FIRST,
        **outputs,
    }


OUTPUTS = {"policy": "policy", "training_state": "state"}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {
        f"{file.relative_to(folder)} {name}": value.double()
        for file in files
        for name, value in load_file(file).items()
    }


def distance(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return float(sum((ours[name] - theirs[name]).square().sum() for name in ours).sqrt())


def assert_close_updates(run, suffix: str, epochs: int = 1) -> None:
    """Gradients' moments, weights, averages and records after some epochs are those of one process up to rounding.

    Weights are held against the way that they have gone: where a gradient is nothing but rounding (the keys' biases of
    attention, to which a softmax is blind), Adam takes full steps along it.
    """
    before = tensors_of(Path(run.at("policy-0")) / "unet")
    ours, theirs = (Path(run.at(f"policy-{epochs}{end}")) for end in ("", suffix))
    for part in ("unet", "average"):
        moved = distance(tensors_of(ours / part), before)
        assert 0 < distance(tensors_of(ours / part), tensors_of(theirs / part)) < 1e-2 * moved
    ours, theirs = (tensors_of(Path(run.at(f"state-{epochs}{end}"))) for end in ("", suffix))
    assert distance(ours, theirs) < 1e-4 * distance(ours, {name: torch.zeros(()) for name in ours})
    for epoch in range(epochs):
        one, several = (read_update(Path(run.at(f"policy-{epochs}{end}")), epoch) for end in ("", suffix))
        assert_close_records(one, several)
        assert len(one.updates) == 3


def assert_close_records(one: EpochRecord, several: EpochRecord, rel: float = 1e-4) -> None:
    """An epoch's record is that of one process up to rounding."""
    assert several.grad_norm_by_step == pytest.approx(one.grad_norm_by_step, rel=rel)
    assert len(one.updates) == len(several.updates)
    for expected, found in zip(one.updates, several.updates, strict=True):
        # A mean of differences of exponentials near 1, each rounded by up to 6e-8: what is left has few digits.
        numbers = [
            {name: value for name, value in vars(metrics).items() if value is not None} for metrics in (found, expected)
        ]
        kls = [values.pop("approx_kl", 0.0) for values in numbers]
        assert kls[0] == pytest.approx(kls[1], rel=1e-2, abs=6e-8)
        assert numbers[0] == pytest.approx(numbers[1], rel=rel, abs=1e-6)
    for name in ("window", "mean_start_step", "num_evaluations"):
        assert getattr(several, name) == getattr(one, name)
    assert several.reward_mean == pytest.approx(one.reward_mean, rel=1e-5)


@pytest.mark.slow
def test_an_epoch_in_several_processes_is_that_of_one(sampled):
    """Trajectories, samples and rewards bit for bit, for every kind of start; the update up to rounding.

    Kills: noise numbered within a rank's part, a rank's part dropped or out of order, gradients averaged instead of
    added up, metrics of one rank's pairs alone. And a second time the same bytes.
    """
    suffix = "-of-2"
    calls = [
        (step, arguments(run, suffix))
        for run in sampled.values()
        for step, arguments in (
            (sample, arguments_of_sample),
            (score, arguments_of_score),
            (update, arguments_of_update),
        )
    ]

    calls.append((update, arguments_of_update(sampled["hrf"], "-again")))

    run_in_processes(call_steps, {"calls": calls}, num_processes=2, on_gpu=False)

    for name in ("policy-1", "state-1"):
        assert contents(sampled["hrf"].at(f"{name}-again")) == contents(sampled["hrf"].at(name + suffix))
    for run in sampled.values():
        for name in ("trajectories-0", "samples-0", "scores-0"):
            assert contents(run.at(name + suffix)) == contents(run.at(name)), name
        assert_close_updates(run, suffix)


@pytest.mark.slow
def test_epochs_of_training_in_two_processes_are_those_of_one_and_their_progress_is_counted_together(
    steps, monkeypatch, tmp_path
):
    """The step as it is called. Kills: every rank reports, what ranks have done not added up."""
    # A reward without steps: a JPEG's size jumps by bytes where a pixel changes by rounding.
    changes = {**SHARED, "run": {"epochs": 2}, "reward": SMOOTH}
    alone, together = (steps(f"of-{count}", {**changes, "model": {"num_processes": count}}) for count in (1, 2))
    for run in (alone, together):
        run.prepare(experiment=run.folder.name)
    alone.train(0, 2)
    events = tmp_path / "events"
    monkeypatch.setenv("HRF_PROGRESS_FILE", str(events))
    together.train(0, 2)

    for name in ("policy-2", "state-2"):
        os.rename(together.at(name), alone.at(f"{name}-of-2"))
    assert_close_updates(alone, "-of-2", epochs=2)
    told = [json.loads(line) for line in events.read_text().splitlines()]
    names = [event["event"] for event in told]
    assert (names.count("step-started"), names.count("epoch-trained"), names.count("step-finished")) == (1, 2, 1)
    for epoch in (0, 1):
        updates = [event for event in told if event.get("step") == "update" and event["epoch"] == epoch]
        assert updates[-1]["done"] == updates[-1]["total"] > 0
        assert [event["done"] for event in updates] == sorted(event["done"] for event in updates)


SMOOTH = {"name": "python", "function": "tests.hrf.shared_work:mean_red"}


@pytest.mark.slow
def test_a_rank_that_is_killed_in_the_middle_of_training_leaves_no_output(steps, monkeypatch, tmp_path):
    """In the second of two epochs: one process has written nothing then, and neither have two."""
    monkeypatch.setenv("PID_FOLDER", str(tmp_path))
    reward = {"name": "python", "function": "tests.hrf.shared_work:reward_of_a_rank_that_dies"}
    run = steps("run", {**SHARED, "run": {"epochs": 2}, "model": {"num_processes": 2}, "reward": reward})
    run.prepare()
    before = sorted(path.name for path in run.folder.iterdir())

    with pytest.raises(ProcessError, match="process 1 of 2: ended by SIGKILL"):
        run.train(0, 2)

    assert sorted(path.name for path in run.folder.iterdir()) == before
    assert multiprocessing.active_children() == []
    assert not any(
        Path(f"/proc/{file.read_text()}").exists() for file in tmp_path.glob("pid-*") if file.name != "pid-0"
    )


@pytest.mark.slow
def test_an_image_without_a_reward_is_named_as_one_process_names_it():
    """By its number in the epoch, not in the rank's part.

    Kills: an index within the part, where all branches are of one group.
    """
    with pytest.raises(NumericalError, match=r"process 1 of 2: .*a score is nan \(epoch=0, root=0, branch=8\)"):
        run_in_processes(score_noise, {"function": "reward_without_the_last"}, num_processes=2, on_gpu=False)


def score_noise(function: str) -> None:
    reward = build_reward(PythonReward(name="python", function=f"tests.hrf.shared_work:{function}"))
    samples = 2 * torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    finished = Finished(samples=samples, groups=torch.zeros(9, dtype=torch.int64), prompts=None)
    score_episodes(finished, reward, epoch=0, ranks=this_rank())


PINNED = {"source": "/clip", "sha256": "0" * 64}
ENCODER = {"features": "clip", "encoder": {"model": PINNED, "device": "cuda"}, "classifier": ""}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"model": {"device": "cuda"}}, True),
        ({"reward": {"name": "aesthetic", "clip": PINNED, "head": PINNED, "device": "cuda"}}, True),
        # Measuring is no work that ranks share; comparing siblings is.
        ({"evaluation": ENCODER}, False),
        ({"evaluation": ENCODER, "update": {"objective": "difference", "sibling_distance_weight": 0.5}}, True),
    ],
    ids=["cpu", "model", "scorer", "measured", "siblings"],
)
def test_ranks_take_a_gpu_each_where_they_run_any_network_on_one(changes, expected):
    gate = {"monitors": {"unrecognised_fraction": None}}
    assert _on_gpu(Config.from_mapping({"gate": gate, **changes})) == expected


def test_more_processes_than_roots_are_refused():
    for starts, most in (({"kind": "window"}, "3 roots"), (DDPO["starts"], "9 episodes")):
        with pytest.raises(
            ConfigError, match=rf"model\.num_processes: expected at most the {most} of an epoch, got 10"
        ):
            Config.from_mapping(
                {"rollout": {"roots": 3, "branches": 3}, "update": {"minibatch": 4}, "starts": starts}
            ).with_changes({"model": {"num_processes": 10}})
