"""Quotas let through what they are meant to let through."""

import json

from kubernetes.utils.quantity import parse_quantity

from hrf.config import resolve
from hrf_pipelines import placement
from hrf_pipelines.finetune import build as build_finetune
from hrf_pipelines.package import compile_package, read_package
from tests.manifests.kustomize import build, find

#: Kubeflow 2.17's driver (argocompiler/argo.go).
DRIVER = {"cpu": "0.1", "memory": "64Mi"}


def _room(*requests):
    """What is left of the small quota beside containers that ask for this, and one of Argo's for each."""
    objects = build("overlays/cpu-small")
    hard = find(objects, "ResourceQuota", "hrf-small")["spec"]["hard"]
    (limits,) = find(objects, "LimitRange", "hrf-small")["spec"]["limits"]
    (store,) = find(objects, "StatefulSet", "hrf-seaweedfs")["spec"]["template"]["spec"]["containers"]
    used = [store["resources"]["requests"], *requests, *[limits["defaultRequest"]] * len(requests)]
    return {
        kind: parse_quantity(hard[f"requests.{kind}"]) - sum(parse_quantity(each[kind]) for each in used)
        for kind in ("cpu", "memory")
    }


def test_one_step_of_two_cores_and_a_driver_fit():
    assert min(_room({"cpu": "2", "memory": "4Gi"}, DRIVER).values()) >= 0


def test_two_such_steps_wait_for_each_other():
    step = {"cpu": "2", "memory": "4Gi"}
    assert min(_room(step, step).values()) < 0


def test_the_largest_step_of_the_smoke_preset_fits():
    config = resolve("avatars-smoke")
    placed = placement.load_placement("cpu-small", config)
    package = compile_package(build_finetune(config, preset="avatars-smoke", placement=placed))
    spec = read_package(package)[0]
    asked = [each["container"]["resources"] for each in spec["deploymentSpec"]["executors"].values()]
    for each in asked:
        step = {"cpu": each["resourceCpuRequest"], "memory": each["resourceMemoryRequest"]}
        assert min(_room(step, DRIVER).values()) >= 0, json.dumps(each)


def test_containers_that_ask_for_nothing_are_let_through_the_small_quota():
    (limits,) = find(build("overlays/cpu-small"), "LimitRange", "hrf-small")["spec"]["limits"]
    quota = find(build("overlays/cpu-small"), "ResourceQuota", "hrf-small")["spec"]["hard"]
    assert {f"requests.{each}" for each in limits["defaultRequest"]} == set(quota)


def test_a_gpu_run_and_a_second_one_fit_their_quota():
    hard = find(build("overlays/gpu"), "ResourceQuota", "hrf-gpus")["spec"]["hard"]
    assert set(hard) == {"requests.nvidia.com/gpu"}
    assert int(hard["requests.nvidia.com/gpu"]) >= 2


def test_the_job_that_hands_the_cache_over_does_so_as_the_steps_user():
    job = find(build("overlays/gpu"), "Job", "hrf-hub-cache-owner")["spec"]["template"]["spec"]
    given = job["securityContext"]
    assert (given["runAsUser"], given["runAsGroup"], given["fsGroup"]) == (10001, 10001, 10001)
    (volume,) = job["volumes"]
    assert find(build("overlays/gpu"), "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    (container,) = job["containers"]
    (mount,) = container["volumeMounts"]
    assert container["command"][1].startswith(f"{mount['mountPath']}/")
    assert container["image"] == placement.Images().control
