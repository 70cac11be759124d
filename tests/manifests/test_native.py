"""The pipeline as Kubernetes objects: the committed file, and the function that writes it."""

import copy
import re
from importlib import metadata

import pytest
import yaml
from kfp import dsl

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_pipelines import native
from hrf_pipelines.native import digest, kubernetes_manifest, write_finetune
from hrf_pipelines.package import compile_package
from tests.manifests.kustomize import MANIFESTS

COMMITTED = MANIFESTS / "base" / "pipeline.yaml"


def _pipeline(image="registry/one:1"):
    @dsl.component(base_image=image, install_kfp_package=False)
    def step() -> None:
        """Does nothing."""

    @dsl.pipeline(name="small", description="A small one.")
    def small(epochs: int = 1) -> None:
        step()

    return small


def _objects(**changes):
    settings = {"name": "small", "version": "1.2.0", **changes}
    return list(yaml.safe_load_all(kubernetes_manifest(settings.pop("pipeline", _pipeline()), **settings)))


def _without_sdk(objects):
    kept = copy.deepcopy(objects)
    for each in kept:
        each["spec"].get("pipelineSpec", {}).pop("sdkVersion", None)
    return kept


def test_the_committed_objects_are_those_of_the_code(tmp_path, monkeypatch):
    for role in ("CONTROL", "WORKER", "REWARD"):
        monkeypatch.delenv(f"HRF_IMAGE_{role}", raising=False)
    write_finetune(tmp_path / "pipeline.yaml", "avatars-compressibility")
    committed = list(yaml.safe_load_all(COMMITTED.read_text()))
    written = list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    assert _without_sdk(written) == _without_sdk(committed), "run `make manifests` and commit what it writes"


def test_the_committed_file_is_ascii_and_says_how_it_is_made():
    text = COMMITTED.read_text()
    assert text.isascii()
    assert text.startswith("# Written by `make manifests`")


def test_the_version_holds_what_is_compiled_to_a_package():
    spec, *platform = yaml.safe_load_all(compile_package(_pipeline()))
    _, version = _objects()
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"].get("platformSpec") == (platform[0] if platform else None)


def test_a_version_belongs_to_its_pipeline_and_is_called_after_package_and_content():
    pipeline, version = _objects(display_name="A small one")
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "small"
    assert pipeline["spec"]["displayName"] == "A small one"
    shown = f"1.2.0-{digest(version['spec'])}"
    assert version["spec"]["displayName"] == shown
    assert version["metadata"]["name"] == f"small-{shown}"
    assert re.fullmatch(r"1\.2\.0-[0-9a-f]{8}", shown)


def test_the_committed_version_is_named_for_what_it_runs():
    _, version = yaml.safe_load_all(COMMITTED.read_text())
    about = f"avatars-compressibility-{resolve('avatars-compressibility').run.epochs}-epochs-cpu-small"
    assert version["spec"]["displayName"].startswith(f"{about}-{metadata.version('hrf-pipelines')}-")


def test_the_same_content_is_the_same_object():
    assert _objects() == _objects()


def test_another_image_is_another_version():
    assert _objects()[1]["metadata"]["name"] != _objects(pipeline=_pipeline("registry/one:2"))[1]["metadata"]["name"]


def test_another_compiler_of_the_same_content_is_the_same_version():
    _, version = _objects()
    changed = copy.deepcopy(version["spec"])
    changed["pipelineSpec"]["sdkVersion"] = "kfp-9.9.9"
    assert digest(changed) == digest(version["spec"])


def test_other_settings_of_kubernetes_are_another_version():
    _, version = _objects()
    assert digest({**version["spec"], "platformSpec": {"platforms": {}}}) != digest(version["spec"])


def test_no_namespace_is_written_as_whoever_applies_the_objects_says_which():
    assert not any("namespace" in each["metadata"] for each in _objects())


@pytest.mark.parametrize("version", ["1.0+local", "Main", "feature/x", ".", "1..0", "x" * 250])
def test_a_version_that_can_be_no_name_is_refused(version):
    with pytest.raises(ConfigError, match="version: expected"):
        _objects(version=version)


def test_the_command_writes_the_file(tmp_path, monkeypatch):
    path = tmp_path / "pipeline.yaml"
    monkeypatch.setattr("sys.argv", ["native", str(path), "--preset", "avatars-smoke"])
    native._main()
    pipeline, version = yaml.safe_load_all(path.read_text())
    assert pipeline["metadata"]["name"] == "hrf-finetune"
    parameters = version["spec"]["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert parameters["preset"]["defaultValue"] == "avatars-smoke"
