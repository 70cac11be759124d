"""The component `fetch`."""

from kfp import dsl
from kfp.dsl import Metrics, Model, Output


@dsl.component(base_image="hrf-worker:latest", install_kfp_package=False)
def fetch(
    source: str,
    revision: str,
    version: str,
    base: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Bring the base model. The one task that Kubeflow may answer from its cache.

    Args:
        source: Where the model comes from.
        revision: Which revision of it.
        version: Changes whenever the files at the source may have.
        base: The pretrained model, frozen.
        metrics: The step's numbers, for the run's page.
    """
    from components.outputs import record
    from hrf.steps.fetch import fetch as step

    facts = step(source=source, revision=revision, version=version, base=base.path)
    record(facts, metrics=metrics, outputs=[base])
