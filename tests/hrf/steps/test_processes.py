"""Steps in several processes against the same steps in one: what is bit for bit equal, and what up to rounding."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hrf.checkpoint import read_manifest
from tests.hrf.steps.test_epochs import DDPO, SELECTED, SPLIT

pytestmark = pytest.mark.slow

#: Three roots, so that three processes have one each, and two have unequal parts.
ROOTS = {"rollout": {"roots": 3, "branches": 3}, "update": {"minibatch": 4, "microbatch": 5}}


def shared_by(run, num_processes: int) -> None:
    """Let the steps after `prepare` run in so many processes: the run's folder is what they read it from."""
    from hrf.steps.context import CONFIG_FILE, RUN_FILE

    run.config = run.config.with_changes({"model": {"num_processes": num_processes}})


def test_x(steps):
    run = steps("run", {**ROOTS, "model": {"num_processes": 2}})
    run.prepare()
    run.sample(0)
    run.epoch(0)
