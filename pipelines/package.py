"""Compiled packages: the YAML that a cluster takes, and that this machine runs too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml
from google.protobuf import json_format

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent


def compile_package(pipeline: BaseComponent, menus: Mapping[str, Sequence[str]] | None = None) -> str:
    """Compile a pipeline to a package.

    Returns:
        The package's YAML text, in ASCII: Kubeflow's database can't hold all of Unicode.
    """
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    platforms = json_format.MessageToDict(pipeline.platform_spec)
    finish(spec, menus or {})
    return yaml.safe_dump_all([spec, platforms] if platforms else [spec], sort_keys=True)


def finish(spec: dict[str, Any], menus: Mapping[str, Sequence[str]]) -> None:
    """Bring a compiled pipeline into the form that is shipped.

    What describes a component goes: while a run is at work, the cluster holds it in up to six places for each task,
    in one object that may not grow past a megabyte. So do waits that others imply, and with them edges of the graph.
    What describes the pipeline's own parameters stays, and stands in the description of the pipeline, too: the form in
    which a run is started shows names and types only.

    Args:
        spec: The pipeline's specification, which is changed.
        menus: The values that a parameter can have, by its name. The form shows them as a drop-down menu, and the
            server refuses others before it starts any pod. Kubeflow's SDK does not write them.
    """
    for component in spec["components"].values():
        for definitions in ("inputDefinitions", "outputDefinitions"):
            for definition in _definitions(component.get(definitions, {})):
                definition.pop("description", None)
    for executor in spec["deploymentSpec"]["executors"].values():
        command = executor["container"]["command"]
        command[-1] = without_comments(command[-1])
    for dag in dags_of(spec):
        _leave_out_implied_waits(dag["tasks"])
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, values in menus.items():
        parameters[name]["literals"] = list(values)
    # In the order of the form.
    told = {name: entry["description"] for name, entry in sorted(parameters.items()) if "description" in entry}
    explained = "\n".join(f"* `{name}`: {description}" for name, description in told.items())
    about = spec["pipelineInfo"]
    about["description"] = "\n\n".join(filter(None, [about.get("description", ""), explained]))


def without_comments(source: str) -> str:
    """The same Python without its docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def read_package(package: str) -> list[dict[str, Any]]:
    """Parse a package: the pipeline and, where it has one, its platform part."""
    # The parser in C takes a tenth of the time, where PyYAML has it.
    return list(yaml.load_all(package, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def dags_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The graphs of a pipeline and of its sub-pipelines."""
    return [part["dag"] for part in (spec["root"], *spec.get("components", {}).values()) if "dag" in part]


def with_caching(package: str) -> str:
    """The same package with Kubeflow's cache on for every task but the one that tells how the run ended.

    Kubeflow's local runner has no resume of its own. With a cache that belongs to one run, running the package again
    takes every finished task's outputs from where they lie and goes on with the first unfinished one.

    Returns:
        The package to hand to the local runner.
    """
    documents = read_package(package)
    for dag in dags_of(documents[0]):
        for task in dag["tasks"].values():
            ends = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            task["cachingOptions"] = {} if ends else {"enableCache": True}
    return yaml.safe_dump_all(documents, sort_keys=True)


def _leave_out_implied_waits(tasks: Mapping[str, dict[str, Any]]) -> None:
    """Have no task wait for one that another one, which it waits for, has waited for itself.

    The SDK has each task wait for all whose outputs it is given, which the UI draws as an edge each, beside those of
    the outputs. What runs before what stays the same.
    """

    def has_waited_for(name: str) -> set[str]:
        # One with a policy of its own may also have run where those before it failed.
        earlier = [] if "triggerPolicy" in tasks[name] else tasks[name].get("dependentTasks", [])
        return set(earlier).union(*map(has_waited_for, earlier))

    needed = {}
    for name, task in tasks.items():
        earlier = task.get("dependentTasks", [])
        implied = set[str]().union(*map(has_waited_for, earlier))
        needed[name] = [other for other in earlier if other not in implied]
    for name, others in needed.items():
        if others:
            tasks[name]["dependentTasks"] = others


def _definitions(of_kinds: Mapping[str, Mapping[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The parameters and artifacts of a component's inputs or outputs."""
    for named in of_kinds.values():
        yield from named.values()
