"""What a component writes down of its step: metrics and lineage."""

import hashlib
import json

import pytest
from kfp.dsl import Metrics, Model

from hrf.errors import NumericalError
from hrf.storage.folders import writing_folder
from hrf_components.outputs import record


@pytest.fixture
def policy(tmp_path):
    with writing_folder(tmp_path / "policy", producer={"step": "update"}) as folder:
        (folder / "weights").write_bytes(b"123")
    return Model(name="new_policy", uri=str(tmp_path / "policy"))


@pytest.fixture
def metrics(tmp_path):
    return Metrics(name="metrics", uri=str(tmp_path / "metrics"))


def test_numbers_become_metrics_and_an_artifact_tells_of_code_epoch_and_contents_only(policy, metrics):
    """Whatever stands there is in the Workflow six times for each step that is given the artifact."""
    record({"loss": 0.5, "updates": 3, "window": "10-18"}, metrics=metrics, outputs=[policy], epoch=2)
    assert metrics.metadata == {"loss": 0.5, "updates": 3.0}
    assert policy.metadata.keys() == {"hrf_version", "epoch", "sha256"}
    assert policy.metadata["epoch"] == 2


def test_the_digest_of_a_folder_is_that_of_its_manifest(policy, metrics, tmp_path):
    record({}, metrics=metrics, outputs=[policy])
    assert policy.metadata["sha256"] == hashlib.sha256((tmp_path / "policy" / "manifest.json").read_bytes()).hexdigest()


def test_a_step_without_numbers_has_no_metrics_but_lineage(policy):
    record({"run_id": "r1", "trained_steps": 18}, outputs=[policy])
    assert policy.metadata.keys() == {"hrf_version", "sha256"}


def test_the_commit_of_the_image_is_written_down(policy, metrics, monkeypatch):
    monkeypatch.setenv("HRF_GIT_SHA", "0123456789abcdef0123456789abcdef01234567")
    record({}, metrics=metrics, outputs=[policy])
    assert policy.metadata.keys() == {"git_sha", "sha256"}
    assert policy.metadata["git_sha"] == "0123456789ab"


def test_metrics_leave_a_file_without_which_the_local_cache_would_think_them_lost(policy, metrics, tmp_path):
    record({"loss": 0.5}, metrics=metrics, outputs=[policy])
    assert json.loads((tmp_path / "metrics").read_text()) == {"loss": 0.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_an_error_that_names_it(policy, metrics, value):
    with pytest.raises(NumericalError, match="grad_norm"):
        record({"grad_norm": value}, metrics=metrics, outputs=[policy])
