"""Recurring experiments: runs that overlap, fail or are killed, and go on from what the one before promoted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrf.config.overrides import from_settings, lay_over
from hrf.promotion.chain import read_chain
from hrf.promotion.protocol import history, read_pointer
from hrf.storage.objects import Storage
from tests.e2e.commands import (
    PROMOTING,
    descendants,
    end_of,
    events,
    hrf,
    kill,
    only_run,
    promoting,
    start,
    wait_for,
)
from tests.e2e.network import Network, holding
from tests.e2e.objects import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
EXPERIMENT, NIGHTLY = "overlapping", "nightly"
TICKS = ("nightly-20260101030000", "nightly-20260102030000")
#: Two epochs in one step, evaluated once: few processes, whose start is most of what a smoke run takes.
SHORT = ("run.epochs_per_step=2", "evaluation.every=2")
FAULTY = "reward={name: python, function: 'faulty_reward:roughness'}"
#: Beside the rate that promotes: enough to beat the base, and not a candidate of that rate.
SLOWER = "update.learning_rate=3e-3"
CANDIDATE = "epoch-0001"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

OVERRIDES = lay_over("", from_settings([*PROMOTING, "run.epochs=2", *SHORT]))

SCHEDULED = """
import sys, warnings
from kfp import compiler, components, local
from hrf.config import resolve
from hrf_pipelines.finetune import build
from hrf_pipelines.local.forked_steps import fork_steps
warnings.simplefilter("ignore")
fork_steps()
root, storage, experiment, overrides, *ticks = sys.argv[1:]
pipeline = build(resolve("avatars-smoke", overrides), preset="avatars-smoke", overrides=overrides)
compiler.Compiler().compile(pipeline, root + "/package.yaml")
for tick in ticks:
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=f"{root}/{tick}")
    components.load_component_from_file(root + "/package.yaml")(storage=storage, experiment=experiment, run_tag=tick)
"""
"""One package, run once per tick of a schedule, as a cluster does: only the run's tag differs."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that happened, and what it left."""

    storage: Storage
    folder: Path
    pointers: dict[str, bytes]
    """promoted.json as it was at some moments."""
    chain_after_the_kill: dict[str, Any]

    def run_id(self, name: str) -> str:
        return only_run(self.folder / name).name

    def candidate(self, name: str) -> str:
        return f"{self.run_id(name)}/{CANDIDATE}"

    def decision(self, name: str) -> dict[str, Any]:
        return read(self.storage, f"{EXPERIMENT}/decisions/{self.candidate(name)}.json")

    def about(self, root: Path) -> dict[str, Any]:
        """What a run wrote down of itself, by the folder of its artifacts."""
        return json.loads(next(root.glob("**/prepare/run/run.json")).read_text())

    def weights_at_start(self, root: Path) -> bytes:
        return next(root.glob(f"**/prepare/policy/{WEIGHTS}")).read_bytes()

    def stored_weights(self, experiment: str, candidate_id: str) -> bytes:
        found = self.storage.read_bytes(f"{experiment}/candidates/{candidate_id}/{WEIGHTS}")
        assert found is not None
        return found[0]

    def runs(self, chain: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """A chain's runs by the names of this test."""
        found = {run["run_id"]: run for run in chain["runs"]}
        return {name: found[self.run_id(name)] for name in ("first", "second", "failing", "third")}


class Stage:
    """The means to play the scene."""

    def __init__(self, folder: Path, s3: dict[str, str], prefix: str) -> None:
        self.folder, self._s3, self.bucket = folder, s3, f"hrf/{prefix}"
        self.storage = Storage.open(f"s3://{self.bucket}", environment=s3)

    def command(self, name: str, *settings: str) -> tuple[str, ...]:
        options = ("--epochs", "2", *promoting(*SHORT, *settings), "--experiment", EXPERIMENT)
        return ("run", "avatars-smoke", *options, *self._where(name))

    def _where(self, name: str) -> tuple[str, ...]:
        return ("--bucket", self.bucket, "--work-dir", str(self.folder / name))

    def begin(self, name: str, *settings: str, network: Network | None = None, **variables: str) -> subprocess.Popen:
        """`hrf run` in the background, in a work directory of its own."""
        endpoint = {"AWS_ENDPOINT_URL_S3": network.endpoint} if network else {}
        return start(
            *self.command(name, *settings),
            output=self.folder / f"{name}.txt",
            variables={**self._s3, **endpoint, **variables},
        )

    def begin_schedule(self) -> subprocess.Popen:
        """The ticks of a schedule, one after another."""
        root = self.folder / NIGHTLY
        root.mkdir()
        arguments = (str(root), f"s3://{self.bucket}", NIGHTLY, OVERRIDES, *TICKS)
        with open(self.folder / f"{NIGHTLY}.txt", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", SCHEDULED, *arguments],
                env={**os.environ, **self._s3, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text()

    def wait_for_step(self, name: str, step: str, process: subprocess.Popen) -> None:
        """Wait until a run has come to a step."""

        def has_come() -> bool:
            assert process.poll() is None, self.said(name)
            return any(
                event["event"] == "step-started" and event["step"] == step for event in events(self.folder / name)
            )

        wait_for(has_come)

    def wait_for_end(self, name: str, process: subprocess.Popen, exit_code: int = 0) -> None:
        end_of(process)
        assert process.returncode == exit_code, self.said(name)

    def pointer(self) -> bytes:
        found = self.storage.read_bytes(f"{EXPERIMENT}/promoted.json")
        return found[0] if found else b""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, embedded_s3) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("recurring")
    stage = Stage(folder, embedded_s3.environment(), uuid.uuid4().hex)
    pointers = {}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        race_to_the_pointer(stage, stack)
        pointers["after the race"] = stage.pointer()
        schedule = stage.begin_schedule()
        stack.callback(kill, schedule.pid)
        fail(stage)
        pointers["after a failed run"] = stage.pointer()
        be_killed(stage)
        pointers["after a killed run"] = stage.pointer()
        chain = read_chain(stage.storage, EXPERIMENT)
        stage.wait_for_end("third", stage.begin("third"))
        stage.wait_for_end(NIGHTLY, schedule)
        yield Scene(storage=stage.storage, folder=folder, pointers=pointers, chain_after_the_kill=chain)


def race_to_the_pointer(stage: Stage, stack: contextlib.ExitStack) -> None:
    """Two runs that overlap and, having both passed the gate against the base, reach for the pointer at once."""
    server = stage._s3["AWS_ENDPOINT_URL_S3"]
    networks = [stack.enter_context(holding(server)) for _ in range(2)]
    first = stage.begin("first", SLOWER, network=networks[0])
    stage.wait_for_step("first", "train", first)
    # A seed of its own: two runs from one start with one seed would make one and the same candidate.
    second = stage.begin("second", "run.seed=2", network=networks[1])
    for name, process, network in (("first", first, networks[0]), ("second", second, networks[1])):
        wait_for(lambda network=network, process=process: network.arrived.is_set() or process.poll() is not None)
        assert network.arrived.is_set(), stage.said(name)
    networks[0].release()
    wait_for(lambda: stage.pointer())
    networks[1].release()
    stage.wait_for_end("first", first)
    stage.wait_for_end("second", second)


def fail(stage: Stage) -> None:
    """A run whose reward raises."""
    modules = stage.folder / "modules"
    modules.mkdir()
    shutil.copy(Path(__file__).with_name("faulty_reward.py"), modules)
    (modules / "order").write_text("raise")
    path = os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")])
    failing = stage.begin("failing", FAULTY, PYTHONPATH=path, REWARD_ORDER=str(modules / "order"))
    stage.wait_for_end("failing", failing, exit_code=1)


def be_killed(stage: Stage) -> None:
    """A run that is killed, at once with all that it started, while it trains."""
    third = stage.begin("third")
    stage.wait_for_step("third", "train", third)
    kill(third.pid, *descendants(third.pid))
    third.wait()


def test_overlapping_runs_give_one_unbroken_chain(scene):
    promotions = history(scene.storage, EXPERIMENT)
    assert [record.candidate_id for record in promotions][:2] == [
        scene.candidate("first"),
        scene.candidate("second"),
    ]
    assert [record.sequence for record in promotions] == list(range(1, len(promotions) + 1))
    assert [record.previous for record in promotions] == [None, *(each.candidate_id for each in promotions[:-1])]
    assert read_pointer(scene.storage, EXPERIMENT) == promotions[-1]


def test_who_loses_the_race_is_judged_anew_against_who_won_it(scene):
    attempts = [
        read(scene.storage, key)["record"]["decision"]
        for key in scene.storage.list(f"{EXPERIMENT}/attempts/{scene.candidate('second')}/")
    ]
    assert [attempt["incumbent_id"] for attempt in attempts] == [None, scene.candidate("first")]
    assert [attempt["outcome"] for attempt in attempts] == ["promoted", "promoted"]
    decision = scene.decision("second")
    assert (decision["attempts"], decision["sequence"]) == (2, 2)
    assert scene.decision("first")["attempts"] == 1


def test_every_decision_is_about_the_incumbent_that_it_names(scene):
    """Also where it is not what the run started from. Verdicts are about fresh seeds, selections about fixed ones."""
    summary = read(scene.storage, f"{EXPERIMENT}/runs/{scene.run_id('first')}/summary.json")
    rewards = {None: np.array(summary["base"]["rewards"])}
    for name in ("first", "second", "third"):
        key = f"{EXPERIMENT}/candidates/{scene.candidate(name)}/evaluation.json"
        rewards[scene.candidate(name)] = np.array(json.loads(scene.storage.read_bytes(key)[0])["rewards"])
    digests = {scene.decision(name)["evaluation_digest"] for name in ("first", "second", "third")}
    assert len(digests) == 1
    for name in ("first", "second", "third"):
        decision = scene.decision(name)
        gain = decision["reward_vs_incumbent"]
        if decision["number"] is None:  # not selected: decided on the fixed seeds
            gains = rewards[scene.candidate(name)] - rewards[decision["incumbent_id"]]
            assert gain["value"] == pytest.approx(gains.mean())
        elif decision["incumbent_id"] is None:
            assert gain["value"] == pytest.approx(decision["reward_vs_base"]["value"])
        assert (decision["outcome"] == "promoted") == all(check["passed"] for check in decision["checks"])
    assert scene.decision("third")["incumbent_id"] == scene.candidate("second")


def test_a_failed_and_a_killed_run_leave_the_pointer_alone_byte_for_byte(scene):
    assert json.loads(scene.pointers["after the race"])["candidate_id"] == scene.candidate("second")
    assert len(set(scene.pointers.values())) == 1


def test_the_next_run_starts_from_what_was_promoted_with_other_noise(scene):
    root = only_run(scene.folder / "third")
    about = scene.about(root)
    assert about["started_from"] == scene.candidate("second")
    assert scene.weights_at_start(root) == scene.stored_weights(EXPERIMENT, scene.candidate("second"))
    summary = read(scene.storage, f"{EXPERIMENT}/runs/{root.name}/summary.json")
    assert summary["run"]["started_from"] == scene.candidate("second")
    seeds = [scene.about(only_run(scene.folder / name))["run_seed"] for name in ("first", "second", "third")]
    assert len(set(seeds)) == 3


def test_the_chain_tells_of_every_run_how_it_began_and_ended(scene):
    then, now = scene.runs(scene.chain_after_the_kill), scene.runs(read_chain(scene.storage, EXPERIMENT))
    assert list(then) == list(now) == ["first", "second", "failing", "third"]
    assert [run["created"] for run in now.values()] == sorted(run["created"] for run in now.values())
    assert [run["state"] for run in then.values()] == ["finished", "finished", "failed", "unfinished"]
    assert [run["state"] for run in now.values()] == ["finished", "finished", "failed", "finished"]
    assert [run["started_from_sequence"] for run in now.values()] == [None, None, 2, 2]
    assert "LookupError: no such colour" in json.dumps([now["failing"]["error"], now["failing"]["failures"]])
    assert then["failing"]["candidates"] == then["third"]["candidates"] == []
    assert len(now["third"]["candidates"]) == 1


def test_the_command_shows_the_chain_and_the_lost_race(scene, embedded_s3):
    bucket = scene.storage.uri.removeprefix("s3://")
    said = hrf("runs", "chain", "--experiment", EXPERIMENT, "--bucket", bucket, variables=embedded_s3.environment())
    assert said.exit_code == 0, said.output
    assert "Experiment overlapping: 4 runs of avatars-smoke" in said.output
    assert "over #1; judged before against the base" in said.output
    assert f"#2    {scene.candidate('second')}" in said.output
    assert max(map(len, said.output.splitlines())) <= 100


def test_each_tick_of_a_schedule_goes_on_from_the_one_before(scene):
    roots = [scene.folder / NIGHTLY / tick for tick in TICKS]
    promotions = history(scene.storage, NIGHTLY)
    assert promotions[0].candidate_id == f"{TICKS[0]}/{CANDIDATE}"
    first, second = (scene.about(root) for root in roots)
    assert (first["started_from"], second["started_from"]) == (None, f"{TICKS[0]}/{CANDIDATE}")
    assert scene.weights_at_start(roots[1]) == scene.stored_weights(NIGHTLY, f"{TICKS[0]}/{CANDIDATE}")
    assert first["run_seed"] != second["run_seed"]
    chain = read_chain(scene.storage, NIGHTLY)
    assert [run["run_id"] for run in chain["runs"]] == list(TICKS)
    assert [run["started_from_sequence"] for run in chain["runs"]] == [None, 1]
    assert [run["state"] for run in chain["runs"]] == ["finished", "finished"]
    assert [len(run["candidates"]) for run in chain["runs"]] == [1, 1]
