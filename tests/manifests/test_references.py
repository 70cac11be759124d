"""Every name that a package refers to exists in the namespace that the manifests make, with the keys used."""

import pytest
import yaml
from kfp import dsl, kubernetes

from hrf.config import resolve
from hrf_pipelines import placement
from hrf_pipelines.finetune import build as build_finetune
from hrf_pipelines.package import compile_package, read_package
from tests.manifests.kustomize import MANIFESTS, build, find, secret_from_template
from tests.manifests.references import Reference, references


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def step() -> None:
    """Does nothing."""


def _package(*settle):
    @dsl.pipeline(name="small")
    def small(secret: str = "at-run-time") -> None:
        for each in settle:
            each(step(), secret)

    return compile_package(small)


@pytest.mark.parametrize(
    ("settle", "expected"),
    [
        (
            lambda task, _: kubernetes.use_secret_as_env(task, "keys", {"A": "X", "B": "Y"}),
            Reference("Secret", "keys", frozenset({"A", "B"})),
        ),
        (lambda task, _: kubernetes.use_secret_as_volume(task, "keys", "/keys"), Reference("Secret", "keys")),
        (lambda task, _: kubernetes.set_image_pull_secrets(task, ["registry"]), Reference("Secret", "registry")),
        (
            lambda task, _: kubernetes.use_config_map_as_env(task, "where", {"C": "Z"}),
            Reference("ConfigMap", "where", frozenset({"C"})),
        ),
        (lambda task, _: kubernetes.use_config_map_as_volume(task, "where", "/w"), Reference("ConfigMap", "where")),
        (lambda task, _: kubernetes.mount_pvc(task, "disk", "/disk"), Reference("PersistentVolumeClaim", "disk")),
    ],
)
def test_a_reference_is_read_from_a_compiled_package(settle, expected):
    assert references(_package(settle)) == {expected}


def test_the_references_of_all_steps_are_gathered():
    package = _package(
        lambda task, _: kubernetes.use_secret_as_env(task, "keys", {"A": "X"}),
        lambda task, _: kubernetes.mount_pvc(kubernetes.use_secret_as_env(task, "keys", {"B": "X"}), "disk", "/disk"),
    )
    assert references(package) == {
        Reference("Secret", "keys", frozenset({"A"})),
        Reference("Secret", "keys", frozenset({"B"})),
        Reference("PersistentVolumeClaim", "disk"),
    }


def test_a_package_without_settings_refers_to_nothing():
    assert references(_package(lambda task, _: task)) == set()


def test_settings_of_older_compilers_are_read_too():
    executors = {"exec-a": {"secretAsEnv": [{"secretName": "keys"}], "pvcMount": [{"constant": "disk"}]}}
    old = yaml.safe_dump({"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}})
    assert references(old) == {Reference("Secret", "keys"), Reference("PersistentVolumeClaim", "disk")}


def test_a_name_that_only_the_run_knows_is_an_error():
    with pytest.raises(ValueError, match="run time"):
        references(_package(lambda task, secret: kubernetes.use_secret_as_env(task, secret, {"A": "X"})))


@pytest.mark.parametrize(
    ("preset", "name"),
    [("avatars-compressibility", "cpu-small"), ("avatars-smoke", "cpu-small"), ("celebahq-compressibility", "gpu")],
)
def test_every_name_in_a_placed_package_exists_in_the_base(preset, name):
    config = resolve(preset)
    placed = placement.load_placement(name, config)
    found = references(compile_package(build_finetune(config, preset=preset, placement=placed)))
    assert _missing(found) == set()
    assert {each.name for each in found} >= {"hrf-s3", "hrf-storage"}
    assert find(build("base"), "ServiceAccount", placed.service_account)


@pytest.mark.parametrize("preset", ["avatars-compressibility", "avatars-smoke", "celebahq-compressibility"])
def test_every_name_in_a_package_exists_in_the_base(preset):
    package = compile_package(build_finetune(resolve(preset), preset=preset))
    assert _missing(references(package)) == set()


@pytest.mark.parametrize(
    "reference",
    [
        Reference("Secret", "hrf-s4"),
        Reference("Secret", "hrf-s3", frozenset({"AWS_SESSION_TOKEN"})),
        Reference("ConfigMap", "hrf-storage", frozenset({"BUCKET"})),
        Reference("PersistentVolumeClaim", "hub-cache"),
    ],
)
def test_a_name_or_key_that_the_base_lacks_is_found(reference):
    assert _missing({reference}) == {reference}


@pytest.mark.parametrize(
    "reference",
    [
        Reference("Secret", "hrf-s3", frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})),
        Reference("Secret", "hrf-hub", frozenset({"HF_TOKEN"})),
        Reference("ConfigMap", "hrf-storage", frozenset({"AWS_ENDPOINT_URL_S3", "AWS_REGION"})),
        Reference("PersistentVolumeClaim", "hrf-hub-cache"),
    ],
)
def test_the_names_that_placements_use_exist_in_the_base(reference):
    assert _missing({reference}) == set()


def test_the_service_account_that_runs_are_given_exists_in_the_base():
    assert find(build("base"), "ServiceAccount", "hrf-runner")


def test_the_bucket_that_a_package_names_by_default_is_the_one_of_the_manifests():
    spec = read_package(compile_package(build_finetune(resolve("avatars-smoke"), preset="avatars-smoke")))[0]
    default = spec["root"]["inputDefinitions"]["parameters"]["storage"]["defaultValue"]
    assert default == f"s3://{find(build('base'), 'ConfigMap', 'hrf-storage')['data']['HRF_BUCKET']}"


def _missing(wanted):
    """Of what is referred to, what neither the base nor a template of a Secret has."""
    existing = {(each["kind"], each["metadata"]["name"]): set(each.get("data", {})) for each in build("base")}
    for template in (MANIFESTS / "secrets").glob("*.env"):
        existing["Secret", template.stem] = set(secret_from_template(template.stem)["data"])
    return {
        each for each in wanted if (each.kind, each.name) not in existing or each.keys - existing[each.kind, each.name]
    }
