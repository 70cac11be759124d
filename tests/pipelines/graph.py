"""The graph that Kubeflow's UI draws of a package, one for each layer: what its `StaticFlow` makes of the pipeline.

A node stands for each task and for each artifact that a task makes, used or not. Edges run from a task to its
artifacts, from an artifact to each task that is given it, and from a task to each one that waits for it or is given its
parameters, however many of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The graph of one pipeline: the whole one's, or that of one of its tasks."""

    component: str
    nodes: frozenset[tuple[str, ...]]
    edges: frozenset[tuple[tuple[str, ...], tuple[str, ...]]]


def layers(spec: Mapping[str, Any]) -> Iterator[Layer]:
    """All graphs of a pipeline."""
    for component, part in {"root": spec["root"], **spec["components"]}.items():
        if "dag" in part:
            yield _layer(component, part["dag"]["tasks"], spec["components"])


def _layer(component: str, tasks: Mapping[str, Any], components: Mapping[str, Any]) -> Layer:
    nodes: set[tuple[str, ...]] = set()
    edges: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for name, task in tasks.items():
        made = components[task["componentRef"]["name"]].get("outputDefinitions", {}).get("artifacts", {})
        nodes |= {(name,), *((name, artifact) for artifact in made)}
        edges |= {((name,), (name, artifact)) for artifact in made}
        inputs = task.get("inputs", {})
        for source in inputs.get("artifacts", {}).values():
            if given := source.get("taskOutputArtifact"):
                edges.add(((given["producerTask"], given["outputArtifactKey"]), (name,)))
        told = [entry.get("taskOutputParameter") for entry in inputs.get("parameters", {}).values()]
        earlier = {entry["producerTask"] for entry in told if entry} | set(task.get("dependentTasks", ()))
        edges |= {((other,), (name,)) for other in earlier}
    return Layer(component=component, nodes=frozenset(nodes), edges=frozenset(edges))
