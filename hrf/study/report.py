"""The page of a study: one HTML file without outside requests, of as much as is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hrf.errors import ArtifactError
from hrf.report.formatting import count, duration, in_unit, number, words
from hrf.report.page import Figure, Table, render
from hrf.report.pictures import Picture, embed
from hrf.rewards import reward_unit
from hrf.study import figures, tables
from hrf.study.definition import Study
from hrf.study.matching import (
    QUANTITIES,
    RATIO,
    ArmPoint,
    Comparison,
    Curve,
    arm_points,
    compare,
    default_gains,
    read_curves,
)
from hrf.study.table import MODE, read_table

STUDY_FILE = "study.yaml"
PICTURES, DECISIONS = "pictures", "decisions"
ALL_PICTURES_BYTES = 2_600_000
"""Of the files; written as text they take a third more, and the page stays below 4 MB."""
MOST_PICTURE_BYTES = 200_000


@dataclass(frozen=True)
class RewardResults:
    """What a study found with one reward.

    Attributes:
        study: The definition.
        name: Of the reward in the study.
        rows: The table's rows of it.
    """

    study: Study
    name: str
    rows: pd.DataFrame

    @property
    def unit(self) -> str:
        """Of the reward; empty for a bare number."""
        return reward_unit(str(self.study.rewards[self.name].get("name", "")))

    @cached_property
    def curves(self) -> dict[str, dict[int, Curve]]:
        """Arm -> seed -> curve, in the order of the definition."""
        found = read_curves(self.rows, self.name)
        return {arm: found[arm] for arm in self.study.arms if arm in found}

    @cached_property
    def compared(self) -> dict[str, dict[int, Curve]]:
        """The curves of the arms that take part in the comparison."""
        return {arm: runs for arm, runs in self.curves.items() if not self.study.arms[arm].preliminary}

    @cached_property
    def points(self) -> list[ArmPoint]:
        """The points of the arms that are compared, as means over seeds."""
        return arm_points(self.compared)

    @cached_property
    def last_points(self) -> list[ArmPoint]:
        """Where each arm ends, the preliminary ones included."""
        return list({point.arm: point for point in arm_points(self.curves)}.values())

    @property
    def base_reward(self) -> float:
        """Mean reward of the base."""
        return float(self.rows[self.rows.point == 0].reward.iloc[0])

    @cached_property
    def gains(self) -> tuple[float, ...]:
        """Levels of gain at which diversities are compared."""
        given = self.study.matched.reward_gains.get(self.name)
        return given or default_gains(self.curves.get(self.study.reference, {}))

    def at_gain(self, level: float, quantity: str = RATIO) -> dict[str, Comparison]:
        """The arms' diversities, or another quantity, where the gain first reaches a level."""
        return compare(self.compared, lambda curve: curve.at_gain(quantity, level), reference=self.study.reference)

    def within_ratio(self, level: float) -> dict[str, Comparison]:
        """The arms' largest gains at which the diversity ratio is at least a level."""
        return compare(self.compared, lambda curve: curve.gain_within(level), reference=self.study.reference)

    def promoted(self) -> dict[str, Comparison]:
        """The arms' gains at what the gate promoted last."""
        return compare(self.compared, lambda curve: curve.promoted_gain, reference=self.study.reference)

    @property
    def measured_quantities(self) -> list[str]:
        """Those that the study measures."""
        return [name for name in QUANTITIES if not self.rows[name].isna().any()]


def read_results(study: Study, table: pd.DataFrame) -> list[RewardResults]:
    """The results by reward, in the definition's order; rewards and arms of which nothing is finished are left out."""
    known = table[table.arm.isin(list(study.arms))]
    found = [RewardResults(study, name, known[known.reward_name == name]) for name in study.rewards]
    return [results for results in found if len(results.rows)]


@dataclass(frozen=True, kw_only=True)
class RewardSection:
    """One reward's part of the page."""

    name: str
    curves: list[Figure]
    matched: list[Table]
    last: Table
    dial: list[Figure]
    modes: Figure
    monitors: Table | None
    pictures: list[Picture]
    single: list[Figure]


def render_study(folder: Path) -> str:
    """The page of a study folder as self-contained HTML under 4 MB.

    Args:
        folder: Holds study.yaml, table.csv and pictures; a table of a part of the runs makes a page of that part. A
            file decisions/ARM--REWARD--SEED.json, a list of records, is shown where there is one.

    Raises:
        ArtifactError: A file is absent or not what it should be.
        ConfigError: The definition is not valid.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ArtifactError(path, problem="it is absent", producer="hrf study", fix="give a study's folder")
    study = Study.from_yaml(path.read_text(encoding="utf-8"), origin=str(path))
    whole = read_table(folder)
    table = whole[whole.arm.isin(list(study.arms))]
    rewards = read_results(study, table)
    colours = figures.choose_colours(
        [name for name, arm in study.arms.items() if not arm.preliminary],
        study.reference,
        [results.points for results in rewards],
    )
    num_pictures = sum(len(results.curves) + 1 for results in rewards) or 1
    at_most_bytes = min(MOST_PICTURE_BYTES, ALL_PICTURES_BYTES // num_pictures)
    return render(
        "study.html",
        title="Study: " + study.description.strip(),
        study=study,
        extent=", ".join(
            f"{len(names)} {kind}{'' if len(names) == 1 else 's'}"
            for kind, names in (("arm", study.arms), ("reward", study.rewards), ("seed", study.seeds))
        ),
        notices=notices(study, whole),
        facts=facts(study, table),
        arms=tables.arm_table(study, table),
        sections=[section(results, colours, folder, at_most_bytes) for results in rewards],
        base=_picture(folder, "base", "Base", at_most_bytes),
        decisions=decisions(folder),
    )


def facts(study: Study, table: pd.DataFrame) -> list[tuple[str, str]]:
    """The study in a few lines."""
    spent = table.groupby(["arm", "reward_name", "seed"])[["evaluations", "wall_seconds"]].max()
    trained = spent[[not study.arms[arm].weights_of for arm, _, _ in spent.index]] if len(spent) else spent
    return [
        ("Rewards", ", ".join(study.rewards)),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Budget of a run", f"{count(study.budget)} denoiser evaluations, measured at {study.points} points"),
        ("Reference", study.reference),
        ("Preset of all arms", study.preset),
        *([("Changed for all arms", tables.changes(study.overrides))] if study.overrides else []),
        ("Runs finished", f"{len(spent)} of {len(study.arms) * len(study.rewards) * len(study.seeds)}"),
        (
            "Spent",
            f"{count(trained.evaluations.sum())} denoiser evaluations, {duration(float(trained.wall_seconds.sum()))} of"
            " sampling, scoring and updating, added up over runs",
        ),
    ]


def notices(study: Study, table: pd.DataFrame) -> list[str]:
    """What stands between the table and the whole study; empty if nothing does."""
    finished = set(table[["arm", "reward_name", "seed"]].itertuples(index=False, name=None))
    missing: dict[str, list[str]] = {}
    for reward in study.rewards:
        for arm in study.arms:
            seeds = [str(seed) for seed in study.seeds if (arm, reward, seed) not in finished]
            if seeds:
                which = "" if len(seeds) == len(study.seeds) else f" (seed{'s'[: len(seeds) > 1]} {', '.join(seeds)})"
                missing.setdefault(reward, []).append(f"{arm}{which}")
    found = [f"Not finished on {reward}: {', '.join(arms)}." for reward, arms in missing.items()]
    unknown = sorted({arm for arm, _, _ in finished if arm not in study.arms})
    if unknown:
        found.append(f"The table has arms that the definition has not: {', '.join(unknown)}. They are left out.")
    return found


def section(results: RewardResults, colours: Mapping[str, int], folder: Path, at_most_bytes: int) -> RewardSection:
    """One reward's part of the page."""
    study, unit, points = results.study, results.unit, results.points
    ratios = {level: results.within_ratio(level) for level in study.matched.diversity_ratios}
    at_gains = {
        level: {name: results.at_gain(level, name) for name in results.measured_quantities} for level in results.gains
    }
    positions = {name: arm.dial for name, arm in study.arms.items() if arm.dial is not None}
    by_ratio = tables.matched_diversity_table(ratios, unit=unit, reference=study.reference)
    base = results.base_reward
    return RewardSection(
        name=results.name,
        curves=[
            figures.against_evaluations(points, "", in_unit("Gain over the base", unit), colours),
            figures.against_evaluations(points, RATIO, "Diversity ratio to the base", colours),
            figures.plane(points, colours, unit, study.matched.diversity_ratios),
        ],
        matched=[
            *(
                tables.matched_reward_table(compared, level=level, base=base, unit=unit, reference=study.reference)
                for level, compared in at_gains.items()
            ),
            *([by_ratio] if by_ratio else []),
            tables.promotion_table(results.rows, results.promoted(), unit=unit, reference=study.reference),
        ],
        last=tables.last_point_table(results.rows, results.last_points, len(study.seeds), base=base, unit=unit),
        dial=figures.dial(
            positions,
            arm_points(results.curves),
            {level: compared[RATIO] for level, compared in at_gains.items()},
            unit,
        ),
        modes=figures.modes(mode_counts(results)),
        monitors=tables.monitor_table(results.rows),
        pictures=_pictures(results, folder, at_most_bytes),
        single=figures.beside_reference(results.compared, points, study.reference, unit),
    )


def mode_counts(results: RewardResults) -> dict[str, dict[str, float]]:
    """Mean number of samples by mode: of the base, and of each arm's last points."""
    columns = [name for name in results.rows.columns if name.startswith(MODE) and name != "mode_entropy"]
    if not columns:
        return {}
    rows = results.rows.sort_values("point")
    last = rows.groupby(["arm", "seed"]).tail(1).groupby("arm")[columns].mean()
    base = rows[rows.point == 0][columns].iloc[0]
    found = {"base": base, **{arm: last.loc[arm] for arm in results.curves}}
    return {row: {name.removeprefix(MODE): float(values[name]) for name in columns} for row, values in found.items()}


def _pictures(results: RewardResults, folder: Path, at_most_bytes: int) -> list[Picture]:
    """The last grid of each arm's first seed: the same evaluation seeds everywhere."""
    found = []
    for point in results.last_points:
        seed = next(iter(results.curves[point.arm]))
        gain, ratio = (number(mean.value, digits) for mean, digits in ((point.gain, 3), (point.ratio, 2)))
        caption = f"{point.arm}, training seed {seed} (mean of its seeds: gain {gain}, ratio {ratio})"
        found.append(_picture(folder, f"{point.arm}--{results.name}--{seed}", caption, at_most_bytes))
    return [picture for picture in found if picture is not None]


def _picture(folder: Path, name: str, caption: str, at_most_bytes: int) -> Picture | None:
    path = folder / PICTURES / f"{name}.png"
    alt = f"Samples from the evaluation seeds: {caption}"
    return embed(path if path.is_file() else None, alt=alt, caption=caption, at_most_bytes=at_most_bytes)


def decisions(folder: Path) -> list[Table]:
    """What diversity floors decided, run by run."""
    found = []
    for path in sorted((folder / DECISIONS).glob("*.json")):
        try:
            records: Sequence[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            found.append(tables.decision_table(words(path.stem.replace("--", ", ")), records))
        except (ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(
                path, problem=f"not a list of records: {error}", producer="hrf study", fix="remove it"
            ) from error
    return found
