"""Which runs there are, how long they are, and where they are measured."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrf.errors import ConfigError
from hrf.study.plan import plan_runs
from tests.hrf.study.studies import TEXT, study


def costing(per_epoch: float, once: float = 0.0):
    """Every epoch costs the same."""
    return lambda config: [once + per_epoch * (epoch + 1) for epoch in range(config.run.epochs)]


def test_every_trained_arm_runs_on_every_reward_and_seed_and_carries_its_controls():
    runs = plan_runs(study(), costing(100))

    assert [run.name for run in runs[:4]] == ["ddpo--small--0", "hrf--small--0", "ddpo--blue--0", "hrf--blue--0"]
    assert len(runs) == 2 * 2 * 2 == len({run.name for run in runs})
    hrf = runs[1]
    assert list(hrf.configs) == ["hrf", "hrf-split"]
    assert hrf.configs["hrf-split"].policy.split == 0.5
    assert hrf.config.run.epochs == hrf.measured_after[-1]


def test_a_front_is_measured_where_its_run_ends_as_the_run_itself_samples():
    """Kills: a front as one more way that every point is measured in; its weights under the study's own settings."""
    front = "  hrf-front: {description: x, weights_of: hrf, strengths: [0.25, 1]}"
    run = plan_runs(study(TEXT.replace("arms:\n", f"arms:\n{front}\n", 1)), costing(100))[1]

    assert (run.arm, run.ways) == ("hrf", ["hrf", "hrf-split"])
    assert [(each.arm, each.strengths) for each in run.fronts] == [("hrf-front", (0.25, 1.0))]
    assert run.configs["hrf-front"] == run.config
    assert run.digest != plan_runs(study(), costing(100))[1].digest


def test_a_run_ends_within_its_budget_and_one_epoch_more_would_not():
    run = plan_runs(study(), costing(130, once=40))[0]

    assert run.measured_after[-1] == (1000 - 40) // 130


def test_runs_are_measured_where_they_have_spent_each_part_of_the_budget():
    assert plan_runs(study(points="points: 4"), costing(100))[0].measured_after == (2, 5, 7, 10)
    assert plan_runs(study(points="points: 4"), costing(450))[0].measured_after == (1, 2)


def test_an_arm_may_be_measured_more_often_than_the_others():
    more = TEXT.replace("from noise,", "from noise, points: 5,")

    assert [run.measured_after for run in plan_runs(study(more), costing(100))[:2]] == [(2, 4, 6, 8, 10), (5, 10)]


@settings(max_examples=30)
@given(per_epoch=st.floats(20, 499), once=st.floats(0, 1), points=st.integers(1, 6))
def test_points_rise_and_the_last_one_is_the_whole_run(per_epoch, once, points):
    cost = costing(per_epoch, once)

    for run in plan_runs(study(points=f"points: {points}", seeds="seeds: [0]"), cost)[:2]:
        epochs = run.measured_after[-1]
        assert 2 <= epochs == run.config.run.epochs
        assert all(first < second for first, second in pairwise((0, *run.measured_after)))
        assert len(run.measured_after) <= points
        assert once + per_epoch * epochs <= 1000 < once + per_epoch * (epochs + 1)


def test_a_budget_that_buys_less_than_two_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"budget: expected at least 1200 .* of ddpo"):
        plan_runs(study(), costing(600))
