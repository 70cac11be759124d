"""The form in which packages are shipped: nothing that only describes, and menus for what has a list."""

import ast
import functools
import warnings

import pytest
from google.protobuf import json_format
from kfp import dsl
from kfp.pipeline_spec import pipeline_spec_pb2

from hrf.config import resolve
from hrf_pipelines import finetune
from hrf_pipelines.menus import finetune_menus
from hrf_pipelines.package import compile_package, read_package, without_comments
from hrf_pipelines.placement import load_placement

DEFAULT = "avatars-split"


@functools.cache
def shipped(preset=DEFAULT, overrides=""):
    """The pipeline of a package for a cluster."""
    config = resolve(preset, overrides)
    placement = load_placement("", config)
    menus = finetune_menus(config, placement, preset=preset, overrides=overrides)
    with warnings.catch_warnings(action="ignore"):
        pipeline = finetune.build(config, preset=preset, overrides=overrides, placement=placement)
        return read_package(compile_package(pipeline, menus))[0]


def parameters(spec):
    return spec["root"]["inputDefinitions"]["parameters"]


def test_only_the_pipeline_s_own_parameters_are_described():
    spec = shipped()
    assert "description" not in str(spec["components"])
    assert all(entry["description"] for entry in parameters(spec).values())


def test_the_pipeline_s_description_explains_each_parameter_in_the_order_of_the_form():
    spec = shipped()
    about, *explained = spec["pipelineInfo"]["description"].split("* `")
    assert about.strip() == "Fine-tune a diffusion model on a reward, window by window."
    named = sorted(parameters(spec))
    assert [line.split("`: ")[0] for line in explained] == named
    for name, line in zip(named, explained, strict=True):
        assert parameters(spec)[name]["description"] in line


def test_no_component_brings_a_docstring_or_a_comment_along():
    for executor in shipped()["deploymentSpec"]["executors"].values():
        source = executor["container"]["command"][-1]
        assert "#" not in source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.FunctionDef):
                assert ast.get_docstring(node) is None


def test_what_a_component_does_stays_as_it_is():
    """Kills the mutants that take out a text which is no docstring, or leave a function without a body."""
    source = '''
def step(a: int) -> NamedTuple("Out", [("x", str)]):
    """Told."""
    # Why.
    text = "# no comment"
    """Not a docstring, and harmless."""

    def inner():
        """All there is."""

    return (text, inner())
'''
    found = {}
    exec(without_comments("from typing import NamedTuple" + source), found)
    assert found["step"](1) == ("# no comment", None)
    assert found["step"].__annotations__["return"]._fields == ("x",)
    assert found["step"].__doc__ is None


def test_the_menu_of_presets_has_those_of_the_package_s_shape_with_its_own_first():
    literals = parameters(shipped())["preset"]["literals"]
    own = resolve(DEFAULT)
    assert literals[0] == DEFAULT
    assert len(literals) == len(set(literals)) > 1
    for name in literals:
        other = resolve(name)
        assert (other.run.epochs, other.evaluation.every) == (own.run.epochs, own.evaluation.every)
        assert other.diversity_floor is None


@pytest.mark.parametrize("other", ["avatars-smoke", "avatars-floor", "avatars-hrf-d", "sd15-aesthetic"])
def test_a_preset_that_the_package_could_not_run_is_not_on_the_menu(other):
    """Fewer epochs; a floor; a sampling step that needs the reward's image; another device."""
    assert other not in parameters(shipped())["preset"]["literals"]


def test_presets_are_judged_with_the_overrides_that_the_form_is_filled_with():
    two = parameters(shipped(overrides="run: {epochs: 2}"))["preset"]["literals"]
    assert "avatars-smoke" in two or "avatars-hrf" in two
    per_run = {resolve(name, "run: {epochs: 2}").run.epochs for name in two}
    assert per_run == {2}


def test_a_whole_configuration_leaves_no_choice_of_a_preset():
    config = resolve(DEFAULT)
    assert finetune_menus(config, load_placement("", config), preset="")["preset"] == [""]


def test_the_default_is_a_choice_of_every_menu():
    menus = {name: entry for name, entry in parameters(shipped()).items() if "literals" in entry}
    assert menus.keys() == {"preset", "start_from"}
    for entry in menus.values():
        assert entry["defaultValue"] == entry["literals"][0]
    assert {"promoted", "base"} < set(menus["start_from"]["literals"])


def test_menus_are_part_of_kubeflow_s_own_format():
    parsed = json_format.ParseDict(shipped(), pipeline_spec_pb2.PipelineSpec())
    literals = parsed.root.input_definitions.parameters["preset"].literals
    assert [value.string_value for value in literals] == parameters(shipped())["preset"]["literals"]


def test_a_pipeline_without_parameters_or_placement_can_be_shipped():
    @dsl.component(base_image="hrf-control", install_kfp_package=False)
    def nothing() -> None:
        """Does nothing."""

    @dsl.pipeline(name="small")
    def small() -> None:
        nothing()

    spec, *others = read_package(compile_package(small))
    assert not others
    assert spec["deploymentSpec"]["executors"]["exec-nothing"]["container"]["command"][-1].endswith("pass")


def _before(tasks):
    """What has run before each task."""

    @functools.cache
    def of(name):
        earlier = tasks[name].get("dependentTasks", [])
        return set(earlier).union(*map(of, earlier))

    return {name: of(name) for name in tasks}


@pytest.mark.parametrize("preset", [DEFAULT, "avatars-floor", "avatars-smoke"])
def test_no_task_waits_twice_for_the_same_and_each_for_all_that_the_sdk_had_it_wait_for(preset):
    with warnings.catch_warnings(action="ignore"):
        config = resolve(preset)
        plain = json_format.MessageToDict(finetune.build(config, placement=load_placement("", config)).pipeline_spec)
    spec = shipped(preset)
    for part, was in zip(
        (spec["root"], *spec["components"].values()),
        (plain["root"], *(plain["components"][name] for name in spec["components"])),
        strict=True,
    ):
        if "dag" not in part:
            continue
        tasks = part["dag"]["tasks"]
        before = _before(tasks)
        assert before == _before(was["dag"]["tasks"])
        for task in tasks.values():
            earlier = task.get("dependentTasks", [])
            assert not any(one in before[other] for one in earlier for other in earlier)


def test_a_task_that_runs_whatever_became_of_others_vouches_for_none_of_them():
    """Else what it was to wait for would no longer have to succeed."""

    @dsl.component(base_image="hrf-control", install_kfp_package=False)
    def nothing() -> None:
        """Does nothing."""

    @dsl.pipeline(name="small")
    def small() -> None:
        first = nothing()
        second = nothing().after(first).ignore_upstream_failure()
        nothing().after(first, second)

    (spec,) = read_package(compile_package(small))
    assert sorted(spec["root"]["dag"]["tasks"]["nothing-3"]["dependentTasks"]) == ["nothing", "nothing-2"]
