"""`hrf doctor --image`, outside of an image: what it refuses. tests/images has it inside of them."""

import os
import subprocess
import sys

import pytest
import torch
from packaging.requirements import Requirement

from hrf import __version__
from hrf_pipelines.doctor.checks import _requirements, _unmet, check_packages
from hrf_pipelines.doctor.image import (
    check_imports,
    check_kubeflow_runtime,
    check_scratch,
    check_torch_variant,
    check_user,
)


def _doctor(**variables):
    command = [sys.executable, "-m", "hrf_pipelines.cli.main", "doctor", "--image"]
    environment = {**os.environ, "HRF_IMAGE_ROLE": "", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_place_that_is_no_image_of_the_project_is_refused():
    done = _doctor()
    assert done.returncode == 1
    assert "fail  role             ''" in done.stdout
    assert "sets HRF_IMAGE_ROLE to one of control, worker, reward" in done.stdout


def test_an_image_is_checked_without_a_bucket_or_a_server():
    done = _doctor(HRF_IMAGE_ROLE="control", HRF_GIT_SHA="abc", HRF_BUCKET="nowhere", AWS_ENDPOINT_URL_S3="http://x")
    assert f"revision         {__version__}, abc" in done.stdout
    assert "storage" not in done.stdout


def test_control_refuses_torch_and_the_others_the_torch_that_they_were_not_built_with(monkeypatch):
    assert check_torch_variant("control").level == "fail"
    built, other = ("cpu", "cuda") if torch.version.cuda is None else ("cuda", "cpu")
    monkeypatch.setenv("HRF_TORCH_VARIANT", built)
    assert check_torch_variant("worker").level == "ok"
    for wrong in (other, ""):
        monkeypatch.setenv("HRF_TORCH_VARIANT", wrong)
        assert check_torch_variant("reward").level == "fail"


def test_a_step_that_cannot_be_imported_is_told(monkeypatch):
    assert check_imports("control").level == "ok"
    # The way to say that a module is not there.
    monkeypatch.setitem(sys.modules, "hrf.steps.summarize", None)
    found = check_imports("control")
    assert found.level == "fail"
    assert "hrf.steps.summarize" in found.detail


def test_only_root_is_refused():
    assert check_user().level == ("fail" if os.getuid() == 0 else "ok")


def test_a_folder_for_temporary_files_that_is_not_there_is_refused(monkeypatch, tmp_path):
    assert check_scratch().level == "ok"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert check_scratch().level == "fail"


def test_kubeflow_s_runtime_is_started_as_kubeflow_starts_it():
    assert check_kubeflow_runtime().level == "ok"


@pytest.mark.parametrize(
    ("extras", "needed", "not_needed"),
    [
        ((), {"numpy", "typer"}, {"torch", "open_clip_torch", "kfp"}),
        (("model",), {"numpy", "torch", "accelerate"}, {"open_clip_torch", "kfp"}),
        (("reward",), {"numpy", "torch", "accelerate", "open_clip_torch"}, {"kfp"}),
        (("local",), {"torch", "kfp"}, {"open_clip_torch", "pytest"}),
    ],
)
def test_an_extra_counts_with_what_it_brings(extras, needed, not_needed):
    names = {requirement.name for requirement in _requirements(extras)}
    assert needed <= names
    assert not names & not_needed


def test_a_package_that_is_missing_or_of_another_version_is_told():
    assert _unmet(Requirement("numpy")) == ""
    assert _unmet(Requirement("numpy<1")).endswith(", wanted <1")
    assert _unmet(Requirement("hrf-no-such-package")) == "hrf-no-such-package is missing"
    assert _unmet(Requirement(f"torch=={torch.__version__.partition('+')[0]}")) == ""
    assert check_packages().detail == "all that hrf-pipelines[local] asks for"
