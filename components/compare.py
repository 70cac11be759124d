"""The component `compare`.

It takes its arms in numbered slots, since Kubeflow passes a list of artifacts only out of a parallel loop.
"""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Output


@dsl.component(base_image="hrf-control", install_kfp_package=False)
def compare(
    names: str,
    report: Output[HTML],
    summary: Output[Artifact],
    metrics: Output[Metrics],
    arm_1: Input[Artifact],
    arm_2: Input[Artifact],
    arm_3: Input[Artifact] = None,
    arm_4: Input[Artifact] = None,
    arm_5: Input[Artifact] = None,
    arm_6: Input[Artifact] = None,
) -> None:
    """Put several finished runs side by side, at the same cost.

    Args:
        names: The arms' names, separated by commas, in the order of the slots.
        report: The report, one self-contained page.
        summary: The comparison as data.
        metrics: The arms' numbers, for the run's page.
        arm_1: The summary of the first arm.
        arm_2: The summary of the second arm.
        arm_3: The summary of the third arm, if there is one.
        arm_4: The summary of the fourth arm, if there is one.
        arm_5: The summary of the fifth arm, if there is one.
        arm_6: The summary of the sixth arm, if there is one.
    """
    from hrf.steps.compare import compare as step
    from hrf_components.outputs import record

    summaries = [arm for arm in (arm_1, arm_2, arm_3, arm_4, arm_5, arm_6) if arm is not None]
    arms = [(name, arm.path) for name, arm in zip(names.split(","), summaries, strict=True)]
    facts = step(arms=arms, report=report.path, summary=summary.path)
    record(facts, metrics=metrics, outputs=[report, summary])
