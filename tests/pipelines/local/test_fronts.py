"""A finished run's front over strength, from its candidates in object storage."""

import pytest

from hrf.errors import ArtifactError, ConfigError
from hrf.evaluation.record import EvaluationRecord
from hrf.report.fronts import front_picture
from hrf.storage.names import EVALUATION_FILE
from hrf_pipelines.local.fronts import measure_front
from tests.hrf.steps.conftest import steps, tiny_model
from tests.hrf.steps.test_epochs import SPLIT

__all__ = ["steps", "tiny_model"]


def front_of(made, **options):
    asked = {"run": "", "epoch": None, "strengths": (1.0, 0.5), "num_samples": 0, **options}
    return measure_front(storage=made.storage, experiment="tiny", tell=lambda _: None, **asked)


def test_a_front_is_measured_on_the_runs_own_seeds_and_needs_no_training(steps):
    """At strength 1 it is the evaluation, to the bit, also of a candidate that the gate rejected and of a split policy.

    Kills: the base's samples or starts of another noise, the strengths unsorted, the pool's start for the evaluation's.
    """
    run = steps("run", {**SPLIT, "update": {"learning_rate": 1e-2}})
    run.prepare()
    for epoch in range(2):
        run.epoch(epoch)
        run.judge(epoch)
    evaluations = [EvaluationRecord.read(run.folder / f"evaluation-{epoch}" / EVALUATION_FILE) for epoch in range(2)]

    last, first = front_of(run), front_of(run, run="ru", epoch=0, strengths=(1.0,))

    assert (last.candidate_id, first.candidate_id) == ("run/epoch-0001", "run/epoch-0000")
    assert [point.strength for point in last.points] == [0.5, 1.0]
    assert last.points[1] == evaluations[1].at_strength
    assert first.points == (evaluations[0].at_strength,)
    assert last.points[0].reward_vs_base != last.points[1].reward_vs_base
    assert last.points[0].diversity_ratio.value != 1.0
    assert "strength 0.5: gain" in front_picture("run", last.points, last.floor, unit="kB")
    with pytest.raises(ConfigError, match=r"--epoch.*evaluated: 0, 1"):
        front_of(run, epoch=2)
    with pytest.raises(ArtifactError, match="no run 'other' with a candidate"):
        front_of(run, run="other")
