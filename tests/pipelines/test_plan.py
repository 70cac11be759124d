"""How a run's epochs become tasks, and how many that makes."""

import pytest

from hrf.config import resolve
from hrf.errors import ConfigError
from hrf_pipelines.plan import check_task_budget, count_tasks, plan_epochs


def _plan(**changes):
    return plan_epochs(resolve("avatars-split").with_changes(changes))


def test_one_entry_per_epoch():
    steps = _plan(run={"epochs": 3}, evaluation={"every": 1})
    assert [(step.first_epoch, step.last_epoch, step.evaluated) for step in steps] == [
        (0, 0, True),
        (1, 1, True),
        (2, 2, True),
    ]


def test_evaluation_is_as_often_as_asked_and_always_at_the_end():
    steps = _plan(run={"epochs": 5}, evaluation={"every": 2})
    assert [step.evaluated for step in steps] == [False, True, False, True, True]


def test_several_epochs_in_one_step_are_evaluated_at_their_end():
    steps = _plan(run={"epochs": 12, "epochs_per_step": 3}, evaluation={"every": 6})
    assert [(step.first_epoch, step.last_epoch, step.evaluated) for step in steps] == [
        (0, 2, False),
        (3, 5, True),
        (6, 8, False),
        (9, 11, True),
    ]


def test_labels_name_epochs_and_windows():
    steps = _plan(
        run={"epochs": 2},
        starts={"schedule": "custom", "windows": [{"steps": [10, 14], "epochs": 1}, {"steps": [14, 18], "epochs": 1}]},
    )
    assert [step.label for step in steps] == ["epoch 0: window 10-13", "epoch 1: window 14-17"]


def test_a_window_to_the_end_says_so_since_the_last_trained_step_depends_on_the_model():
    assert _plan(run={"epochs": 1})[0].label == "epoch 0: window 10-last"


def test_epochs_of_one_step_are_labelled_with_their_first_and_last_window():
    steps = _plan(
        run={"epochs": 4, "epochs_per_step": 4}, evaluation={"every": 4}, starts={"schedule": "later", "windows": []}
    )
    assert steps[0].label == "epochs 0-3: window 10-14 to window 15-last"


def test_starts_from_noise_have_no_window():
    assert plan_epochs(resolve("avatars-ddpo"))[0].label == "epoch 0: starts from noise"


@pytest.mark.parametrize(
    ("changes", "tasks"),
    [
        ({"run": {"epochs": 3}, "evaluation": {"every": 1}}, 7 + 3 * 5),
        ({"run": {"epochs": 3}, "evaluation": {"every": 3}}, 7 + 4 + 4 + 5),
        ({"run": {"epochs": 12, "epochs_per_step": 4}, "evaluation": {"every": 4}}, 7 + 3 * 2),
    ],
)
def test_tasks_are_counted(changes, tasks):
    assert count_tasks(_plan(**changes)) == tasks


def test_a_diversity_floor_adds_a_task_to_every_evaluation():
    config = resolve("avatars-floor", "{run: {epochs: 4, epochs_per_step: 1}, evaluation: {every: 2}}")
    assert count_tasks(plan_epochs(config)) == 7 + 4 * 4 + 2 * 2


def test_shards_of_sampling_are_counted_with_the_loop_and_the_task_that_joins_them():
    config = resolve("avatars-split", "{run: {epochs: 1}, evaluation: {every: 1}}")
    assert count_tasks(plan_epochs(config, num_shards=3)) == 7 + 5 + (1 + 3 + 3 + 1) - 1


def test_replicas_are_counted_with_the_task_that_merges_them():
    """Kills: chains that are left out, a merge where nothing is evaluated."""
    steps = _plan(run={"epochs": 4, "epochs_per_step": 2, "replicas": 3}, evaluation={"every": 4})
    assert count_tasks(steps) == 7 + 3 + (3 + 2)
    assert steps[0].label_of(2).startswith("epochs 0-1, replica 2: window")


def test_up_to_a_hundred_and_fifty_tasks_are_taken():
    check_task_budget(150)


def test_more_than_a_hundred_and_fifty_tasks_are_refused():
    with pytest.raises(ConfigError, match="151 tasks") as refused:
        check_task_budget(151)
    assert refused.value.field == "run.epochs"
