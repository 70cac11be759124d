"""The component `baseline`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward", install_kfp_package=False)
def baseline(
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    baseline: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Measure the base on the fixed seeds, once per run.

    Args:
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The policy that this step is given.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.baseline import baseline as step
    from hrf_components.outputs import record

    facts = step(
        run=run.path,
        base=base.path,
        policy=policy.path,
        baseline=baseline.path,
    )
    record(facts, metrics=metrics, outputs=[baseline])
