"""Compiled packages: what a cluster would be given."""

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_pipelines import finetune
from hrf_pipelines.package import compile_package, with_caching
from hrf_pipelines.placement import Placement

BEFORE_AND_AFTER = {"check", "fetch", "prepare", "baseline", "summarize"}


@pytest.fixture(scope="module")
def package():
    config = resolve("avatars-split", "{run: {epochs: 2}, evaluation: {every: 2}}")
    with pytest.MonkeyPatch.context() as patch:
        for role in ("control", "worker", "reward"):
            patch.setenv(f"HRF_IMAGE_{role.upper()}", f"registry/{role}:1")
        return compile_package(finetune.build(config, preset="avatars-compressibility", overrides="x: 1"))


@pytest.fixture(scope="module")
def spec(package):
    return parse(package)


def parse(package):
    """The pipeline itself; what follows it is about the cluster."""
    return next(iter(yaml.safe_load_all(package)))


def _run_tasks(spec):
    """The tasks of the group that the exit handler watches."""
    return spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def _tasks(dag):
    return {name: sorted(task.get("dependentTasks", [])) for name, task in dag["tasks"].items()}


def test_the_package_is_a_pipeline_spec(spec):
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.name == "hrf-finetune"


def test_its_platform_spec_is_understood(package):
    documents = list(yaml.safe_load_all(package))
    assert len(documents) == 2
    for document in documents[1:]:
        json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())


def test_the_package_is_ascii_and_small(package):
    assert package.isascii()
    assert len(package) < 300_000


def test_the_tasks_and_their_order(spec):
    assert _tasks(spec["root"]["dag"]) == {"exit-handler-1": [], "report-status": ["exit-handler-1"]}
    assert _tasks(spec["components"]["comp-exit-handler-1"]["dag"]) == {
        "check": [],
        "fetch": ["check"],
        "prepare": ["fetch"],
        "baseline": ["prepare"],
        "epoch": ["baseline"],
        "epoch-2": ["epoch"],
        "evaluate": ["epoch-2"],
        "summarize": ["evaluate"],
    }
    assert _tasks(spec["components"]["comp-epoch"]["dag"]) == {
        "sample": [],
        "score": ["sample"],
        "update": ["score"],
    }


def test_display_names_say_what_an_epoch_is_about(spec):
    names = [task["taskInfo"]["name"] for task in _run_tasks(spec).values()]
    assert sorted(names) == [
        "baseline",
        "check",
        "epoch 0: window 10-last",
        "epoch 1: evaluate and promote",
        "epoch 1: window 10-last",
        "fetch",
        "prepare",
        "summarize",
    ]
    assert [task["taskInfo"]["name"] for task in spec["root"]["dag"]["tasks"].values()] == ["run", "report status"]


def test_the_parameters_are_flat_with_defaults_and_help(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name: (entry["parameterType"], entry["defaultValue"]) for name, entry in parameters.items()} == {
        "preset": ("STRING", "avatars-compressibility"),
        "start_from": ("STRING", "as configured"),
        "learning_rate": ("NUMBER_DOUBLE", 0.0),
        "seed": ("NUMBER_INTEGER", -1.0),
        "overrides": ("STRING", '{"x": 1}'),
        "experiment": ("STRING", "default"),
        "storage": ("STRING", "s3://hrf"),
        "run_tag": ("STRING", ""),
        "noise_tag": ("STRING", ""),
    }
    assert all(entry["description"] and entry["isOptional"] for entry in parameters.values())


def test_every_task_runs_in_the_image_of_its_role(spec):
    executors = spec["deploymentSpec"]["executors"]
    images = {name.removeprefix("exec-"): entry["container"]["image"] for name, entry in executors.items()}
    by_role = {
        "control": {"check", "summarize", "report-status"},
        "worker": {"fetch", "sample", "sample-2", "update", "update-2"},
        "reward": {"prepare", "baseline", "score", "score-2", "evaluate"},
    }
    assert images == {name: f"registry/{role}:1" for role, names in by_role.items() for name in names}


def _all_tasks(spec):
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return [task for dag in dags for task in dag["tasks"].values()]


def _cached(spec):
    return {task["taskInfo"]["name"] for task in _all_tasks(spec) if task.get("cachingOptions", {}).get("enableCache")}


def test_a_cluster_computes_check_and_status_anew_and_may_answer_all_else_from_its_cache(spec):
    """What resumes a run there. Kills: a step that each attempt computes again, or a check of another day."""
    uncached = {task["taskInfo"]["name"] for task in _all_tasks(spec)} - _cached(spec)
    assert uncached == {"check", "report status", "run"}


def test_no_cached_task_is_told_which_attempt_at_the_run_it_belongs_to(spec):
    """Kubeflow's id of the attempt, which is another one each time, goes to `check` and the status alone."""
    told = {
        task["taskInfo"]["name"]
        for task in _all_tasks(spec)
        for entry in task.get("inputs", {}).get("parameters", {}).values()
        if "{{$.pipeline_job_uuid}}" in str(entry)
    }
    assert told == {"check", "report status"}


def test_here_every_task_but_the_one_that_reports_the_end_is_cached_and_nothing_else_differs(package):
    cached, plain = parse(with_caching(package)), parse(package)
    assert {task["taskInfo"]["name"] for task in _all_tasks(cached)} - _cached(cached) == {"report status"}
    for task in [*_all_tasks(cached), *_all_tasks(plain)]:
        task.pop("cachingOptions", None)
    assert cached == plain


def test_the_number_of_epochs_and_the_evaluated_epoch_are_constants(spec):
    tasks = _run_tasks(spec)
    numbers = tasks["epoch-2"]["inputs"]["parameters"]
    assert {name: entry["runtimeValue"]["constant"] for name, entry in numbers.items()} == {
        "epoch": 1.0,
        "replica": 0.0,
    }
    assert tasks["evaluate"]["inputs"]["parameters"]["epoch"]["runtimeValue"]["constant"] == 1.0
    assert tasks["check"]["inputs"]["parameters"]["num_epochs"]["runtimeValue"]["constant"] == 2.0


def test_several_epochs_per_step_are_one_task_that_is_evaluated_at_its_last_epoch():
    config = resolve("avatars-split", "{run: {epochs: 6, epochs_per_step: 3}, evaluation: {every: 3}}")
    spec = parse(compile_package(finetune.build(config)))
    tasks = _run_tasks(spec)
    assert {name for name in tasks if name not in BEFORE_AND_AFTER} == {"train", "train-2", "evaluate", "evaluate-2"}
    numbers = {
        name: entry["runtimeValue"]["constant"] for name, entry in tasks["train-2"]["inputs"]["parameters"].items()
    }
    assert numbers == {"epoch": 3.0, "num_epochs": 3.0, "replica": 0.0}
    assert tasks["evaluate-2"]["inputs"]["parameters"]["epoch"]["runtimeValue"]["constant"] == 5.0
    assert tasks["train-2"]["taskInfo"]["name"] == "epochs 3-5, window 10-last: train"


def test_a_cluster_trains_on_while_it_evaluates_and_one_machine_evaluates_first():
    """Kills: an evaluation that holds up training on a cluster; promotions that come after all training here."""
    config = resolve("avatars-split", "{run: {epochs: 6, epochs_per_step: 3}, evaluation: {every: 3}}")
    here, there = (
        _run_tasks(parse(compile_package(finetune.build(config, placement=at)))) for at in (None, Placement())
    )
    assert "evaluate" in here["train-2"]["dependentTasks"]
    assert "evaluate" not in there["train-2"]["dependentTasks"]
    # Promotions of one run come one after another all the same.
    assert "evaluate" in there["evaluate-2"]["dependentTasks"]


def test_a_diversity_floor_steers_what_the_next_epoch_starts_from():
    config = resolve("avatars-floor", "{run: {epochs: 4, epochs_per_step: 2}, evaluation: {every: 2}}")
    spec = parse(compile_package(finetune.build(config)))
    tasks = _run_tasks(spec)
    for task, source in {("train-2", "steer"), ("steer", "train"), ("summarize", "steer-2"), ("evaluate-2", "steer")}:
        inputs = tasks[task]["inputs"]["artifacts"].values()
        assert source in {entry["taskOutputArtifact"]["producerTask"] for entry in inputs}, (task, source)
    assert _run_tasks(spec)["check"]["inputs"]["parameters"]["steered"]["runtimeValue"]["constant"] is True


def test_without_a_preset_the_whole_configuration_is_the_default():
    config = resolve("avatars-smoke", "update: {learning_rate: 3e-5}")
    spec = parse(compile_package(finetune.build(config)))
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert resolve("", defaults["overrides"]["defaultValue"]) == config


def test_text_outside_ascii_is_escaped_and_lines_are_joined():
    overrides = "description: Übung\nrun:\n  epochs: 1\n"
    package = compile_package(
        finetune.build(resolve("avatars-smoke", overrides), preset="avatars-smoke", overrides=overrides)
    )
    default = parse(package)["root"]["inputDefinitions"]["parameters"]["overrides"]["defaultValue"]
    assert package.isascii()
    assert "\n" not in default
    assert resolve("avatars-smoke", default) == resolve("avatars-smoke", overrides)


def test_too_many_epochs_are_refused_before_compiling():
    with pytest.raises(ConfigError, match="epochs_per_step"):
        finetune.build(resolve("avatars-compressibility", "run: {epochs: 60}"))
