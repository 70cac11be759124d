"""The tables of a study's page.

`table` has the rows of one reward, `base` is the base's reward, `unit` that of rewards, `reference` the arm that others
are compared with, and `compared` ends in arm -> comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hrf.report.formatting import ABSENT, count, duration, in_unit, number, with_unit, words
from hrf.report.page import Cell, Table
from hrf.report.tables import flatten
from hrf.study.definition import Study
from hrf.study.matching import RATIO, Comparison, Mean, mean_over_seeds

QUANTITY_NAMES = {
    RATIO: "Diversity ratio",
    "coverage": "Coverage",
    "mode_entropy": "Mode entropy",
    "unrecognised_fraction": "Unrecog\u00adnised",
}
DECIMALS = 3
"""Of all that is measured: two hide on which side of 0 the end of a short interval lies."""
SMALLER_IS_BETTER = frozenset({"unrecognised_fraction"})


def changes(values: Mapping[str, Any]) -> str:
    """Part of a configuration on one line."""
    return "; ".join(f"{field}: {value}" for field, value in flatten(dict(values)))


def arm_table(study: Study, table: pd.DataFrame) -> Table:
    """What each arm is, what it changes, and what has been run of it."""
    rows: list[list[str | Cell]] = []
    num_wanted = len(study.rewards) * len(study.seeds)
    for name, arm in study.arms.items():
        own = table[table.arm == name]
        last = own.groupby(["reward_name", "seed"])[["evaluations", "wall_seconds"]].max()
        kind = [
            *(["reference"] if name == study.reference else []),
            *(["not in the comparison"] if arm.preliminary else []),
            *([f"samples what {arm.weights_of} has trained"] if arm.weights_of else []),
            *([f"at its end, at strengths {', '.join(map('{:g}'.format, arm.strengths))}"] if arm.strengths else []),
        ]
        rows.append(
            [
                Cell(name, detail=", ".join(kind)),
                arm.description,
                changes(arm.changes) or "nothing",
                ABSENT if arm.dial is None else f"{arm.dial:g}",
                f"{len(last)} of {num_wanted}",
                count(last.evaluations.mean()) if len(last) else ABSENT,
                duration(float(last.wall_seconds.mean())) if len(last) else ABSENT,
            ]
        )
    header = (
        "Arm",
        "What it is",
        "What it changes",
        "Dial",
        "Runs finished",
        "Denoiser evaluations a run",
        "Time a run",
    )
    return Table(caption="Arms; evaluations and times are means over runs", header=header, rows=rows, is_text=True)


def _mean_cell(mean: Mean | None, *, sign: bool = False) -> str | Cell:
    if mean is None:
        return ABSENT
    text = number(mean.value, DECIMALS, sign=sign)
    if mean.low is None or mean.high is None:
        return Cell(text, detail="one seed")
    return Cell(text, detail=f"[{number(mean.low, DECIMALS, sign=sign)}, {number(mean.high, DECIMALS, sign=sign)}]")


def _difference_cell(mean: Mean | None, *, smaller_is_better: bool = False) -> str | Cell:
    cell = _mean_cell(mean, sign=True)
    if mean is None or isinstance(cell, str) or not mean.is_clear:
        return cell
    is_good = (mean.value > 0) != smaller_is_better
    return Cell(cell.text, "good" if is_good else "bad", cell.detail)


def _pair(comparison: Comparison, *, smaller_is_better: bool = False) -> list[str | Cell]:
    return [
        _mean_cell(comparison.mean),
        _difference_cell(comparison.difference, smaller_is_better=smaller_is_better),
    ]


def _ordered(compared: Mapping[str, Comparison], reference: str) -> list[str]:
    """The arms that have a mean: the reference, then the others by their mean."""
    means = {arm: comparison.mean.value for arm, comparison in compared.items() if comparison.mean is not None}
    return sorted(means, key=lambda arm: (arm != reference, -means[arm]))


def _left_out(compared: Mapping[str, Comparison]) -> str:
    """The arms that have no mean, as the end of a caption."""
    reached = [f"{arm} ({one.num_reached} of {one.num_runs})" for arm, one in compared.items() if one.mean is None]
    return f". Not reached by all runs of {', '.join(reached)}" if reached else ""


def matched_reward_table(
    compared: Mapping[str, Mapping[str, Comparison]], *, level: float, base: float, unit: str, reference: str
) -> Table:
    """Diversity of all arms where the gain first reaches a level."""
    header = ["Arm"]
    for name in compared:
        header += [QUANTITY_NAMES[name], f"less {reference}"]
    rows: list[list[str | Cell]] = []
    for arm in _ordered(compared[RATIO], reference):
        row: list[str | Cell] = [Cell(arm, detail="reference" if arm == reference else "")]
        for name, arms in compared.items():
            row += _pair(arms[arm], smaller_is_better=name in SMALLER_IS_BETTER)
        rows.append(row)
    gain, reward = with_unit(f"{level:g}", unit), with_unit(number(base + level, 3), unit)
    caption = f"Diversity at matched reward: where the gain first reaches {gain} (reward {reward})"
    caption += _left_out(compared[RATIO])
    return Table(caption=caption, header=header, rows=rows)


def matched_diversity_table(
    compared: Mapping[float, Mapping[str, Comparison]], *, unit: str, reference: str
) -> Table | None:
    """Largest gain of all arms at which the diversity ratio is at least a level."""
    if not compared:
        return None
    header = ["Arm"]
    for level in compared:
        header += [in_unit(f"Gain at ratio {level:g}", unit), f"less {reference}"]
    rows: list[list[str | Cell]] = []
    for arm in _ordered(next(iter(compared.values())), reference):
        row: list[str | Cell] = [Cell(arm, detail="reference" if arm == reference else "")]
        for arms in compared.values():
            row += _pair(arms[arm])
        rows.append(row)
    caption = "Reward at matched diversity: the largest gain at which the diversity ratio is at least the level"
    return Table(caption=caption, header=header, rows=rows)


def last_promoted(table: pd.DataFrame) -> pd.DataFrame:
    """The row of each run at which the gate promoted last; runs that promoted nothing have none."""
    return table[table.promoted == 1].sort_values("point").groupby(["arm", "reward_name", "seed"]).tail(1)


def promotion_table(table: pd.DataFrame, gains: Mapping[str, Comparison], *, unit: str, reference: str) -> Table:
    """What a user of each arm ends up with: the models that the gate promoted last."""
    header = (
        "Arm",
        "Runs that promoted",
        in_unit("Gain promoted", unit),
        f"less {reference}",
        "Diversity ratio promoted",
        "Lowest lower end of its interval",
    )
    last = last_promoted(table)
    rows: list[list[str | Cell]] = []
    for arm in _ordered(gains, reference):
        own = last[last.arm == arm]
        rows.append(
            [
                Cell(arm, detail="reference" if arm == reference else ""),
                f"{len(own)} of {gains[arm].num_runs}",
                *_pair(gains[arm]),
                _mean_cell(mean_over_seeds(own.vendi_order2_ratio) if len(own) else None),
                number(own.vendi_order2_ratio_low.min(), DECIMALS) if len(own) else ABSENT,
            ]
        )
    caption = "What the gate promoted last: a run that promoted nothing counts as gain 0"
    return Table(caption=caption, header=header, rows=rows)


def last_point_table(table: pd.DataFrame, last: Sequence[Any], num_seeds: int, *, base: float, unit: str) -> Table:
    """Where each arm ends."""
    header = (
        "Arm",
        "Runs",
        "Denoiser evaluations",
        in_unit("Reward", unit),
        in_unit("Gain", unit),
        "Diversity ratio",
        *(QUANTITY_NAMES[name] for name in QUANTITY_NAMES if name != RATIO),
        "Points promoted",
    )
    rows: list[list[str | Cell]] = []
    for point in last:
        own = table[(table.arm == point.arm) & (table.point > 0)]
        rows.append(
            [
                point.arm,
                f"{own.seed.nunique()} of {num_seeds}",
                count(point.evaluations),
                number(base + point.gain.value, DECIMALS),
                _mean_cell(point.gain, sign=True),
                *(_mean_cell(point.quantities.get(name)) for name in QUANTITY_NAMES),
                f"{int(own.promoted.sum())} of {len(own)}",
            ]
        )
    return Table(caption="At the end of the budget: means over seeds with 95% intervals", header=header, rows=rows)


def monitor_table(table: pd.DataFrame) -> Table | None:
    """In how many measurements of an arm each drift monitor tripped, where one did; None if none ever did."""
    measured = table[table.point > 0]
    tripped = measured.monitors_tripped.str.split("+")
    names = sorted({name for row in tripped for name in row if name})
    if not names:
        return None
    rows: list[list[str | Cell]] = []
    for arm, own in measured.groupby("arm", sort=False):
        counts = [sum(name in row for row in tripped[own.index]) for name in names]
        if any(counts):
            cells = [Cell(str(times), "bad" if times else "muted") for times in counts]
            rows.append([str(arm), str(len(own)), *cells])
    header = ("Arm", "Measurements", *(words(name) for name in names))
    return Table(caption="Measurements in which a drift monitor tripped; no other arm's did", header=header, rows=rows)


def decision_table(run: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """What a run's diversity floor decided: a record per evaluation, whose nested values are named by their path."""
    flat = [dict(flatten(dict(record))) for record in records]
    header = list(dict.fromkeys(name for record in flat for name in record))
    rows = [[str(record.get(name, ABSENT)) for name in header] for record in flat]
    return Table(caption=f"{run}: what the diversity floor decided", header=header, rows=rows, is_text=True)
