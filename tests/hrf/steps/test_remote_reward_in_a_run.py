"""A run whose reward another process computes: the same weights, and early, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hrf.errors import ConfigError, NumericalError, RemoteError
from hrf.rewards import build_reward
from hrf.rewards.jpeg import JpegReward
from hrf.rewards.server import RewardServer
from hrf.storage.secrets import REWARD_TOKEN
from tests.hrf.rewards.servers import NAME, serving


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv(REWARD_TOKEN, raising=False)


def remote(server: RewardServer, **options) -> dict:
    return {"reward": {"name": "remote", "url": server.url, "scorer": NAME, "batch_size": 4, "retries": 0, **options}}


def test_its_weights_are_those_of_the_local_reward_bit_for_bit(steps):
    """HRF-D, so that sampling asks for rewards, too."""
    selected = {
        "starts": {
            "kind": "selected",
            "schedule": "uniform",
            "width": 0.0,
            "selection": {"stride": 1, "branches": 2, "coarse_stride": 2, "preview_steps": 1},
        }
    }
    local = steps("local", selected)
    jpeg = build_reward(JpegReward())
    with serving(lambda images, prompts: jpeg(images)) as server:
        distant = steps("distant", {**selected, **remote(server)})
        for run in (local, distant):
            run.prepare(experiment=run.folder.name)
            run.epoch(0)
            run.judge(0)
    for name in ("policy-1", "state-1", "trajectories-0"):
        weights = [
            {file.name: file.read_bytes() for file in (run.folder / name).rglob("*.safetensors")}
            for run in (local, distant)
        ]
        assert weights[0] == weights[1]
    record = json.loads((distant.folder / "scores-0" / "scores.json").read_text())
    assert record["name"] == f"remote:{NAME}"


def test_a_server_that_is_not_there_is_an_error_in_prepare(steps):
    with serving() as server:
        changes = remote(server)
    with pytest.raises(RemoteError, match="ConnectError"):
        steps("absent", changes).prepare()


def test_another_scorer_is_an_error_in_prepare(steps):
    with serving() as server, pytest.raises(RemoteError, match="scorer is 'brightness', not 'darkness'"):
        steps("other", remote(server, scorer="darkness")).prepare()


def test_one_that_needs_prompts_is_an_error_in_prepare_of_an_unconditional_model(steps):
    with serving(needs_prompts=True) as server, pytest.raises(ConfigError, match=r"reward\.name.*prompts"):
        steps("prompts", remote(server)).prepare()


def test_a_reward_that_is_not_finite_names_the_branch(steps):
    def score(images, prompts):
        return np.where(np.arange(len(images)) == 1, np.nan, 0.5) if len(images) == 2 else np.full(len(images), 0.5)

    with serving(score) as server:
        run = steps("nan", remote(server))
        run.prepare()
        # Two roots of three branches, in batches of 4 and 2: the last one of all.
        with pytest.raises(NumericalError, match=r"nan.*epoch=0, root=1, branch=2"):
            run.epoch(0)


def test_moving_the_server_leaves_what_was_measured_as_it_was(steps):
    digests = set()
    for place in ("here", "there"):
        with serving() as server:
            run = steps(place, remote(server, deadline_seconds=50.0 if place == "here" else 60.0))
            run.prepare(experiment=place)
        digests.add(json.loads((run.folder / "run" / "run.json").read_text())["evaluation_digest"])
    assert len(digests) == 1
