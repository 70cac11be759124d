"""Compiled packages: the YAML that a cluster takes, and that this machine runs too."""

import tempfile
import warnings
from pathlib import Path

import yaml
from kfp import compiler
from kfp.dsl.base_component import BaseComponent


def compile_package(pipeline: BaseComponent) -> str:
    """Compile a pipeline to a package.

    Args:
        pipeline: What `pipelines.finetune.build` or `pipelines.compare.build` returns.

    Returns:
        The package's YAML text, in ASCII: Kubeflow's database can't hold all of Unicode.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Kubeflow warns of its own deprecations, which a user can do nothing about.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "package.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="ascii")


def with_caching(package: str) -> str:
    """The same package with Kubeflow's cache on for every task but the one that tells how the run ended.

    Kubeflow's local runner has no resume of its own. With a cache that belongs to one run, running the package again
    takes every finished task's outputs from where they lie and goes on with the first unfinished one.

    Args:
        package: A compiled package.

    Returns:
        The package to hand to the local runner.
    """
    documents = list(yaml.safe_load_all(package))
    spec = documents[0]
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    for dag in dags:
        for task in dag["tasks"].values():
            ends = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            task["cachingOptions"] = {} if ends else {"enableCache": True}
    return yaml.safe_dump_all(documents, sort_keys=True)
