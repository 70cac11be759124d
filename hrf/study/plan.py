"""Which runs a study consists of, how long each is, and where it is measured."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hrf.config import Config
from hrf.config.inputs import input_digests
from hrf.errors import ConfigError
from hrf.storage.folders import canonical_json
from hrf.study.definition import Study

FEWEST_EPOCHS = 2
"""Of a run: a schedule of windows has two, and a curve of a single point says little."""
TotalCost = Callable[[Config], Sequence[float]]
"""A configuration -> the denoiser evaluations that it has cost after each of its epochs, one entry per epoch."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """Another way to sample what a run trains."""

    arm: str
    config: Config
    strengths: tuple[float, ...] = ()
    """At which the run's end is measured, as the run itself samples; none: another way, at each of the run's points."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One arm on one reward with one seed."""

    arm: str
    reward: str
    seed: int
    config: Config
    measured_after: tuple[int, ...]
    """Numbers of trained epochs, rising; the last one is the run's length."""
    controls: tuple[Control, ...] = ()

    @property
    def name(self) -> str:
        """Its name in files and in object storage."""
        return run_name(self.arm, self.reward, self.seed)

    @functools.cached_property
    def digest(self) -> str:
        """Of what it does: another one if a configuration of it is edited, or what that names on this machine.

        What an attempt has left behind is gone on with under the same digest only.
        """
        asked = {arm: [config.digest(), input_digests(config)] for arm, config in self.configs.items()}
        fronts = [{front.arm: front.strengths} for front in self.fronts]
        return hashlib.sha256(canonical_json([asked, self.measured_after, *fronts])).hexdigest()[:16]

    @property
    def configs(self) -> dict[str, Config]:
        """The arms that it measures, its own first, with their configurations."""
        return {self.arm: self.config} | {control.arm: control.config for control in self.controls}

    @property
    def fronts(self) -> tuple[Control, ...]:
        """Those of its controls that are measured at several strengths, at its end."""
        return tuple(control for control in self.controls if control.strengths)

    @property
    def ways(self) -> list[str]:
        """The arms that are measured at each point, its own first."""
        fronts = [front.arm for front in self.fronts]
        return [arm for arm in self.configs if arm not in fronts]


def run_name(arm: str, reward: str, seed: int) -> str:
    """A run's name; neither part holds two hyphens in a row, so it can be taken apart again."""
    return f"{arm}--{reward}--{seed}"


def plan_runs(study: Study, cost: TotalCost) -> list[StudyRun]:
    """All runs: seed by seed and reward by reward all arms, so that a part of a study compares all of them.

    Raises:
        ConfigError: The budget does not buy an arm one epoch.
    """
    trained = [name for name, arm in study.arms.items() if not arm.weights_of]
    # No reward costs denoiser evaluations.
    lengths = {arm: _measured_after(study, arm, next(iter(study.rewards)), cost) for arm in trained}
    return [
        _run(study, arm, reward, seed, lengths[arm])
        for seed in study.seeds
        for reward in study.rewards
        for arm in trained
    ]


def _run(study: Study, arm: str, reward: str, seed: int, measured_after: tuple[int, ...]) -> StudyRun:
    epochs = measured_after[-1]
    controls = [name for name, other in study.arms.items() if other.weights_of == arm]
    return StudyRun(
        arm=arm,
        reward=reward,
        seed=seed,
        config=study.config(arm, reward, seed, epochs=epochs),
        measured_after=measured_after,
        controls=tuple(
            Control(
                arm=name,
                config=study.config(name, reward, seed, epochs=epochs),
                strengths=study.arms[name].strengths,
            )
            for name in controls
        ),
    )


def _measured_after(study: Study, arm: str, reward: str, cost: TotalCost) -> tuple[int, ...]:
    """After how many epochs an arm has spent each part of the budget, as nearly as whole epochs allow."""

    def spent_by(epochs: int) -> Sequence[float]:
        return cost(study.config(arm, reward, study.seeds[0], epochs=epochs))

    # Windows move, so epochs differ in cost: the first guess is put right from both sides.
    epochs = max(FEWEST_EPOCHS, int(study.budget * FEWEST_EPOCHS // spent_by(FEWEST_EPOCHS)[-1]))
    while epochs > FEWEST_EPOCHS and spent_by(epochs)[-1] > study.budget:
        epochs -= 1
    while spent_by(epochs + 1)[-1] <= study.budget:
        epochs += 1
    spent = spent_by(epochs)
    if spent[-1] > study.budget:
        raise ConfigError(
            "budget",
            expected=f"at least {spent[-1]:.0f} denoiser evaluations, the cost of {epochs} epochs of {arm}",
            got=study.budget,
            fix="raise it, or leave the arm out",
        )
    points = study.arms[arm].points or study.points
    parts = [spent[-1] * point / points for point in range(1, points + 1)]
    nearest = [min(range(epochs), key=lambda epoch: abs(spent[epoch] - part)) + 1 for part in parts]
    return tuple(sorted(set(nearest)))
