"""The component `merge`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="hrf-worker", install_kfp_package=False)
def merge(
    epoch: int,
    run: Input[Artifact],
    policy_0: Input[Model],
    policy_1: Input[Model],
    new_policy: Output[Model],
    metrics: Output[Metrics],
    policy_2: Input[Model] = None,
    policy_3: Input[Model] = None,
    policy_4: Input[Model] = None,
    policy_5: Input[Model] = None,
    policy_6: Input[Model] = None,
    policy_7: Input[Model] = None,
) -> None:
    """Average the replicas' weights. Kubeflow has lists of a loop's artifacts only, so each has a name here.

    Args:
        epoch: The replicas' last one, counted from 0.
        run: What `prepare` settled: configuration, seeds, where the run started.
        policy_0: A replica's policy, with the records of its training.
        policy_1: Likewise.
        new_policy: Their mean, with the records of all.
        metrics: The step's numbers, for the run's page.
        policy_2: Likewise, where there are so many.
        policy_3: Likewise.
        policy_4: Likewise.
        policy_5: Likewise.
        policy_6: Likewise.
        policy_7: Likewise.
    """
    from hrf.steps.merge import merge as step
    from hrf_components.outputs import record

    policies = [policy_0, policy_1, policy_2, policy_3, policy_4, policy_5, policy_6, policy_7]
    facts = step(
        epoch=epoch,
        run=run.path,
        policies=[policy.path for policy in policies if policy],
        new_policy=new_policy.path,
    )
    record(facts, metrics=metrics, outputs=[new_policy], epoch=epoch)
