"""The pipeline run from Python, without `hrf run`, its sampling shared as on a cluster: the same weights."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hrf.config import resolve
from hrf.config.overrides import from_settings, lay_over
from hrf.storage.folders import read_manifest
from tests.e2e.commands import PROMOTING, environment, state

pytestmark = pytest.mark.e2e
OVERRIDES = lay_over("", from_settings(PROMOTING))
#: Every step is a fresh interpreter here, which takes longer than its work: the command's first epoch is enough.
ONE_EPOCH = lay_over("", from_settings((*PROMOTING, "run.epochs=1")))
SHARED = """
import sys, warnings
from kfp import local
from hrf.config import resolve
from hrf_pipelines.finetune import build
from hrf_pipelines.placement import Placement
warnings.simplefilter("ignore")
root, storage, run_tag, overrides = sys.argv[1:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
config = resolve("avatars-smoke", overrides)
pipeline = build(config, preset="avatars-smoke", overrides=overrides, placement=Placement(shards=2))
pipeline(storage=storage, run_tag=run_tag)
"""


def first_policy(artifacts):
    """What the first update wrote, file by file, but for its records, which tell wall times."""
    policies = [read_manifest(path) for path in artifacts.glob("*/update*/new_policy")]
    files = min(policies, key=lambda manifest: manifest.producer["epoch"]).files
    return {name: entry for name, entry in files.items() if not name.startswith("updates/")}


def test_in_two_shards_and_without_the_command_it_ends_in_the_weights_of_the_command(
    undisturbed, tmp_path, s3_environment, storage_uri
):
    subprocess.run(
        [sys.executable, "-c", SHARED, str(tmp_path), storage_uri, undisturbed.run_id, ONE_EPOCH],
        env=environment(**s3_environment),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(list(tmp_path.glob("*/*iteration*/sample*/trajectories"))) == 2
    assert first_policy(tmp_path) == first_policy(undisturbed.folder / "artifacts")


def test_the_run_notes_the_configuration_that_it_was_given(undisturbed):
    assert state(undisturbed.folder)["config"] == resolve("avatars-smoke", OVERRIDES).to_mapping()
