"""Kubeflow's pipelines do what `hrf.steps.sequence` says: the same steps, each after the same, on the same folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import yaml

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf.steps.sequence import Call, legs_between, legs_of, whole_run
from hrf.study.plan import Control, StudyRun
from hrf_pipelines import finetune, study_run
from hrf_pipelines.package import compile_package
from hrf_pipelines.placement import Placement

COUNTS = ("epoch", "num_epochs", "replica", "shard", "num_shards", "fresh_seeds")
OWN = "overrides"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step as both sides have it."""

    name: str
    """With its way, its epochs, its replica and its shard."""
    inputs: Mapping[str, Any]
    """Parameter -> NAME.OUTPUT of the step that made it, or several."""
    after: frozenset[str] = frozenset()
    """The steps that it waits for."""


def name_of(step: str, counts: Mapping[str, float], way: str = "") -> str:
    return " ".join([step, *([way] if way else []), *(f"{name}={int(counts[name])}" for name in sorted(counts))])


def of_sequence(calls: Iterator[Call]) -> list[Step]:
    """`evaluate` and `promote` share a task, whose evaluation nobody else is given."""
    made: dict[str, str] = {}
    steps: list[Step] = []
    waiting: dict[str, Any] = {}
    for call in calls:
        way = "" if call.step == "fetch" else call.way
        name = name_of("evaluate" if call.step == "promote" else call.step, call.parameters, way)
        inputs: dict[str, Any] = {
            parameter: tuple(made[each] for each in folder) if isinstance(folder, tuple) else made[folder]
            for parameter, folder in call.inputs.items()
            if folder is not None
        }
        made |= {folder: f"{name}.{parameter}" for parameter, folder in call.outputs.items()}
        if call.step == "evaluate":
            waiting = inputs
            continue
        if call.step == "promote":
            inputs.pop("evaluation")
            assert {**waiting, **inputs} == {**inputs, **waiting}
            inputs = {**waiting, **inputs}
        steps.append(Step(name=name, inputs=inputs))
    return steps


class Package:
    """A compiled pipeline, played through without its work."""

    def __init__(self, package: str, ways: Mapping[str, str]) -> None:
        self.components = next(iter(yaml.safe_load_all(package)))["components"]
        self.ways = ways
        self.way_of: dict[str, str] = {}
        self.steps: dict[str, Step] = {}
        self._play("comp-exit-handler-1", {}, {}, frozenset())

    def _play(
        self, component: str, artifacts: Mapping[str, Any], counts: Mapping[str, Any], after: frozenset[str]
    ) -> dict[str, Any]:
        """Go through the tasks of a graph in an order that they allow; returns its outputs."""
        dag, outputs, inside = self.components[component]["dag"], {}, {}
        left = dict(dag["tasks"])
        while left:
            task = next(name for name, each in left.items() if not {*each.get("dependentTasks", ())} & {*left})
            entry, before = left.pop(task), {*self.steps}
            waits = after.union(*(inside[other] for other in entry.get("dependentTasks", ())))
            given = entry.get("inputs", {})
            taken = {
                name: artifacts[source["componentInputArtifact"]]
                if "componentInputArtifact" in source
                else outputs[source["taskOutputArtifact"]["producerTask"]][
                    source["taskOutputArtifact"]["outputArtifactKey"]
                ]
                for name, source in given.get("artifacts", {}).items()
            }
            told = {name: number(source, counts) for name, source in given.get("parameters", {}).items()}
            outputs[task] = self._task(entry, taken, told, waits)
            inside[task] = frozenset({*self.steps} - before)
        return {
            name: outputs[selector["producerSubtask"]][selector["outputArtifactKey"]]
            for name, output in dag.get("outputs", {}).get("artifacts", {}).items()
            for selector in output["artifactSelectors"]
        }

    def _task(
        self, entry: Mapping[str, Any], taken: Mapping[str, Any], told: Mapping[str, Any], waits: frozenset[str]
    ) -> dict[str, Any]:
        component = entry["componentRef"]["name"]
        if iterator := entry.get("parameterIterator"):
            items = json.loads(iterator["items"]["raw"])
            rounds = [self._play(component, taken, {**told, iterator["itemInput"]: item}, waits) for item in items]
            return {name: tuple(each[name] for each in rounds) for name in rounds[0]}
        if "dag" in self.components[component]:
            return self._play(component, taken, told, waits)
        step = component.removeprefix("comp-").rstrip("-0123456789")
        way = self.ways[told["overrides"]] if "overrides" in told else self.way_of.get(taken.get("run"), "")
        name = name_of(step, {each: told[each] for each in COUNTS if each in told and step != "check"}, way)
        assert name not in self.steps
        self.way_of |= {f"{name}.run": way}
        if step == "merge":
            # Kubeflow has no lists of these: each has a name, by its number.
            policies = tuple(taken[f"policy_{replica}"] for replica in range(len(taken) - 1))
            taken = {"run": taken["run"], "policies": policies}
        self.steps[name] = Step(name=name, inputs=taken, after=waits)
        made = self.components[component].get("outputDefinitions", {}).get("artifacts", {})
        return {output: f"{name}.{output}" for output in made}


def number(source: Mapping[str, Any], counts: Mapping[str, Any]) -> Any:
    """A task's parameter: a constant, the value that the graph is given, or that one's name."""
    if "runtimeValue" in source:
        return source["runtimeValue"]["constant"]
    name = source.get("componentInputParameter")
    return counts.get(name, str(name).removeprefix("pipelinechannel--"))


def assert_same(package: Package, sequence: Sequence[Step]) -> None:
    assert {*package.steps} == {step.name for step in sequence}
    done: set[str] = set()
    for step in sequence:
        compiled = package.steps[step.name]
        assert compiled.inputs == step.inputs, step.name
        assert compiled.after <= done, step.name
        done.add(step.name)


REPLICAS = "{run: {epochs: 2, epochs_per_step: 1, replicas: 3}, evaluation: {every: 2}}"
SINGLE = [
    ("avatars-smoke", REPLICAS),
    ("avatars-smoke", ""),
    ("avatars-split", "{run: {epochs: 3}, evaluation: {every: 2}}"),
    ("avatars-floor", "{run: {epochs: 2}, evaluation: {every: 1}}"),
    ("sd15-compressibility", "{run: {epochs: 2, epochs_per_step: 1}, evaluation: {every: 1}}"),
]
SEVERAL_IN_A_STEP = [
    ("avatars-split", "{run: {epochs: 4, epochs_per_step: 2, replicas: 2}, evaluation: {every: 2}}"),
    ("avatars-hrf-d", "{run: {epochs: 6, epochs_per_step: 3}, evaluation: {every: 3}}"),
    ("avatars-floor", "{run: {epochs: 4, epochs_per_step: 2}, evaluation: {every: 2}}"),
]


@pytest.mark.parametrize(("preset", "changes"), [*SINGLE, *SEVERAL_IN_A_STEP])
def test_a_run_on_one_machine_is_the_sequence_one_step_after_another(preset, changes):
    """Kills: a step left out, one that is given another one's folder, an evaluation of the policy before.

    Of replicas: one that goes on from another's weights, or from their mean, and a mean of one replica only.
    """
    config = resolve(preset, changes)
    compiled = Package(compile_package(finetune.build(config)), {OWN: ""})
    sequence = of_sequence(whole_run(legs_of(config), num_replicas=config.run.replicas))

    assert_same(compiled, sequence)
    for earlier, later in pairwise(sequence):
        assert earlier.name in compiled.steps[later.name].after, later.name


@pytest.mark.parametrize(
    ("preset", "changes", "shards"),
    [*((*case, shards) for case in SINGLE for shards in (1, 2)), *((*case, 1) for case in SEVERAL_IN_A_STEP)],
)
def test_a_run_on_a_cluster_is_the_sequence(preset, changes, shards):
    """Kills, besides: shards that are told another number of them, or gathered from another epoch."""
    config = resolve(preset, changes)
    compiled = Package(compile_package(finetune.build(config, placement=Placement(shards=shards))), {OWN: ""})

    assert_same(compiled, of_sequence(whole_run(legs_of(config), num_replicas=config.run.replicas, num_shards=shards)))


def test_a_study_run_with_a_front_over_strengths_is_refused():
    """Kills: one more control that is measured at strength 1, as all of them are on a cluster."""
    config = resolve("avatars-smoke", "")
    front = Control(arm="front", config=config, strengths=(0.5, 1.0))
    run = StudyRun(arm="own", reward="r", seed=0, config=config, measured_after=(2,), controls=(front,))
    with pytest.raises(ConfigError, match=r"arms\.front\.strengths.*hrf front"):
        study_run.build(run)


@pytest.mark.parametrize("preset", ["avatars-split", "avatars-floor"])
def test_a_study_run_with_a_control_is_the_sequence(preset):
    """Kills: a control that is evaluated by the run's own settings, or against its baseline or history; a study that
    promotes on fresh seeds."""
    config = resolve(preset, "{run: {epochs: 5, epochs_per_step: 1}, evaluation: {every: 1}}")
    config = config.with_changes({"run": {"replicas": 1 if config.diversity_floor else 2}})
    control = Control(arm="other", config=config.with_changes({"evaluation": {"eta": 0.5}}))
    run = StudyRun(arm="own", reward="r", seed=0, config=config, measured_after=(2, 5), controls=(control,))
    compiled = Package(compile_package(study_run.build(run)), {OWN: "own/", f"{OWN}_other": "other/"})
    legs = legs_between(run.measured_after, steered=config.diversity_floor is not None)

    ways = ["own/", "other/"]
    sequence = whole_run(legs, num_replicas=config.run.replicas, ways=ways, fresh_seeds=False)
    assert_same(compiled, of_sequence(sequence))
