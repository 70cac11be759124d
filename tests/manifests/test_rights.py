"""The runner's rights: few, named, and none that hands out others."""

import pytest

from tests.manifests.kustomize import FOLDERS, build, find

#: Verbs that Kubernetes can hold to names; creating and listing have none.
NAMED_VERBS = {"get", "update", "patch", "delete"}


def _rules(folder):
    return [rule for each in build(folder) if each["kind"] == "Role" for rule in each["rules"]]


def _rights(folder):
    return {
        (resource, verb, tuple(rule.get("resourceNames", ())))
        for rule in _rules(folder)
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_rule_has_a_wildcard(folder):
    for rule in _rules(folder):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", [])]
        assert "nonResourceURLs" not in rule


@pytest.mark.parametrize("folder", FOLDERS)
def test_secrets_and_config_maps_are_read_by_name_only(folder):
    for rule in _rules(folder):
        if {"secrets", "configmaps"} & set(rule["resources"]):
            assert rule["resourceNames"]
            assert rule["verbs"] == ["get"]


def test_the_rights_are_these_and_no_more():
    assert _rights("base") == {
        ("configmaps", "get", ("kfp-launcher",)),
        ("workflowtaskresults", "create", ()),
        ("workflowtaskresults", "patch", ()),
        ("workflows", "get", ()),
        ("pods", "list", ()),
        ("secrets", "get", ("hrf-s3",)),
    }


def test_without_keys_in_the_cluster_no_secret_can_be_read():
    assert not any(resource == "secrets" for resource, *_ in _rights("overlays/aws-irsa"))
    assert len(_rights("overlays/aws-irsa")) == len(_rights("base")) - 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_reaches_beyond_the_namespace(folder):
    assert not any(each["kind"].startswith("Cluster") for each in build(folder))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_role_is_the_runner_s(folder):
    roles = {each["metadata"]["name"] for each in build(folder) if each["kind"] == "Role"}
    bindings = [each for each in build(folder) if each["kind"] == "RoleBinding"]
    assert {each["roleRef"]["name"] for each in bindings} == roles
    for binding in bindings:
        (subject,) = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": "hrf-runner", "namespace": "hrf"}
        assert find(build(folder), "ServiceAccount", subject["name"])
