"""Placements: what every task of a package asks of a cluster, as tables, and what can't be asked."""

import functools
import warnings

import pytest

from hrf import __version__
from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_pipelines import finetune
from hrf_pipelines.package import compile_package, read_package
from hrf_pipelines.placement import USER, Placement, list_placements, load_placement
from images.build import FOLDER, ROLES

CPU = "{run: {epochs: 1}}"
GPU = "{run: {epochs: 1}, model: {device: cuda}}"


@functools.cache
def compiled(overrides, placement="", **changes):
    """The pipeline and what its platform part says of each task."""
    config = resolve("avatars-split", overrides)
    site = load_placement(placement, config).model_copy(update=changes)
    with warnings.catch_warnings(action="ignore"):
        spec, platform = read_package(compile_package(finetune.build(config, placement=site)))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def resources(spec):
    """(cpu, memory, accelerators) of each task; request and limit are the same."""
    found = {}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        asked = executor["container"].get("resources", {})
        assert asked["resourceCpuRequest"] == asked["resourceCpuLimit"]
        assert asked["resourceMemoryRequest"] == asked["resourceMemoryLimit"]
        accelerator = asked.get("accelerator", {})
        given = f"{accelerator['resourceCount']} {accelerator['resourceType']}" if accelerator else ""
        found[name.removeprefix("exec-")] = (asked["resourceCpuLimit"], asked["resourceMemoryLimit"], given)
    return found


def retries(spec):
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return {
        name: task["retryPolicy"]["maxRetryCount"]
        for dag in dags
        for name, task in dag["tasks"].items()
        if "retryPolicy" in task
    }


SMALL, LIGHT = ("2", "4Gi", ""), ("500m", "512Mi", "")
ON_GPU, BESIDE_GPU, LIGHT_BESIDE_GPU = ("4", "24Gi", "1 nvidia.com/gpu"), ("4", "24Gi", ""), ("500m", "1Gi", "")


def test_resources_of_every_task_on_a_small_cluster():
    spec, _ = compiled(CPU, "cpu-small")
    assert resources(spec) == {
        "check": LIGHT,
        "fetch": SMALL,
        "prepare": SMALL,
        "baseline": SMALL,
        "sample": SMALL,
        "score": SMALL,
        "update": SMALL,
        "evaluate": SMALL,
        "summarize": LIGHT,
        "report-status": LIGHT,
    }


def test_resources_of_every_task_with_gpus():
    spec, _ = compiled(GPU, "gpu")
    assert resources(spec) == {
        "check": LIGHT_BESIDE_GPU,
        "fetch": BESIDE_GPU,
        "prepare": BESIDE_GPU,
        "baseline": ON_GPU,
        "sample": ON_GPU,
        "score": BESIDE_GPU,
        "update": ON_GPU,
        "evaluate": ON_GPU,
        "summarize": LIGHT_BESIDE_GPU,
        "report-status": LIGHT_BESIDE_GPU,
    }


def test_steering_moves_records_and_weights_and_needs_no_gpu():
    floor = "{run: {epochs: 1}, model: {device: cuda}, diversity_floor: 0.9}"
    spec, _ = compiled(floor, "gpu")
    assert resources(spec)["steer"] == BESIDE_GPU


def test_failed_steps_are_tried_again_but_for_the_one_whose_answer_would_be_the_same():
    spec, _ = compiled(CPU)
    assert retries(spec) == {
        **dict.fromkeys(("fetch", "prepare", "baseline", "sample", "score", "update", "evaluate"), 2),
        "summarize": 2,
        "report-status": 1,
    }


def policies(spec):
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return [task["retryPolicy"] for dag in dags for task in dag["tasks"].values() if "retryPolicy" in task]


@pytest.mark.parametrize(("overrides", "placement"), [(CPU, "cpu-small"), (GPU, "gpu")])
def test_no_attempt_ends_early_for_what_the_first_one_took(overrides, placement):
    """Argo ends all attempts so long after the first one's start; without a value, Kubeflow has it allow no second."""
    spec, executors = compiled(overrides, placement)
    longest = max(int(executor["activeDeadlineSeconds"]) for executor in executors.values())
    for policy in policies(spec):
        attempts = policy["maxRetryCount"] + 1
        assert int(policy["backoffMaxDuration"].removesuffix("s")) > attempts * (longest + 3600)


@pytest.mark.parametrize(("overrides", "placement"), [(CPU, "cpu-small"), (GPU, "gpu")])
def test_every_task_is_let_in_where_pod_security_is_restricted_and_where_images_were_loaded(overrides, placement):
    spec, executors = compiled(overrides, placement)
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys()
    for executor in executors.values():
        assert executor["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert executor["imagePullPolicy"] == "IfNotPresent"


def test_the_user_of_the_pods_is_the_images():
    for role in ROLES:
        assert f"USER {USER}:{USER}" in (FOLDER / role / "Dockerfile").read_text(encoding="utf-8")


def test_the_images_are_those_of_this_version_unless_others_are_named(monkeypatch):
    for role in ("CONTROL", "WORKER", "REWARD"):
        monkeypatch.delenv(f"HRF_IMAGE_{role}", raising=False)
    spec, _ = compiled(CPU)
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"hrf-{role}:{__version__}" for role in ("control", "worker", "reward")}


def test_every_task_has_the_keys_and_the_address_of_the_storage_exactly_once():
    spec, executors = compiled(CPU)
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys()
    for executor in executors.values():
        (secret,), (address,) = executor["secretAsEnv"], executor["configMapAsEnv"]
        assert (secret["secretName"], secret["optional"]) == ("hrf-s3", True)
        assert [entry["envVar"] for entry in secret["keyToEnv"]] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        assert (address["configMapName"], address["optional"]) == ("hrf-storage", True)
        assert [entry["envVar"] for entry in address["keyToEnv"]] == ["AWS_ENDPOINT_URL_S3", "AWS_REGION"]


def test_only_a_cache_of_the_hub_sets_a_variable_in_the_package_itself():
    """Kubeflow's Docker runner gives a task with one of its own nothing else."""

    def variables(overrides):
        executors = compiled(overrides)[0]["deploymentSpec"]["executors"]
        return {
            name: executor["container"]["env"] for name, executor in executors.items() if "env" in executor["container"]
        }

    assert variables(CPU) == {}
    assert variables(GPU) == {"exec-fetch": [{"name": "HF_HOME", "value": "/cache/huggingface"}]}


def test_what_belongs_to_gpu_nodes_is_asked_for_by_the_tasks_on_them_only():
    _, executors = compiled(GPU)
    on_gpu = {"exec-baseline", "exec-sample", "exec-update", "exec-evaluate"}
    tolerating = {name for name, executor in executors.items() if executor.get("tolerations")}
    sharing = {name: executor["emptyDirMounts"] for name, executor in executors.items() if "emptyDirMounts" in executor}
    assert tolerating == sharing.keys() == on_gpu
    assert executors["exec-sample"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    (shared,) = sharing["exec-sample"]
    assert (shared["mountPath"], shared["medium"], shared["sizeLimit"]) == ("/dev/shm", "Memory", "8Gi")
    assert executors["exec-sample"]["activeDeadlineSeconds"] == "86400"


def test_only_fetch_has_the_cache_of_the_hub_and_its_token():
    _, executors = compiled(GPU, hub_secret="hrf-hub")
    with_cache = {name: executor["pvcMount"] for name, executor in executors.items() if "pvcMount" in executor}
    with_token = {name for name, executor in executors.items() if len(executor["secretAsEnv"]) > 1}
    assert with_cache.keys() == with_token == {"exec-fetch"}
    (mount,) = with_cache["exec-fetch"]
    assert (mount["constant"], mount["mountPath"]) == ("hrf-hub-cache", "/cache/huggingface")


def test_only_steps_that_score_have_the_token_of_a_reward_server():
    _, executors = compiled(CPU, reward_secret="hrf-reward")
    named = {
        name: [mapped["envVar"] for mapped in secret["keyToEnv"]]
        for name, executor in executors.items()
        for secret in executor["secretAsEnv"]
        if secret["secretNameParameter"]["runtimeValue"]["constant"] == "hrf-reward"
    }
    assert named.keys() == {"exec-prepare", "exec-baseline", "exec-score", "exec-evaluate"}
    assert all(variables == ["HRF_REWARD_TOKEN"] for variables in named.values())


LOCAL = f"{{source: ./model, sha256: {'0' * 64}}}"


def test_steps_that_score_with_networks_of_the_hub_reach_it_too():
    hub = f"{{source: 'hf:a/b', revision: {'0' * 40}}}"
    _, executors = compiled(f"{{run: {{epochs: 1}}, reward: {{name: pickscore, model: {hub}}}}}", hub_cache="claim")
    with_cache = {name for name, executor in executors.items() if "pvcMount" in executor}
    assert with_cache == {f"exec-{step}" for step in ("fetch", "prepare", "baseline", "score", "evaluate")}


def test_a_node_selector_and_a_registry_secret_reach_the_pods(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: cpu-small\nimage_pull_secret: registry\n"
        "steps: {update: {node_selector: {disk: fast}, memory: 64Gi}, score: {memory: 1Gi}}\n"
    )
    spec, executors = compiled(CPU, str(file))
    assert executors["exec-update"]["nodeSelector"] == {"labels": {"disk": "fast"}}
    assert "nodeSelector" not in executors["exec-sample"]
    assert all(executor["imagePullSecret"][0]["secretName"] == "registry" for executor in executors.values())
    assert resources(spec)["update"] == ("2", "64Gi", "")
    assert resources(spec)["score"] == ("2", "1Gi", "")


def test_shards_are_a_loop_of_samples_and_a_task_that_joins_them():
    spec, _ = compiled(CPU, shards=4)
    dag = spec["components"]["comp-epoch"]["dag"]["tasks"]
    (loop,) = (task for task in dag.values() if "parameterIterator" in task)
    assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2, 3]"
    assert dag["score"]["dependentTasks"] == ["gather"]
    assert dag["update"]["dependentTasks"] == ["score"]


def test_starts_that_are_selected_by_reward_need_the_image_with_the_scorers(monkeypatch):
    monkeypatch.setenv("HRF_IMAGE_REWARD", "registry/reward:1")
    config = resolve("avatars-hrf-d", CPU)
    spec = read_package(compile_package(finetune.build(config)))[0]
    image = spec["deploymentSpec"]["executors"]["exec-sample"]["container"]["image"]
    assert image == "registry/reward:1"


@pytest.mark.parametrize("name", list_placements())
def test_every_placement_says_what_it_is_for_and_fits_its_device(name):
    assert load_placement(name, resolve("avatars-split", GPU if name == "gpu" else CPU)).description


def test_by_default_the_device_decides():
    assert load_placement("", resolve("avatars-smoke")) == load_placement("cpu-small", resolve("avatars-smoke"))
    on_gpu = resolve("avatars-smoke", GPU)
    assert load_placement("", on_gpu) == load_placement("gpu", on_gpu)


def test_a_step_that_processes_share_asks_for_a_gpu_for_each_of_them():
    """Kills: one GPU for all of them, GPUs for steps of one process, a GPU for a scorer that has none."""
    four = "{run: {epochs: 1}, model: {device: cuda, num_processes: 4}}"
    given = {name: asked[2] for name, asked in resources(compiled(four, "gpu")[0]).items()}
    one, all_four = "1 nvidia.com/gpu", "4 nvidia.com/gpu"
    assert {name: gpus for name, gpus in given.items() if gpus} == {
        "baseline": one,
        "sample": all_four,
        "update": all_four,
        "evaluate": one,
    }


SCORED_ON_GPU = (
    f"{{run: {{epochs: 1}}, model: {{device: cuda}}, reward: {{name: pickscore, device: cuda, model: {LOCAL}}}}}"
)
SCORED_ON_GPU_ALONE = f"{{run: {{epochs: 1}}, reward: {{name: pickscore, device: cuda, model: {LOCAL}}}}}"


def test_a_scorer_on_a_gpu_fits_where_the_steps_that_run_it_have_one(tmp_path):
    file = tmp_path / "mine.yaml"
    gpu = "{accelerator: nvidia.com/gpu, accelerators: 1}"
    file.write_text(f"extends: gpu\nsteps: {{score: {gpu}}}")
    load_placement(str(file), resolve("avatars-split", SCORED_ON_GPU))
    file.write_text(f"extends: cpu-small\nsteps: {{baseline: {gpu}, score: {gpu}, evaluate: {gpu}}}")
    load_placement(str(file), resolve("avatars-split", SCORED_ON_GPU_ALONE))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("extends: gpu", CPU, r"model\.device: expected cuda"),
        ("extends: cpu-small", GPU, r"placement\.steps\.baseline\.accelerators"),
        ("extends: gpu\nsteps: {update: {accelerators: 0}}", GPU, r"placement\.steps\.update\.accelerators"),
        ("extends: gpu", SCORED_ON_GPU, r"placement\.steps\.score\.accelerators: .*reward\.device is cuda"),
        ("extends: cpu-small", SCORED_ON_GPU_ALONE, r"placement\.steps\.baseline\.accelerators: .*reward\.device"),
        ("shards: 5", CPU, r"placement\.shards: expected at most 4, the roots"),
        (
            "shards: 3",
            "{run: {epochs: 1}, rollout: {roots: 8}, model: {num_processes: 3}}",
            r"placement\.shards: expected at most 2, the roots",
        ),
        ("shards: 2", "{run: {epochs: 4, epochs_per_step: 2}, evaluation: {every: 2}}", r"epochs_per_step"),
        ("shards: 0", CPU, "shards"),
        ("worker: {cpu: 2}", CPU, r"worker\.cpu: expected text"),
        ("worker: {memory: lots}", CPU, r"worker\.memory"),
        ("steps: {smaple: {cpu: '1'}}", CPU, r"did you mean steps\.sample"),
        ("storage_secret: My Secret", CPU, "storage_secret"),
        ("extends: nowhere", CPU, r"expected one of cpu-small, gpu"),
        ("]", CPU, "placement"),
    ],
)
def test_a_placement_that_cannot_work_is_refused_with_its_field(text, overrides, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_placement(str(file), resolve("avatars-split", overrides))


def test_a_file_that_is_not_there_is_an_error_that_lists_the_placements():
    with pytest.raises(ConfigError, match="did you mean 'gpu'"):
        load_placement("gpus", resolve("avatars-smoke"))


def test_more_shards_than_roots_are_refused_however_the_placement_was_made():
    with pytest.raises(ConfigError, match=r"placement\.shards"):
        finetune.build(resolve("avatars-smoke"), placement=Placement(shards=100))
