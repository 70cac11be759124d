"""The Workflow of a run, in thought: node by node that of a real run, and what its size means."""

import base64
import functools
import gzip
import json
import warnings
from collections import Counter
from pathlib import Path

import pytest

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_components import outputs
from hrf_pipelines import finetune
from hrf_pipelines.package import compile_package, read_package
from hrf_pipelines.placement import load_placement
from hrf_pipelines.workflow.model import WorkflowModel, hexadecimal, lineage
from hrf_pipelines.workflow.size import MOST_RETRIED, MOST_UNPACKED, WorkflowSize, check_size, estimate, measure
from tests.kfp_api.recordings import recording

#: The package of the recorded runs: avatars-smoke as of commit 76c3f30, on CPUs.
RECORDED_PACKAGE = json.loads(Path(__file__).with_name("recorded_package.json").read_text(encoding="ascii"))


def size_of(value):
    return len(json.dumps(value, separators=(",", ":")))


def relative(nodes):
    """Nodes by their names, without the Workflow's own."""
    return {node["name"].partition(".")[2] or node["name"].partition("(")[1]: node for node in nodes}


def patches(nodes):
    parameters = [entry for node in nodes for part in ("inputs", "outputs") for entry in parameters_of(node, part)]
    return sum(size_of(entry["value"]) for entry in parameters if entry["name"] == "pod-spec-patch")


def parameters_of(node, part):
    return node.get(part, {}).get("parameters", [])


def lineage_then(name, parents):
    """What steps wrote down of their outputs at that commit."""
    digest = hexadecimal(64, name, parents)
    made_from = {"list": [f"{number} {hexadecimal(64, number)}" for number, _ in enumerate(parents, start=30)]}
    return {"git_sha": hexadecimal(40), "hrf_version": "0.1.0", "epoch": 1, "sha256": digest, "parents": made_from}


@pytest.fixture(scope="module")
def real():
    packed = recording("workflow-success-compressed")["status"]["compressedNodes"]
    return relative(json.loads(gzip.decompress(base64.b64decode(packed))).values())


@pytest.fixture(scope="module")
def model():
    return WorkflowModel.of(RECORDED_PACKAGE, metadata=lineage_then)


def test_the_nodes_are_those_of_a_real_run(real, model):
    made = relative(model.nodes)
    assert len(model.nodes) == 116
    assert made.keys() == real.keys()
    for name, node in real.items():
        assert (made[name]["type"], made[name]["templateName"]) == (node["type"], node["templateName"]), name


def test_each_node_is_given_what_a_real_one_is(real, model):
    made = relative(model.nodes)
    for name, node in real.items():
        for part in ("inputs", "outputs"):
            told = [entry["name"] for entry in parameters_of(node, part)]
            assert [entry["name"] for entry in parameters_of(made[name], part)] == told, name


def test_the_nodes_take_as_much_as_those_of_a_real_run(real, model):
    """Kills the mutants that forget a place in which the pod's patch stands, the store's settings or the source."""
    size = measure(model, RECORDED_PACKAGE)
    assert size.nodes_bytes == pytest.approx(1_395_996, rel=0.02)
    assert patches(model.nodes) == pytest.approx(patches(real.values()), rel=0.02)
    made = relative(model.nodes)
    for name, node in real.items():
        if size_of(node) > 1000:
            assert size_of(made[name]) == pytest.approx(size_of(node), rel=0.03), name


def test_a_pod_s_patch_holds_what_a_real_one_does(real, model):
    """Of `update`, which is given most."""
    name = "root(0).exit-handler-1(0).epoch(0).update(0).executor(0)"

    def shape(node):
        patch = json.loads(next(entry["value"] for entry in parameters_of(node, "inputs")))
        (container,) = patch["containers"]
        command = container["command"]
        told = json.loads(command[command.index("--executor_input") + 1])
        named = [entry["name"] for entry in container["env"]]
        artifacts = {key: sorted(entry["artifacts"][0]) for key, entry in told["inputs"]["artifacts"].items()}
        flags = [part for part in command if part.startswith("--")]
        return (
            patch.keys(),
            container["args"],
            named,
            container["resources"].keys(),
            artifacts,
            flags,
            told["outputs"].keys(),
        )

    made, real_one = shape(relative(model.nodes)[name]), shape(real[name])
    assert made[:-1] == real_one[:-1]
    assert real_one[-1] <= made[-1]


def test_packed_it_is_as_large_as_argo_made_it():
    size = measure(WorkflowModel.of(RECORDED_PACKAGE, metadata=lineage_then), RECORDED_PACKAGE)
    packed = recording("workflow-success-compressed")["status"]["compressedNodes"]
    assert size.packed_bytes == pytest.approx(len(packed), rel=0.1)


def test_where_only_steps_are_retried_the_nodes_are_those_of_a_real_run_too():
    nodes = relative(recording("workflow-retried-with-2.16-defaults")["status"]["nodes"].values())
    made = relative(WorkflowModel.of(RECORDED_PACKAGE, retried="steps").nodes)
    assert len(made) == 73
    # What was left out has no kind, and later attempts are there only where the first one failed.
    ran = {
        name: node for name, node in nodes.items() if node["type"] != "Skipped" and not name.endswith(("(1)", "(2)"))
    }
    assert len(ran) > 30
    for name, node in ran.items():
        assert (made[name]["type"], made[name]["templateName"]) == (node["type"], node["templateName"]), name


@functools.cache
def documents(preset, overrides="", **changes):
    config = resolve(preset, overrides)
    placement = load_placement("", config).model_copy(update=changes)
    with warnings.catch_warnings(action="ignore"):
        package = compile_package(finetune.build(config, preset=preset, overrides=overrides, placement=placement))
    return package, read_package(package)


def test_a_loop_over_shards_has_the_nodes_of_a_real_one():
    """As told by the API, which stood still before the run's end."""
    details = recording("run-failed-while-compressed")["run_details"]["task_details"]
    told = Counter(task["display_name"] for task in details)
    names = {name: count for name, count in told.items() if name.startswith(("iteration", "for-loop", "sample"))}
    one_epoch = WorkflowModel.of(documents("avatars-smoke", "run: {epochs: 1}", shards=2)[1])
    made = Counter(node["displayName"] for node in one_epoch.nodes)
    assert names == {name: made[name] for name in names}


def test_a_step_that_reads_a_loop_is_given_one_artifact_of_each_shard():
    sizes = [estimate(documents("avatars-hrf", "run: {epochs: 1}", shards=number)[0]) for number in (2, 3)]
    assert sizes[1].num_steps == sizes[0].num_steps + 1
    assert sizes[1].nodes_bytes > sizes[0].nodes_bytes


def test_lineage_is_what_steps_write_down(tmp_path, monkeypatch):
    """Else the estimate would no longer be about what is shipped."""
    monkeypatch.setenv(outputs.GIT_SHA, "0" * 40)
    (tmp_path / "manifest.json").write_text("{}")

    class Output:
        path, metadata = str(tmp_path), {}

    outputs.record({}, outputs=[Output], epoch=0)
    written = lineage("policy", [])
    assert {name: len(str(value)) for name, value in written.items()} == {
        name: len(str(value)) for name, value in Output.metadata.items()
    }


@pytest.mark.parametrize(
    ("nodes", "shown", "retried", "runs", "words"),
    [
        (MOST_UNPACKED - 1000, True, True, True, "its Retry works"),
        (MOST_UNPACKED, False, True, True, "tell nothing of tasks any more"),
        (MOST_RETRIED - 1000, False, True, True, "Its Retry works up to 1.57 MB"),
        (MOST_RETRIED, False, False, True, "`hrf runs resume` goes on"),
        (12 * MOST_UNPACKED, False, False, False, "Retry is refused"),
    ],
)
def test_what_a_size_means(nodes, shown, retried, runs, words):
    size = WorkflowSize(num_steps=9, num_nodes=70, nodes_bytes=nodes, packed_bytes=nodes // 10, spec_bytes=1000)
    assert (size.is_shown, size.can_be_retried, size.can_run) == (shown, retried, runs)
    assert words in size.in_words()
    if runs:
        check_size(size)
    else:
        with pytest.raises(ConfigError, match=r"run\.epochs: expected .*1\.05 MB, got .* for 9 steps"):
            check_size(size)
