"""How well the rule of `hrf.promotion.floor` spends a diversity budget, against other rules and against fixed settings.

    python -m benchmarks.floor        # a minute on one core

A simulated run has a hidden amount of training w. From a switch step s on it earns the reward R(s) w, and it costs the
share D(s) w² of the base's diversity; an evaluation measures both with an error. R and D are drawn after runs of the
shipped model that were sampled at later and later switch steps; in a second plant late steps earn nearly all of the
reward, so that a later switch step pays, and in a third early ones do, as where the reward is a kind of picture: such a
policy is not split (its switch step is 0, and stays). The runs differ in how fast they train. A candidate of strength a
is one of the amount a w.

Printed is the best reward above the floor that a run has seen, over that of the fixed switch step and learning rate
that is best on average at this speed: 1 means that the rule, without a search, was as good as that.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from benchmarks.made_up import front_point
from hrf.evaluation.record import FrontPoint
from hrf.promotion.floor import (
    BASE,
    MOST_BACK_UPS,
    SMALLEST_STRENGTH,
    Reading,
    Steering,
    SteeringDecision,
    steer,
)
from hrf.promotion.strongest import choose, search

NUM_TRAINED_STEPS = 18
FLOOR = 0.9
REPETITIONS = 200
NUM_EVALUATIONS = (5, 10)
SPEEDS = (1 / 6, 1 / 3, 2 / 3, 4 / 3, 3)
"""Training of one evaluation's epochs at the configured settings, over that which costs a tenth of the diversity."""
LAST_STEP = NUM_TRAINED_STEPS - 1
NUM_STRENGTHS = 3
"""Beside 1, of the rule that measures several."""
LATER_STEPS, RATE_SCALES = (6, 10, 13, 15, 16), (1, 0.5, 0.25, 0.125)

Rule = Callable[[Steering, Reading], SteeringDecision]


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What of reward and diversity depends on which steps are tuned."""

    exponent: float

    def gain(self, switch_step: int) -> float:
        """R(s): the share of trained steps from s on, to a power."""
        return float((1 - switch_step / NUM_TRAINED_STEPS) ** self.exponent)

    def loss(self, switch_step: int) -> float:
        """D(s): the first steps, which choose the kind of picture, cost most."""
        return 19.5 * (1 - switch_step / NUM_TRAINED_STEPS) + 80 * math.exp(-switch_step / 3)

    def training_to(self, lost: float, switch_step: int) -> float:
        """The w that costs a share of the diversity."""
        return math.sqrt(-math.log1p(-lost) / self.loss(switch_step))


MEASURED, LATE, EARLY = Plant(exponent=0.7), Plant(exponent=0.3), Plant(exponent=4.0)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated run came to."""

    reward: float
    """The best above the floor."""
    readings: tuple[Reading, ...]


def simulate(
    plant: Plant,
    rule: Rule,
    *,
    seed: int,
    switch_step: int,
    step_size: float,
    num_evaluations: int,
) -> Outcome:
    """One run of a plant under a rule.

    Args:
        plant: What is trained.
        rule: What decides.
        seed: Of the run's noise.
        switch_step: Where the rule starts from.
        step_size: Training of one evaluation's epochs at the configured rate.
        num_evaluations: At most.
    """
    noise = random.Random(seed)
    cost, bias = math.exp(noise.gauss(0, 0.3)), noise.gauss(0, 1)
    weights: dict[str | None, float] = {BASE.candidate: 0.0}
    state, readings, training = Steering(switch_step=switch_step), [], 0.0
    while len(readings) < num_evaluations and not state.stopped:
        # One time in ten, training does harm.
        progress = math.exp(noise.gauss(0, 0.4)) if noise.random() > 0.1 else -0.3
        training = max(0.0, training + step_size * state.rate_scale * progress)
        loss, gain = cost * plant.loss(state.switch_step), plant.gain(state.switch_step)

        def measured(strength: float, loss: float = loss, gain: float = gain, amount: float = training) -> Reading:
            lost = 1 - math.exp(-loss * (strength * amount) ** 2)
            width = 0.02 + 0.15 * lost
            return Reading(
                # All evaluations have the same seeds, and so most of their error in common.
                bound=1 - lost + bias * width / 2 - width + noise.gauss(0, 0.004),
                reward=0.3 * (1 - math.exp(-gain * strength * amount / 0.3)) + noise.gauss(0, 0.002),
                candidate=str(len(readings)),
                strength=strength,
            )

        reading = _strongest(measured) if rule is by_strength else measured(1.0)
        weights[reading.candidate] = reading.strength * training
        readings.append(reading)
        decision = rule(state, reading)
        state = decision.steering
        if decision.action == "back_up":
            training = weights[state.kept.candidate]
    best = max((reading.reward for reading in readings if reading.bound > FLOOR), default=0.0)
    return Outcome(reward=max(0.0, best), readings=tuple(readings))


def _strongest(measured: Callable[[float], Reading]) -> Reading:
    """What is read off the strongest candidate that keeps the floor."""
    found: dict[float, Reading] = {}

    def measure(strength: float) -> FrontPoint:
        found[strength] = measured(strength)
        return front_point(strength, bound=found[strength].bound, gain=found[strength].reward)

    front = search(measure, floor=FLOOR, most=NUM_STRENGTHS, smallest=SMALLEST_STRENGTH)
    return found[choose(front, floor=FLOOR).strength]


def ours(state: Steering, reading: Reading) -> SteeringDecision:
    """The rule."""
    return steer(state, reading, floor=FLOOR, last_step=LAST_STEP if state.switch_step else 0)


def by_strength(state: Steering, reading: Reading) -> SteeringDecision:
    """The rule where candidates are measured at several strengths."""
    return steer(state, reading, floor=FLOOR, last_step=LAST_STEP if state.switch_step else 0, by_strength=True)


def only_rate(state: Steering, reading: Reading) -> SteeringDecision:
    """The switch step stays."""
    return steer(state, reading, floor=FLOOR, last_step=state.switch_step)


def also_without_a_split(state: Steering, reading: Reading) -> SteeringDecision:
    """The switch step moves also where there is none yet."""
    return steer(state, reading, floor=FLOOR, last_step=LAST_STEP)


def only_switch(state: Steering, reading: Reading) -> SteeringDecision:
    """The learning rate stays."""
    decision = ours(state, reading)
    return _with_back_ups(decision, 0)


def both_when_near(state: Steering, reading: Reading) -> SteeringDecision:
    """The rate is halved whenever the switch step moves."""
    decision = ours(state, reading)
    if decision.action != "tighten" or state.num_back_ups == MOST_BACK_UPS:
        return decision
    return _with_back_ups(decision, state.num_back_ups + 1)


def _with_back_ups(decision: SteeringDecision, count: int) -> SteeringDecision:
    steering = decision.steering.model_copy(update={"num_back_ups": count, "rate_scale": 0.5**count})
    return decision.model_copy(update={"steering": steering})


def no_look_ahead(state: Steering, reading: Reading) -> SteeringDecision:
    """Nothing is done before the floor is crossed."""
    return ours(state.model_copy(update={"bound": reading.bound}), reading)


def nothing(state: Steering, reading: Reading) -> SteeringDecision:
    """The settings stay, and the weights are never those of before."""
    return SteeringDecision(action="keep", reason="", reading=reading, floor=FLOOR, steering=state)


RULES: dict[str, Rule] = {
    "this rule": ours,
    "by strength": by_strength,
    "also without a split": also_without_a_split,
    "only the rate": only_rate,
    "only the switch step": only_switch,
    "both when near": both_when_near,
    "no look ahead": no_look_ahead,
    "nothing, as configured": nothing,
}


def mean_reward(plant: Plant, rule: Rule, *, switch_step: int, step_size: float, num_evaluations: int) -> float:
    """Mean of the best reward above the floor over runs."""
    runs = (
        simulate(
            plant,
            rule,
            seed=seed,
            switch_step=switch_step,
            step_size=step_size,
            num_evaluations=num_evaluations,
        )
        for seed in range(REPETITIONS)
    )
    return fmean(run.reward for run in runs)


def best_fixed(plant: Plant, *, switch_step: int, step_size: float, num_evaluations: int) -> float:
    """Mean reward of the fixed settings that are best."""
    return max(
        mean_reward(plant, nothing, switch_step=step, step_size=step_size * rate, num_evaluations=num_evaluations)
        for step in (switch_step, *(later for later in LATER_STEPS if later > switch_step))
        for rate in RATE_SCALES
    )


def main() -> None:
    """Print a table: a row per rule, a column per plant and configured switch step."""
    columns = [(name, plant, step) for name, plant in (("measured", MEASURED), ("late", LATE)) for step in (1, 9)]
    columns += [("early", EARLY, 0)]
    print_row = sys.stdout.write
    print_row(f"{'rule':24}" + "".join(f"{f'{name}, switch {step}':>20}" for name, _, step in columns) + "\n")
    cases = [
        {"switch_step": step, "step_size": speed * plant.training_to(0.1, step), "num_evaluations": count}
        for _, plant, step in columns
        for speed in SPEEDS
        for count in NUM_EVALUATIONS
    ]
    per_column = len(SPEEDS) * len(NUM_EVALUATIONS)
    plants = [plant for _, plant, _ in columns for _ in range(per_column)]
    reachable = [best_fixed(plant, **case) for plant, case in zip(plants, cases, strict=True)]
    for name, rule in RULES.items():
        shares = [
            mean_reward(plant, rule, **case) / most for plant, case, most in zip(plants, cases, reachable, strict=True)
        ]
        means = [fmean(shares[at : at + per_column]) for at in range(0, len(shares), per_column)]
        print_row(f"{name:24}" + "".join(f"{mean:20.2f}" for mean in means) + "\n")


if __name__ == "__main__":
    main()
