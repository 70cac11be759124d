"""The component `score`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Output


@dsl.component(base_image="hrf-reward", install_kfp_package=False)
def score(
    epoch: int,
    replica: int,
    run: Input[Artifact],
    samples: Input[Dataset],
    scores: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Give every finished branch its reward.

    Args:
        epoch: The epoch, counted from 0.
        replica: The chain of epochs that it belongs to, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        samples: The finished branches, to be scored.
        scores: One reward per branch.
        metrics: The step's numbers, for the run's page.
    """
    from hrf.steps.score import score as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        replica=replica,
        run=run.path,
        samples=samples.path,
        scores=scores.path,
    )
    record(facts, metrics=metrics, outputs=[scores], epoch=epoch)
