"""The rule of a diversity floor: what it never does, that it ends, and what it wins in a simulation."""

from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.floor import EARLY, FLOOR, LATE, MEASURED, also_without_a_split, nothing, only_rate, ours, simulate
from hrf.promotion.floor import BASE, MOST_BACK_UPS, PATIENCE, Reading, Steering, replay, steer

bounds = st.floats(0.3, 1.1)
monitors = st.sampled_from([(), (), (), ("edge_density",), ("colour_entropy", "edge_density")])
readings_ = st.builds(Reading, bound=bounds, reward=st.floats(-0.1, 0.2), monitors_tripped=monitors)
sequences = st.lists(readings_, min_size=1, max_size=40)


def decisions(readings, *, switch_step=3, last_step=17, floor=0.9):
    """All decisions until the run stops."""
    state, made = Steering(switch_step=switch_step), []
    for number, reading in enumerate(readings):
        made.append(
            steer(state, reading.model_copy(update={"candidate": f"run/{number}"}), floor=floor, last_step=last_step)
        )
        state = made[-1].steering
        if state.stopped:
            break
    return made


@given(sequences, st.integers(0, 17))
def test_the_dials_only_turn_one_way(readings, switch_step):
    """Kills: a switch step that moves back, or past the last one; a rate that rises."""
    made = decisions(readings, switch_step=switch_step)
    for before, after in pairwise([Steering(switch_step=switch_step), *(each.steering for each in made)]):
        assert before.switch_step <= after.switch_step <= 17
        assert after.rate_scale <= before.rate_scale


@given(sequences, st.floats(0.5, 0.99))
def test_what_is_kept_is_the_best_reward_that_the_gate_could_promote(readings, floor):
    """Kills: backing up to what crossed or what trips a monitor; keeping the last one; `>=` for `>` at the floor."""
    made = decisions(readings, floor=floor)
    seen = [BASE]
    for reading, decision in zip(readings, made, strict=False):
        seen += [reading] if reading.bound > floor and not reading.monitors_tripped else []
        kept = decision.steering.kept
        assert kept.bound > floor
        assert kept.monitors_tripped == ()
        assert kept.reward == max(each.reward for each in seen)


@given(sequences)
def test_with_strengths_a_sound_candidate_turns_no_dial_and_without_one_all_is_as_before(readings):
    """Kills: a switch step that moves while weakening is enough; strengths that change what a crossed floor does."""
    state = Steering(switch_step=3)
    for reading in readings:
        plain, weakened = (
            steer(state, reading, floor=0.9, last_step=17, by_strength=by_strength) for by_strength in (False, True)
        )
        if plain.action in ("keep", "tighten"):
            assert weakened.action == "keep"
            assert weakened.steering == plain.steering.model_copy(update={"switch_step": state.switch_step})
        else:
            assert weakened == plain
        state = weakened.steering
        if state.stopped:
            break


@given(sequences)
def test_what_the_gate_would_refuse_for_good_is_backed_up_from_and_nothing_else_is(readings):
    """Kills: monitors that the rule does not see; a switch step that moves for a monitor's sake."""
    switch_step = 3
    for decision in decisions(readings, switch_step=switch_step):
        refused = decision.reading.bound <= 0.9 or decision.reading.monitors_tripped != ()
        assert refused == (decision.action == "back_up") or decision.action == "stop"
        if decision.action == "back_up":
            assert decision.steering.bound == decision.steering.kept.bound
            assert decision.reading.bound <= 0.9 or decision.steering.switch_step == switch_step
        switch_step = decision.steering.switch_step


@given(sequences)
def test_a_run_ends_where_nothing_more_is_to_be_gained(readings):
    """Kills: a counter that is not counted or never set back."""
    made = decisions(readings)
    rises = 1 + sum(decision.steering.kept is not BASE and decision.steering.num_stalled == 0 for decision in made)
    assert len(made) <= MOST_BACK_UPS + 1 + PATIENCE * rises + rises


def test_a_run_that_always_crosses_and_one_that_never_gains_stop():
    crossing = decisions([Reading(bound=0.5, reward=0.1)] * 40)
    idle = decisions([Reading(bound=1.0, reward=-0.01)] * 40)
    assert [made.action for made in crossing] == ["back_up"] * MOST_BACK_UPS + ["stop"]
    assert [made.action for made in idle] == ["keep"] * (PATIENCE - 1) + ["stop"]


@given(sequences)
def test_the_last_decision_is_a_fold_over_the_readings(readings):
    """Kills: state that is remembered outside."""
    named = [made.reading for made in decisions(readings)]
    start = Steering(switch_step=3)
    assert replay(start, named, floor=0.9, last_step=17) == decisions(readings)[-1]
    assert start == Steering(switch_step=3)


@given(bounds)
def test_a_lower_bound_is_never_answered_more_boldly(bound):
    order = ["keep", "tighten", "back_up"]
    state = Steering(switch_step=3, bound=0.97)
    lower, upper = (
        steer(state, Reading(bound=each, reward=0.1), floor=0.9, last_step=17).action for each in (bound - 0.02, bound)
    )
    assert order.index(lower) >= order.index(upper)


@pytest.mark.parametrize(
    ("before", "bound", "action", "switch_step", "rate_scale"),
    [
        (1.00, 0.96, "keep", 9, 1.0),
        (1.00, 0.94, "tighten", 11, 1.0),
        (0.93, 0.94, "keep", 9, 1.0),
        (1.00, 0.90, "back_up", 11, 0.5),
        (1.00, 0.70, "back_up", 11, 0.5),
    ],
)
def test_the_actions_by_example(before, bound, action, switch_step, rate_scale):
    """A fall that would cross the floor if it came again tightens; a rise predicts nothing. From 9 of 17 to 11."""
    state = Steering(switch_step=9, bound=before)
    decision = steer(state, Reading(bound=bound, reward=0.1), floor=0.9, last_step=17)
    after = decision.steering
    assert (decision.action, after.switch_step, after.rate_scale) == (action, switch_step, rate_scale)


def test_a_tripped_monitor_halves_the_rate_and_leaves_the_switch_step():
    state = Steering(switch_step=9, bound=0.97)
    reading = Reading(bound=0.96, reward=0.1, monitors_tripped=("edge_density",))
    decision = steer(state, reading, floor=0.9, last_step=17)
    assert (decision.action, decision.steering.switch_step, decision.steering.rate_scale) == ("back_up", 9, 0.5)
    assert "edge_density tripped; back to the base" in decision.reason


def test_a_run_that_starts_from_a_policy_keeps_it_if_it_is_sound():
    good, bad = Reading(bound=0.95, reward=0.1, candidate="a/1"), Reading(bound=0.85, reward=0.2, candidate="a/2")
    assert Steering.start(good, switch_step=2, floor=0.9).kept == good
    assert Steering.start(bad, switch_step=2, floor=0.9).kept == BASE
    assert (
        Steering.start(good.model_copy(update={"monitors_tripped": ("edge_density",)}), switch_step=2, floor=0.9).kept
        == BASE
    )


def test_a_run_that_has_stopped_is_not_steered_and_no_reading_is_no_decision():
    with pytest.raises(ValueError, match="has stopped"):
        steer(Steering(switch_step=0, stopped=True), BASE, floor=0.9, last_step=17)
    with pytest.raises(ValueError, match="no evaluation"):
        replay(Steering(switch_step=0), [], floor=0.9, last_step=17)


def outcomes(plant, rule, switch_step, speed):
    step_size = speed * plant.training_to(0.1, switch_step)
    return [
        simulate(plant, rule, seed=seed, switch_step=switch_step, step_size=step_size, num_evaluations=10)
        for seed in range(60)
    ]


@pytest.mark.parametrize(
    ("plant", "switch_step"),
    [(MEASURED, 0), (MEASURED, 1), (MEASURED, 9), (LATE, 0), (LATE, 1), (LATE, 9), (EARLY, 0)],
)
@pytest.mark.parametrize("speed", [0.3, 1.0, 3.0])
def test_in_a_simulation_the_floor_is_crossed_less_and_the_reward_above_it_is_higher(plant, switch_step, speed):
    """Noisy evaluations of a plant whose diversity falls as its reward rises, against a run that nothing steers."""
    steered, free = (outcomes(plant, rule, switch_step, speed) for rule in (ours, nothing))

    def crossed(runs):
        return fmean(fmean(reading.bound <= FLOOR for reading in run.readings) for run in runs)

    assert crossed(steered) < crossed(free)
    assert fmean(run.reward for run in steered) > fmean(run.reward for run in free)


def test_the_switch_step_is_worth_moving_where_there_is_one():
    """Split from the first step on, the rate alone cannot leave the next ones to the base."""
    steered, slower = (outcomes(MEASURED, rule, 1, 1.0) for rule in (ours, only_rate))
    assert fmean(run.reward for run in steered) > 1.2 * fmean(run.reward for run in slower)


def test_where_early_steps_earn_the_policy_is_worth_leaving_whole():
    whole, split = (outcomes(EARLY, rule, 0, 1.0) for rule in (ours, also_without_a_split))
    assert fmean(run.reward for run in whole) > 1.2 * fmean(run.reward for run in split)
