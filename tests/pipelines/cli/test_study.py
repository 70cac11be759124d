"""The committed study: what `hrf study` would run of it."""

from pathlib import Path

import pytest

from hrf.study.definition import Study
from hrf_pipelines.cli.study import plan

FILE = Path(__file__).parents[3] / "benchmarks" / "studies" / "window.yaml"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.read(FILE)


@pytest.mark.parametrize("budget", ["small", "tiny"])
def test_a_smaller_form_of_the_committed_study_is_a_few_runs_of_several_points(study, budget):
    runs = plan(study.reduced(budget))

    assert 2 <= len(runs) <= 6
    assert all(len(run.measured_after) == 2 for run in runs)


def test_the_committed_study_compares_as_many_seeds_and_rewards_as_an_answer_takes(study):
    assert len(study.seeds) >= 5
    assert len(study.rewards) >= 3
    assert {arm.dial for arm in study.arms.values() if arm.dial is not None} == {k / 10 for k in range(8)}
