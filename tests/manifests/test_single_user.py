"""What README's commands apply to a Kubeflow for a single user."""

import re

import pytest
import yaml

from tests.manifests.kustomize import ROOT, build, find
from tests.manifests.schemas import check

FOLDER = "overlays/single-user"
README = (ROOT / "README.md").read_text()


def test_everything_is_where_such_a_kubeflow_runs_its_pods():
    objects = build(FOLDER)
    assert {each["metadata"]["namespace"] for each in objects} == {"kubeflow"}
    assert {each["kind"] for each in objects} & {"Namespace", "Pipeline", "PipelineVersion"} == set()
    for each in objects:
        check(each)


def test_it_is_the_base_with_a_store_of_its_own():
    names = {(each["kind"], each["metadata"]["name"]) for each in build("overlays/seaweedfs")}
    left_out = {name for name in names if name[0] in ("Namespace", "Pipeline", "PipelineVersion")}
    assert {(each["kind"], each["metadata"]["name"]) for each in build(FOLDER)} == names - left_out


def test_steps_and_launcher_find_the_store_in_that_namespace():
    told = find(build(FOLDER), "ConfigMap", "hrf-storage")["data"]["AWS_ENDPOINT_URL_S3"]
    launcher = yaml.safe_load(find(build(FOLDER), "ConfigMap", "kfp-launcher")["data"]["providers"])
    # As in the recorded run's artifacts.
    assert told == launcher["s3"]["default"]["endpoint"] == "http://hrf-seaweedfs.kubeflow.svc:8333"


@pytest.mark.parametrize("kind", ["RoleBinding"])
def test_the_rights_are_given_to_the_account_of_that_namespace(kind):
    for binding in (each for each in build(FOLDER) if each["kind"] == kind):
        assert [subject["namespace"] for subject in binding["subjects"]] == ["kubeflow"]


def test_the_commands_of_the_readme_are_for_it():
    commands = README.partition("### Five commands")[2].partition("```sh")[2].partition("```")[0]
    assert f"-k manifests/{FOLDER}" in commands
    assert set(re.findall(r" -n (\S+)", commands)) == {"kubeflow"}
    assert "create namespace" not in commands
