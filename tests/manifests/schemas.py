"""Strict validation: Kubernetes' own schemas, and those of the two custom resources of Kubeflow Pipelines."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

#: The oldest release that still gets fixes when this was written, and the newest that there are schemas of.
KUBERNETES = ("1.34", "1.37")
_FILES = {"Pipeline": "crd_pipelines.yaml", "PipelineVersion": "crd_pipelineversions.yaml"}


class InvalidError(Exception):
    """An object that a cluster would refuse, or silently take less of than was written."""


def kubeflow_definitions() -> Path | None:
    """The folder with Kubeflow's public definitions: $HRF_KFP_DEFINITIONS, or beside the checkout; or None."""
    named = os.environ.get("HRF_KFP_DEFINITIONS")
    beside = (folder / "shared" / "kfp" for folder in Path(__file__).resolve().parents)
    for folder in [Path(named)] if named else beside:
        if all((folder / name).is_file() for name in _FILES.values()):
            return folder
    return None


def check(document: dict[str, Any]) -> None:
    """Raise InvalidError unless the schema knows the object's kind and every one of its fields."""
    if document["apiVersion"].startswith("pipelines.kubeflow.org/"):
        _check_custom(document)
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            raise InvalidError(f"{document['kind']} in Kubernetes {version}: {error.message}") from error


def _check_custom(document: dict[str, Any]) -> None:
    group, version = document["apiVersion"].split("/")
    definition = _definition(document["kind"])
    if definition["spec"]["group"] != group:
        raise InvalidError(f"{document['kind']}: there is no group {group}")
    schemas = [each["schema"] for each in definition["spec"]["versions"] if each["name"] == version and each["served"]]
    if not schemas:
        raise InvalidError(f"{document['kind']}: there is no version {version}")
    schema = _strict(schemas[0]["openAPIV3Schema"])
    # Every object has metadata; a resource's own schema leaves it to Kubernetes.
    schema["properties"]["metadata"] = {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        raise InvalidError(f"{document['kind']}: {error.message}") from error


@functools.cache
def _definition(kind: str) -> dict[str, Any]:
    folder = kubeflow_definitions()
    assert folder is not None
    return yaml.safe_load((folder / _FILES[kind]).read_text(encoding="utf-8"))


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that refuses what a cluster would drop without a word: fields that it does not know."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: _strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    return made
