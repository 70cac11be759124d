"""What a compiled package expects in the namespace of its runs: Secrets, ConfigMaps and volumes, with the keys used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hrf_pipelines.package import read_package


@dataclass(frozen=True)
class Reference:
    """One object that an executor's pod needs."""

    kind: str
    name: str
    keys: frozenset[str] = frozenset()
    """Keys of its data that are asked for one by one."""


#: Field of an executor's Kubernetes settings: the kind it refers to, where the name is, and what a key is called.
_FIELDS = {
    "secretAsEnv": ("Secret", "secretName", "secretKey"),
    "secretAsVolume": ("Secret", "secretName", ""),
    "imagePullSecret": ("Secret", "secretName", ""),
    "configMapAsEnv": ("ConfigMap", "configMapName", "configMapKey"),
    "configMapAsVolume": ("ConfigMap", "configMapName", ""),
    "pvcMount": ("PersistentVolumeClaim", "pvcName", ""),
}


def references(package: str) -> set[Reference]:
    """All objects that the executors of a package refer to by a name that is fixed when it is compiled.

    Args:
        package: The YAML text that the compiler wrote.

    Raises:
        ValueError: A name is only known when the pipeline runs, so that nobody can say whether it exists.
    """
    found: set[Reference] = set()
    for document in read_package(package):
        executors = document.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        for label, settings in executors.items():
            found |= set(_of_executor(label, settings))
    return found


def _of_executor(label: str, settings: Mapping[str, Any]) -> Iterator[Reference]:
    for field, (kind, name_field, key_field) in _FIELDS.items():
        for entry in settings.get(field, []):
            keys = frozenset(pair[key_field] for pair in entry.get("keyToEnv", []))
            yield Reference(kind, _name(entry, name_field, f"{label}.{field}"), keys)


def _name(entry: Mapping[str, Any], field: str, where: str) -> str:
    """The name in its new form (a parameter, which may be constant), or in one of the two old ones."""
    parameter = entry.get(f"{field}Parameter")
    if parameter is not None:
        constant = parameter.get("runtimeValue", {}).get("constant")
    else:
        constant = entry.get(field, entry.get("constant"))
    if not isinstance(constant, str):
        raise ValueError(f"{where}: the name is only known at run time: {entry}")
    return constant
