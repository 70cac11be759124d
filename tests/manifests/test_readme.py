"""The manifests' README: its kustomizations build, its commands name what there is."""

import re

import pytest
import yaml

from hrf import __version__
from tests.manifests.kustomize import MANIFESTS, ROOT, build_at, find
from tests.manifests.schemas import check

README = (MANIFESTS / "README.md").read_text()
SNIPPETS = [
    match.groups() for match in re.finditer(r"```yaml\n# (hrf/\S*kustomization\.yaml)\n(.*?)```", README, re.DOTALL)
]
INNER = next(text for name, text in SNIPPETS if name == "hrf/namespaced/kustomization.yaml")
OUTER = [text for name, text in SNIPPETS if name == "hrf/kustomization.yaml"]


def _build(folder, outer):
    (folder / "manifests").symlink_to(MANIFESTS)
    (folder / "hrf" / "namespaced").mkdir(parents=True)
    (folder / "hrf" / "namespaced" / "kustomization.yaml").write_text(INNER)
    (folder / "hrf" / "kustomization.yaml").write_text(outer)
    return build_at(folder / "hrf")


def test_there_are_two_examples():
    assert len(OUTER) == 2


@pytest.mark.parametrize("outer", OUTER, ids=["s3", "irsa"])
def test_the_overlays_that_it_shows_are_valid(tmp_path, outer):
    objects = _build(tmp_path, outer)
    for each in objects:
        check(each)
    assert {each["metadata"]["namespace"] for each in objects} == {"team-a"}
    assert not {each["kind"] for each in objects} & {"Namespace", "Pipeline", "PipelineVersion"}


def test_the_overlay_that_it_shows_does_what_it_says(tmp_path):
    objects = _build(tmp_path, OUTER[0])
    launcher = find(objects, "ConfigMap", "kfp-launcher")["data"]
    told = find(objects, "ConfigMap", "hrf-storage")["data"]
    given = yaml.safe_load(launcher["providers"])["s3"]["default"]
    assert (given["endpoint"], given["region"]) == (told["AWS_ENDPOINT_URL_S3"], told["AWS_REGION"])
    assert launcher["defaultPipelineRoot"].startswith(f"s3://{told['HRF_BUCKET']}/_")
    (container,) = find(objects, "Job", "hrf-hub-cache-owner")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/hrf-control:{__version__}"


def test_the_role_that_it_shows_takes_the_example_s_place(tmp_path):
    objects = _build(tmp_path, OUTER[1])
    annotations = find(objects, "ServiceAccount", "hrf-runner")["metadata"]["annotations"]
    assert annotations == {"eks.amazonaws.com/role-arn": "arn:aws:iam::444455556666:role/team-a-hrf"}


def test_the_files_that_its_commands_name_exist():
    named = re.findall(r"(?:-k |--from-env-file=|kustomize )(manifests/\S+)", README)
    assert len(named) > 5
    assert all((ROOT / each).exists() for each in named)


@pytest.mark.parametrize("folder", ["components", "overlays"])
def test_it_names_every_component_and_overlay(folder):
    assert all(f"`{path.name}`" in README for path in (MANIFESTS / folder).iterdir())
