"""Where the bucket is, as the steps are told and as Kubeflow's launcher is told."""

import pytest
import yaml

from tests.manifests.kustomize import FOLDERS, OVERLAYS, build, find, secret_from_template

#: Fields of the launcher's settings for S3 (Kubeflow 2.17, backend/src/v2/config/s3.go). It takes no notice of others.
FIELDS = {
    "endpoint": str,
    "region": str,
    "disableSSL": bool,
    "forcePathStyle": bool,
    "maxRetries": int,
    "credentials": dict,
}


def _settings(folder):
    launcher = find(build(folder), "ConfigMap", "kfp-launcher")["data"]
    assert set(launcher) == {"defaultPipelineRoot", "providers"}
    return launcher["defaultPipelineRoot"], yaml.safe_load(launcher["providers"])


def _problems(providers):
    """What the launcher would drop without a word, or stumble over."""
    found = [f"unknown provider {name}" for name in providers if name != "s3"]
    given = providers["s3"]["default"]
    found += [f"unknown field {name}" for name in given if name not in FIELDS]
    found += [name for name, kind in FIELDS.items() if name in given and type(given[name]) is not kind]
    credentials = given["credentials"]
    if credentials["fromEnv"] is False:
        found += [name for name in ("secretName", "accessKeyKey", "secretKeyKey") if not credentials["secretRef"][name]]
        found += [name for name in ("endpoint", "region") if not given[name]]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_launcher_understands_its_settings(folder):
    root, providers = _settings(folder)
    assert root.startswith("s3://")
    assert set(providers["s3"]) == {"default"}
    assert _problems(providers) == []


@pytest.mark.parametrize(("field", "value"), [("forcePathstyle", True), ("maxRetries", "5"), ("disableSSL", "no")])
def test_a_setting_that_the_launcher_would_not_take_is_found(field, value):
    _, providers = _settings("base")
    providers["s3"]["default"][field] = value
    assert _problems(providers)


@pytest.mark.parametrize("folder", FOLDERS)
def test_steps_and_launcher_are_told_the_same(folder):
    root, providers = _settings(folder)
    given = providers["s3"]["default"]
    told = find(build(folder), "ConfigMap", "hrf-storage")["data"]
    assert given.get("endpoint") == told.get("AWS_ENDPOINT_URL_S3")
    assert given["region"] == told["AWS_REGION"]
    assert root.split("/")[2] == told["HRF_BUCKET"]
    if "endpoint" in given:
        assert given.get("disableSSL", False) == given["endpoint"].startswith("http://")


@pytest.mark.parametrize("folder", FOLDERS)
def test_artifacts_of_kubeflow_are_where_no_experiment_can_be(folder):
    root, _ = _settings(folder)
    # Names of experiments begin with a letter or digit: hrf.promoted.
    assert not root.split("/")[3][0].isalnum()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_keys_are_those_of_the_template(folder):
    credentials = _settings(folder)[1]["s3"]["default"]["credentials"]
    if credentials["fromEnv"]:
        assert "secretRef" not in credentials
        return
    named = credentials["secretRef"]
    template = secret_from_template(named["secretName"])
    assert {named["accessKeyKey"], named["secretKeyKey"]} == set(template["data"])
    assert (named["accessKeyKey"], named["secretKeyKey"]) == ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def test_a_role_of_aws_takes_the_place_of_keys_and_endpoint():
    objects = build("overlays/aws-irsa")
    annotations = find(objects, "ServiceAccount", "hrf-runner")["metadata"]["annotations"]
    assert annotations["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    assert _settings("overlays/aws-irsa")[1]["s3"]["default"]["credentials"] == {"fromEnv": True}
    assert "AWS_ENDPOINT_URL_S3" not in find(objects, "ConfigMap", "hrf-storage")["data"]
    assert "hrf-s3" not in yaml.safe_dump_all(objects).split("kind: PipelineVersion")[0]


@pytest.mark.parametrize("folder", sorted({*FOLDERS, *OVERLAYS} - {"overlays/aws-irsa"}))
def test_only_a_role_of_aws_annotates_the_service_account(folder):
    assert "annotations" not in find(build(folder), "ServiceAccount", "hrf-runner")["metadata"]
