"""The component `fetch`."""

from kfp import dsl
from kfp.dsl import Model, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def fetch(
    source: str,
    revision: str,
    version: str,
    base: Output[Model],
) -> None:
    """Bring the base model. Runs that name the same one share it, through Kubeflow's cache.

    Args:
        source: Where the model comes from.
        revision: Which revision of it.
        version: Changes whenever the files at the source may have.
        base: The pretrained model, frozen.
    """
    from hrf.steps.fetch import fetch as step
    from hrf_components.outputs import record

    facts = step(source=source, revision=revision, version=version, base=base.path)
    record(facts, outputs=[base])
