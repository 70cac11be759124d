"""Pipelines as Kubernetes objects, for a Kubeflow that keeps pipelines in the cluster and not in its database.

`python -m hrf_pipelines.native FILE` writes the objects of the fine-tuning pipeline; `make manifests` calls it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent

from hrf import __version__
from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_pipelines.finetune import build
from hrf_pipelines.menus import finetune_menus
from hrf_pipelines.package import finish
from hrf_pipelines.placement import default_placement, load_placement
from hrf_pipelines.versions import about_package

#: What every object of `manifests/` carries.
LABELS = {"app.kubernetes.io/part-of": "hrf-pipelines"}
_HEADER = "# Written by `make manifests`; don't edit.\n"


def kubernetes_manifest(
    pipeline: BaseComponent,
    *,
    name: str,
    version: str,
    display_name: str = "",
    menus: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Compile a pipeline to a Pipeline and a PipelineVersion object.

    A PipelineVersion can't be changed once it is in a cluster: Kubeflow refuses. So its name ends in the first eight
    digits of the digest of what it holds (pipeline, images and Kubernetes settings): another content is another
    version beside the old one, which schedules may be pinned to, and the same content is the same object.

    Args:
        pipeline: What `hrf_pipelines.finetune.build` returns.
        name: Name of the Pipeline object.
        version: What the version is called, before the digest: what it is about and hrf's version.
        display_name: What the UI shows instead of the name.
        menus: See `hrf_pipelines.package.finish`.

    Returns:
        Two YAML documents, in ASCII.

    Raises:
        ConfigError: Name and version don't make a name that Kubernetes takes.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Kubeflow warns of its own deprecations, which a user can do nothing about.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "manifest.yaml"
        options = KubernetesManifestOptions(
            pipeline_name=name,
            pipeline_display_name=display_name or name,
            include_pipeline_manifest=True,
        )
        compiler.Compiler().compile(
            pipeline, str(path), kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )
        kept, kept_version = yaml.safe_load_all(path.read_text(encoding="ascii"))
    finish(kept_version["spec"]["pipelineSpec"], menus or {})
    kept["spec"]["description"] = kept_version["spec"]["pipelineSpec"]["pipelineInfo"]["description"]
    shown = f"{version}-{digest(kept_version['spec'])}"
    kept_version["metadata"]["name"] = _checked(f"{name}-{shown}")
    kept_version["spec"]["displayName"] = shown
    for document in (kept, kept_version):
        document["metadata"]["labels"] = dict(LABELS)
    return _HEADER + yaml.safe_dump_all([kept, kept_version], sort_keys=False, width=120)


def digest(spec: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for what a PipelineVersion holds.

    Args:
        spec: The object's `spec`. Which version of Kubeflow's SDK compiled it counts as little as its names do.
    """
    held = {key: spec[key] for key in ("pipelineSpec", "platformSpec") if key in spec}
    held["pipelineSpec"] = {key: value for key, value in held["pipelineSpec"].items() if key != "sdkVersion"}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:8]


def write_finetune(path: Path, preset: str) -> None:
    """Write the objects of the fine-tuning pipeline of a preset.

    Args:
        path: The file.
        preset: Its name; every value can be overridden when a run is started, but for the number of epochs.
    """
    config = resolve(preset)
    placement = load_placement("", config)
    text = kubernetes_manifest(
        build(config, preset=preset, placement=placement),
        name="hrf-finetune",
        version=f"{about_package(preset, config.run.epochs, default_placement(config))}-{__version__}",
        display_name="HRF fine-tuning",
        menus=finetune_menus(config, placement, preset=preset),
    )
    path.write_text(text, encoding="ascii")


def _checked(name: str) -> str:
    if len(name) > 253 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name):
        raise ConfigError(
            "version",
            expected="lower-case letters, digits, '-' and '.', as a Kubernetes object's name",
            got=name,
            fix="choose another name or version",
        )
    return name


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write the fine-tuning pipeline as Kubernetes objects.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--preset", default="avatars-compressibility")
    arguments = parser.parse_args()
    write_finetune(arguments.output, arguments.preset)


if __name__ == "__main__":
    _main()
