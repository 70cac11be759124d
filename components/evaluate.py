"""The component `evaluate`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-reward", install_kfp_package=False)
def evaluate(
    epoch: int,
    run: Input[Artifact],
    base: Input[Model],
    policy: Input[Model],
    baseline: Input[Artifact],
    fresh_seeds: bool,
    new_history: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
    history: Input[Artifact] = None,
) -> None:
    """Measure the candidate on the fixed seeds, and on fresh ones if it passes: it is promoted if it does so again.

    Args:
        epoch: The epoch, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        base: The pretrained model, frozen.
        policy: The candidate, with the records of its training.
        baseline: The base measured on the fixed seeds, and what else is computed once per run.
        fresh_seeds: Whether there are fresh ones; a study decides on the fixed seeds.
        new_history: All records of the run up to here: training, evaluations and decisions.
        metrics: The step's numbers, for the run's page.
        page: The sample grid and the main numbers.
        history: The same up to the evaluation before; a run's first has none.
    """
    from hrf.steps.judge import judge as step
    from hrf_components.outputs import record

    facts = step(
        epoch=epoch,
        run=run.path,
        base=base.path,
        policy=policy.path,
        baseline=baseline.path,
        history=history.path if history else None,
        new_history=new_history.path,
        page=page.path,
        fresh_seeds=fresh_seeds,
    )
    record(facts, metrics=metrics, outputs=[new_history], epoch=epoch)
