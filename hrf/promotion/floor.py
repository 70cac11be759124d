"""A diversity budget: after every evaluation, may the run go on as it does? A pure rule: state in, decision out.

The rule watches the lower end of the interval of the candidate's diversity ratio to the base, its *bound*, and keeps it
above a floor; and it watches the drift monitors, since the gate promotes nothing that trips one, and a run that goes on
from there only drifts further. It has two dials and turns them one way only: the switch step moves towards clean
starts, so that more of the denoising is the base's, and the learning rate is halved. Without a split policy there is no
switch step, and the rate is the only dial: so it is for rewards that the early steps decide.

    keep      the bound is far enough from the floor
    tighten   it nears the floor: one more evaluation like the last would cross it. A later switch step, same weights
    back_up   it has crossed: a later switch step and half the rate, from the best sound candidate. Where a monitor has
              tripped and the floor holds, half the rate alone: the choice of mode, which a later switch step guards
              and which costs reward, is not what went wrong
    stop      that has happened once too often, or the reward has not risen for `PATIENCE` sound evaluations

Where candidates are measured at several strengths (`evaluation.num_strengths`), their strength comes before both
dials, as it is exact, costs no training and can be turned back: the reading is that of the strongest candidate that is
sound. As long as there is one of `SMALLEST_STRENGTH` or more, the run keeps training its whole weights, and only its
candidates grow weaker. Where there is none, the run has gone too far, and the rule is what it is without strengths.

An evaluation is *sound* if its bound is above the floor and no monitor has tripped.

The state is a fold of the rule over a run's readings (`replay`), so nothing has to be remembered beside the records of
its evaluations, and a run that resumes decides as it would have. Source: ours; `benchmarks.floor` compares it with
others in a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from hrf.promotion.strongest import GRID
from hrf.storage.records import Record

Action = Literal["keep", "tighten", "back_up", "stop"]
PATIENCE = 3
"""Sound evaluations in a row that are not better than the best: after them nothing more is to be gained."""
MOST_BACK_UPS = 6
"""The rate is then 1/64 of the configured one: what goes wrong even so will go wrong again."""
TIGHTENING = 0.25
"""Share of the way from the switch step to the last possible one that it moves at a time."""

SMALLEST_STRENGTH = 0.25
"""Of a candidate under a floor: where less of what was learnt is sound, training has left the base for good."""


def smallest_strength(steered: bool) -> float:
    """The smallest strength that is measured of a candidate, of a run with a diversity floor or of another."""
    return SMALLEST_STRENGTH if steered else 1 / GRID


class Reading(Record):
    """What the rule reads off one evaluation."""

    bound: float
    """Lower end of the order-2 Vendi score's ratio to the base's."""
    reward: float
    """Mean reward less the base's, on the same seeds."""
    candidate: str | None = None
    """Whose it is, as `RUN/epoch-0003`; None for the base."""
    monitors_tripped: tuple[str, ...] = ()
    strength: float = 1.0
    """At which it was measured."""

    def is_sound(self, floor: float) -> bool:
        """Whether the bound is above the floor and no monitor has tripped."""
        return self.bound > floor and not self.monitors_tripped


BASE = Reading(bound=1.0, reward=0.0)
"""Of the base itself: where a run is before it has learnt anything."""


class Steering(Record):
    """Where a run under a diversity floor stands."""

    switch_step: int
    """Steps before it are the base's; episodes start there or later."""
    num_back_ups: int = 0
    bound: float = BASE.bound
    """Of the weights that training goes on from."""
    kept: Reading = BASE
    """The best reward of a sound evaluation so far: where the run backs up to."""
    num_stalled: int = 0
    """Sound evaluations in a row that were not better than the kept one."""
    stopped: bool = False
    rate_scale: float = 1.0
    """Factor of the configured learning rate, in (0, 1]: each back-up has halved it."""

    @classmethod
    def start(cls, reading: Reading, *, switch_step: int, floor: float) -> Steering:
        """The state of a run that starts from a policy: what is kept is that one, or the base if it is not sound."""
        kept = reading if reading.is_sound(floor) else BASE
        return cls(switch_step=switch_step, bound=reading.bound, kept=kept)


class SteeringDecision(Record):
    """What the rule says after one evaluation: `steering.json`."""

    action: Action
    reason: str
    """The rule with its numbers."""
    reading: Reading
    """What it was taken on."""
    floor: float
    steering: Steering
    """The state after it: how the run goes on."""


def steer(
    state: Steering, reading: Reading, *, floor: float, last_step: int, by_strength: bool = False
) -> SteeringDecision:
    """Decide how a run goes on after an evaluation.

        b <= f, or a monitor has tripped
                      back up    b: the bound, b': that of the weights before, f: the floor
        by strength   keep       it was weakened until it was sound, and the next one can be
        2b - b' <= f  tighten    another fall like the last
        else          keep

    Args:
        state: Where the run stands.
        reading: The evaluation.
        floor: What the bound must exceed, in (0, 1).
        last_step: The last switch step that leaves a window to start from, 0 without a split; the rule does not go
            past it.
        by_strength: Whether candidates are measured at several strengths, of which the reading is the strongest sound
            one's, or the weakest's if none is.

    Returns:
        The decision with the state after it. On `back_up` the run goes on from `steering.kept`, which is sound;
        otherwise from the weights that were evaluated.

    Raises:
        ValueError: If the run has stopped.
    """
    if state.stopped:
        raise ValueError("a run that has stopped is not steered")
    sound, crossed = reading.is_sound(floor), reading.bound <= floor
    better = sound and reading.reward > state.kept.reward
    kept = reading if better else state.kept
    num_stalled = 0 if better else state.num_stalled + sound
    after = {**dict(state), "bound": reading.bound, "kept": kept, "num_stalled": num_stalled}
    later = max(state.switch_step, state.switch_step + math.ceil((last_step - state.switch_step) * TIGHTENING))
    predicted = 2 * reading.bound - state.bound
    numbers = f"bound {reading.bound:.3f}, floor {floor:.3g}: "

    def decision(action: Action, reason: str, **changes: Any) -> SteeringDecision:
        steering = Steering(**{**after, **changes})
        return SteeringDecision(action=action, reason=numbers + reason, reading=reading, floor=floor, steering=steering)

    wrong = "crossed" if crossed else f"{', '.join(reading.monitors_tripped)} tripped"
    if not sound and state.num_back_ups == MOST_BACK_UPS:
        return decision("stop", f"{wrong} after {MOST_BACK_UPS} halvings of the learning rate", stopped=True)
    if not sound:
        switch_step = later if crossed else state.switch_step
        back = {"num_back_ups": state.num_back_ups + 1, "rate_scale": state.rate_scale / 2, "bound": kept.bound}
        goal = f"{kept.candidate or 'the base'}, whose bound is {kept.bound:.3f}"
        return decision(
            "back_up", f"{wrong}; back to {goal}, at half the learning rate", switch_step=switch_step, **back
        )
    if num_stalled >= PATIENCE:
        return decision("stop", f"the reward has not risen for {num_stalled} evaluations", stopped=True)
    if by_strength:
        return decision("keep", f"at strength {reading.strength:.3g}")
    if predicted > floor:
        return decision("keep", "far enough")
    near = f"another evaluation like this one would bring it to {predicted:.3f}"
    if later == state.switch_step:
        return decision("keep", f"{near}, and the switch step moves no further")
    return decision("tighten", near, switch_step=later)


def replay(
    state: Steering, readings: Iterable[Reading], *, floor: float, last_step: int, by_strength: bool = False
) -> SteeringDecision:
    """The last decision of a run: the rule applied to all of its readings in order.

    Raises:
        ValueError: If there is no reading, or one after the run has stopped.
    """
    decision = None
    for reading in readings:
        decision = steer(state, reading, floor=floor, last_step=last_step, by_strength=by_strength)
        state = decision.steering
    if decision is None:
        raise ValueError("no evaluation to decide on")
    return decision
