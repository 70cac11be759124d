"""A pipeline with what a run has on a cluster: an exit handler, a loop, and settings for Kubernetes.

It is compiled much faster than the real one.
"""

import functools

from kfp import dsl, kubernetes

from hrf_pipelines.package import compile_package


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def work(number: int = 0):
    """Work."""


@dsl.pipeline(name="guarded")
def guarded(experiment: str = "", storage: str = "", run_tag: str = ""):
    """Check, then sample in shards, and report whatever becomes of it."""
    with dsl.ExitHandler(work().set_display_name("report")):
        first = work().set_display_name("check")
        kubernetes.use_secret_as_env(first, "hrf-s3", {"key": "KEY"})
        with dsl.ParallelFor([1, 2, 3]) as shard:
            work(number=shard).after(first).set_display_name("sample")


@functools.cache
def package() -> str:
    """Compile it."""
    return compile_package(guarded)
