"""Rules that hold for all manifests, whatever they are for."""

import json
import re

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.manifests.kustomize import FOLDERS, MANIFESTS, build, build_at, secret_from_template

PART_OF = "app.kubernetes.io/part-of"
FILES = sorted(MANIFESTS.rglob("*.yaml"))
KUSTOMIZATIONS = [path for path in FILES if path.name == "kustomization.yaml"]
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED", "AWS_SECRET_ACCESS_KEY": "planted-in-the-environment"}


def _templates(document):
    spec = document.get("spec", {})
    yield from ([spec["template"]] if "template" in spec else [])
    yield from spec.get("volumeClaimTemplates", [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_the_yaml_is_tidy(path):
    config = YamlLintConfig((MANIFESTS / ".yamllint.yaml").read_text())
    problems = [] if config.is_file_ignored(path.name) else list(linter.run(path.read_text(), config))
    assert problems == []


def test_untidy_yaml_is_found():
    config = YamlLintConfig((MANIFESTS / ".yamllint.yaml").read_text())
    assert list(linter.run("a: 1\na: 2\n", config))


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_nothing_is_fetched_from_elsewhere(path):
    written = yaml.safe_load(path.read_text())
    named = [*written.get("resources", []), *written.get("components", [])]
    assert all((path.parent / each).exists() for each in named)
    assert "helmCharts" not in written


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_says_what_it_is_part_of(folder):
    for document in build(folder):
        # A run's namespace has to carry the label by which Kubeflow lets its pods in.
        expected = "kubeflow-profile" if document["kind"] == "Namespace" else "hrf-pipelines"
        assert document["metadata"]["labels"][PART_OF] == expected, document["metadata"]["name"]
        assert all(each["metadata"]["labels"][PART_OF] == expected for each in _templates(document))


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_is_in_the_one_namespace(folder):
    names = {each["metadata"]["name"] for each in build(folder) if each["kind"] == "Namespace"}
    assert names == {"hrf"}
    assert {each["metadata"]["namespace"] for each in build(folder) if each["kind"] != "Namespace"} == names


def test_all_follows_where_the_base_is_put_into_another_namespace(tmp_path):
    made = _in_namespace(tmp_path, "team-a", ["existing-namespace"], ["seaweedfs", "gpu", "cpu-small"])
    assert {each["metadata"]["namespace"] for each in made} == {"team-a"}
    text = yaml.safe_dump_all(made)
    assert "http://hrf-seaweedfs.team-a.svc:8333" in text
    assert "hrf-seaweedfs.hrf" not in text


def test_the_namespace_object_takes_the_namespace_s_name(tmp_path):
    made = _in_namespace(tmp_path, "team-a", [], [])
    assert [each["metadata"]["name"] for each in made if each["kind"] == "Namespace"] == ["team-a"]


def test_components_leave_out_what_their_names_say(tmp_path):
    made = _in_namespace(tmp_path, "team-a", ["existing-namespace", "uploaded-pipelines"], [])
    kinds = {each["kind"] for each in build("base")}
    assert {each["kind"] for each in made} == kinds - {"Namespace", "Pipeline", "PipelineVersion"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_object_is_a_secret(folder):
    assert not any(each["kind"] == "Secret" for each in build(folder))


def test_no_file_holds_a_value_for_a_secret():
    for path in (*FILES, *sorted((MANIFESTS / "secrets").iterdir())):
        text = path.read_text()
        assert not re.search(r"(SECRET_ACCESS_KEY|ACCESS_KEY_ID|HF_TOKEN)\s*[=:]\s*[\"']?[A-Za-z0-9+/]{8,}", text), path
        assert "AKIA" not in text, path


@pytest.mark.parametrize("name", ["hrf-s3", "hrf-hub"])
def test_secret_templates_take_every_value_from_the_environment(name):
    values = {**KEYS, "HF_TOKEN": "planted-token"}
    made = secret_from_template(name, **values)
    assert made["metadata"]["name"] == name
    assert len(made["data"]) == (1 if name == "hrf-hub" else 2)
    assert not any(value in (MANIFESTS / "secrets" / f"{name}.env").read_text() for value in values.values())
    assert secret_from_template(name, **dict.fromkeys(values, "other"))["data"] != made["data"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_fits_into_etcd_with_room_to_spare(folder):
    assert max(len(json.dumps(each)) for each in build(folder)) < 1_000_000


def _in_namespace(folder, namespace, inner, outer):
    """As the README has it: the base in a namespace, and around it what goes on top."""
    components = "../manifests/components"
    (folder / "manifests").symlink_to(MANIFESTS)  # kustomize takes relative paths only.
    layers = {
        "namespaced": {
            "namespace": namespace,
            "resources": ["../../manifests/base"],
            "components": [f"../{components}/{each}" for each in inner],
        },
        ".": {"resources": ["namespaced"], "components": [f"{components}/{each}" for each in outer]},
    }
    for name, layer in layers.items():
        (folder / "mine" / name).mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name / "kustomization.yaml").write_text(yaml.safe_dump(layer))
    return build_at(folder / "mine")
