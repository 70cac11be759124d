"""What a real Kubeflow Pipelines 2.17.0 answered (Kubernetes 1.34, Argo 4.0.5), each file one situation.

`run-*.json` is GET /apis/v2beta1/runs/ID; `workflow-*.json` is the Workflow of Kubernetes, its nodes cut to names,
phases, messages, times and children, but for the compressed one, which is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hrf.steps.workflow import read_nodes

FOLDER = Path(__file__).with_name("recorded")


def recording(name: str) -> dict[str, Any]:
    """A recording, such as `run-oom`; the caller may change it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def recorded(kind: str) -> list[str]:
    """The names of all recordings of a kind, `run` or `workflow`."""
    return sorted(path.stem for path in FOLDER.glob(f"{kind}-*.json"))


def smoke_spec() -> dict[str, Any]:
    """The pipeline spec of the recorded runs of avatars-smoke, as Kubeflow's drivers were given it piece by piece."""
    components = {}
    root: dict[str, Any] = {}
    for node in read_nodes(recording("workflow-success-compressed")).values():
        if node["type"] != "Pod" or "-driver(" not in node["displayName"]:
            continue
        given = {each["name"]: each.get("value") or "" for each in node["inputs"]["parameters"]}
        component = json.loads(given["component"])
        if given.get("task"):
            components[json.loads(given["task"])["componentRef"]["name"]] = component
        else:
            root = component
    return {"pipelineInfo": {"name": "hrf-finetune"}, "root": root, "components": components}
