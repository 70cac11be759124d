"""The answer to the study's question, made from the committed tables: a figure, a table and sentences.

    python -m benchmarks.results            # write them
    python -m benchmarks.results --check    # fail if they are not what the table gives

`benchmarks/studies/window.csv` is the table and `window.yaml` the definition; `benchmarks/results.yaml` says which arms
are shown and holds the five sentences, Jinja templates in which every number is a question to `Answers`. Levels of
matched reward and diversity are the first of each in the definition. A second paragraph tells what came of it on fresh
seeds, in the tables of `confirm` and `presets`, and the presets have a table of their own. The studies' own page has
every arm that has runs. What a user asks first, how much reward there is at a diversity, is answered by the tables of
`front`: a figure, a table and sentences for the README, and as many for the page.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from hrf.errors import ArtifactError, ConfigError
from hrf.report.charts import sheet
from hrf.report.formatting import MINUS, duration, number, with_unit
from hrf.report.page import TEMPLATES
from hrf.storage.yaml_text import parse_yaml
from hrf.study.definition import Study
from hrf.study.figures import mean_text, plane_chart
from hrf.study.matching import ArmPoint, Comparison, Curve, Mean, compare
from hrf.study.report import RewardResults, read_results
from hrf.study.table import read_table_file

PROJECT = Path(__file__).resolve().parents[1]
STUDY, TABLE = "benchmarks/studies/window.yaml", "benchmarks/studies/window.csv"
FRESH = ("confirm", "presets", "front")
"""Studies of the same folder, on seeds that had no part in the first."""
EARLY = 3000
"""Denoiser evaluations: what a user may wait for."""
WORDS, PAGE, FIGURE = "benchmarks/results.yaml", "docs/results.md", "docs/figures/study.svg"
BRIEF_PAGE, BRIEF_BEGIN, BRIEF_END = "README.md", "<!-- brief -->", "<!-- /brief -->"
FRONT_FIGURE, FRONT_BEGIN, FRONT_END = "docs/figures/front.svg", "<!-- front -->", "<!-- /front -->"
BEGIN, END = "<!-- study -->", "<!-- /study -->"
FRESH_BEGIN, FRESH_END = "<!-- fresh -->", "<!-- /fresh -->"
PRESETS_BEGIN, PRESETS_END = "<!-- presets -->", "<!-- /presets -->"
ARMS_PAGE = "benchmarks/studies/README.md"
ARMS_BEGIN, ARMS_END = "<!-- arms -->", "<!-- /arms -->"
NUM_SENTENCES = 5
WIDTH = 120
_FIGURE_LINE = (
    "![Diversity ratio against reward gain, one panel per reward, one path per arm from the base to the end of the "
    "budget.](figures/study.svg)"
)


class Shown(BaseModel):
    """A row of the README's table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str
    arm: str
    words: str
    """What the arm is, to somebody who has read no more than the README."""


class Words(BaseModel):
    """`benchmarks/results.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: tuple[str, ...] = Field(min_length=1)
    """Lines of the figure and rows of the table."""
    sentences: tuple[str, ...] = Field(min_length=NUM_SENTENCES, max_length=NUM_SENTENCES)
    """Templates of the first paragraph, which ask `study`."""
    front: tuple[Shown, ...] = Field(min_length=1)
    """Rows of the README's table, and lines of its figure."""
    brief: tuple[str, ...] = Field(min_length=1)
    """Templates of the README's, which ask `front`."""
    fresh: tuple[str, ...] = Field(min_length=1)
    """Templates of the second, which also ask `confirm` and `presets`."""


@dataclass(frozen=True)
class Told:
    """A mean over seeds as a sentence says it: `{{ ... }}` gives the value and its interval.

    Attributes:
        mean: None where not all runs reach the level.
        decimals: Digits after the point.
        sign: Whether positive numbers carry a plus.
        absent: What is said then.
    """

    mean: Mean | None
    decimals: int = 3
    sign: bool = False
    absent: str = "–"

    def __str__(self) -> str:
        return self.absent if self.mean is None else mean_text(self.mean, self.decimals, sign=self.sign)

    @property
    def value(self) -> str:
        """Without the interval."""
        return self.absent if self.mean is None else number(self.mean.value, self.decimals, sign=self.sign)

    @property
    def against_zero(self) -> str:
        """As it is said of a difference: with a word on it where the interval holds 0."""
        doubtful = self.mean is None or not self.mean.is_clear
        return f"{self} (can't be told from nought)" if doubtful else str(self)


class Answers:
    """What sentences may ask: of arms and rewards by the names that they have in the definition."""

    def __init__(self, study: Study, results: Mapping[str, RewardResults]) -> None:
        self.results = results
        self.study = study
        self.reference = study.reference
        self.rewards = list(results)

    @property
    def arms(self) -> list[str]:
        """Arms of the comparison that have runs of every reward."""
        return [arm for arm in self.study.arms if all(arm in one.compared for one in self.results.values())]

    def arms_of(self, reward: str) -> list[str]:
        """Arms of the comparison that have all seeds of a reward."""
        found = self.results[reward].compared
        return [arm for arm in self.study.arms if len(found.get(arm, ())) == len(self.study.seeds)]

    @cached_property
    def num_runs(self) -> int:
        """Runs in the table, controls included."""
        return sum(len(runs) for one in self.results.values() for runs in one.curves.values())

    @property
    def num_wanted(self) -> int:
        """Runs of the whole study, controls included."""
        return len(self.study.arms) * len(self.study.rewards) * len(self.study.seeds)

    @property
    def budget(self) -> str:
        """Of a run, in denoiser evaluations."""
        return f"{self.study.budget:,}"

    @property
    def time(self) -> str:
        """Spent on sampling, scoring and updates, added up over runs."""
        last = [one.rows.groupby(["arm", "seed"]).wall_seconds.max().reset_index() for one in self.results.values()]
        trained = [rows[[not self.study.arms[arm].weights_of for arm in rows.arm]] for rows in last]
        return duration(float(sum(rows.wall_seconds.sum() for rows in trained)))

    def unit(self, reward: str) -> str:
        """Of a reward; empty for a bare number."""
        return self.results[reward].unit

    def base(self, reward: str) -> str:
        """Reward of the base."""
        return number(self.results[reward].base_reward, 3)

    def last(self, arm: str, reward: str) -> ArmPoint:
        """Where an arm ends."""
        return next(point for point in self.results[reward].last_points if point.arm == arm)

    def gain(self, arm: str, reward: str) -> Told:
        """At the end of the budget."""
        return Told(self.last(arm, reward).gain, sign=True)

    def ratio(self, arm: str, reward: str) -> Told:
        """Diversity ratio at the end of the budget."""
        return Told(self.last(arm, reward).ratio)

    def quantity(self, name: str, arm: str, reward: str) -> Told:
        """Coverage, mode entropy or unrecognised fraction at the end of the budget."""
        return Told(self.last(arm, reward).quantities.get(name))

    def level(self, reward: str) -> float | None:
        """The gain at which diversities are compared; None if the reference gains nothing and no level is given."""
        return next(iter(self.results[reward].gains), None)

    @property
    def ratio_level(self) -> float:
        """The diversity ratio at which gains are compared."""
        return self.study.matched.diversity_ratios[0]

    def ratio_at_level(self, arm: str, reward: str) -> Told:
        """Diversity ratio where the gain first reaches the level."""
        return self._told(self._at_level(arm, reward), "mean")

    def ratio_less_reference(self, arm: str, reward: str) -> Told:
        """That less the reference's, paired by seed."""
        return self._told(self._at_level(arm, reward), "difference")

    def gain_within(self, arm: str, reward: str) -> Told:
        """Largest gain at which the diversity ratio is at least `ratio_level`."""
        return self._told(self.results[reward].within_ratio(self.ratio_level)[arm], "mean")

    def gain_less_reference(self, arm: str, reward: str) -> Told:
        """That less the reference's, paired by seed."""
        return self._told(self.results[reward].within_ratio(self.ratio_level)[arm], "difference")

    def reach(self, arm: str, reward: str, *, by: float = math.inf, sign: bool = False) -> Told:
        """Largest gain with a diversity ratio of at least `ratio_level`, on a run's path by so many evaluations.

        Without a limit, its end at several strengths counts as well.
        """
        return self._told(self._reach(arm, reward, by), "mean", sign=sign)

    def reach_less_reference(self, arm: str, reward: str) -> Told:
        """That, without a limit, less the reference's, paired by seed."""
        return self._told(self._reach(arm, reward, math.inf), "difference")

    def _reach(self, arm: str, reward: str, by: float) -> Comparison:
        curves = self.results[reward].curves
        fronts = {one.weights_of: name for name, one in self.study.arms.items() if one.strengths}
        parts = {
            name: {
                seed: [_until(curve, by)]
                # Strength 1 is the end of the path.
                + ([_then(curves[fronts[name]][seed], curve)] if by == math.inf and name in fronts else [])
                for seed, curve in curves[name].items()
            }
            for name in (arm, self.reference)
        }
        return compare(parts, self._best_within, reference=self.reference)[arm]

    def _best_within(self, curves: Sequence[Curve]) -> float | None:
        gains = [curve.gain_within(self.ratio_level) for curve in curves]
        return max((gain for gain in gains if gain is not None), default=None)

    def promoted(self, arm: str, reward: str) -> Told:
        """Gain of what the gate promoted last; 0 for a run that promoted nothing."""
        return self._told(self.results[reward].promoted()[arm], "mean", sign=True)

    def best_promoted(self, reward: str, *but: str) -> str:
        """The arm whose promoted models gain most, leaving some out."""
        means = {arm: one.mean.value for arm, one in self.results[reward].promoted().items() if one.mean is not None}
        return max((arm for arm in means if arm not in but), key=lambda arm: means[arm])

    def num_measured(self, arm: str) -> int:
        """Measurements of an arm while it trained, over all rewards and seeds."""
        return sum(len(one.rows[(one.rows.arm == arm) & (one.rows.point > 0)]) for one in self.results.values())

    def num_promoted(self, *arms: str) -> int:
        """Models of some arms that the gate promoted, over all rewards, seeds and points."""
        return len(self._promoted_rows(arms))

    def lowest_promoted_bound(self, *arms: str) -> str:
        """The lowest that the interval of a promoted model's diversity ratio begins, over the same."""
        return number(self._promoted_rows(arms).vendi_order2_ratio_low.min(), 3)

    def _promoted_rows(self, arms: Sequence[str]) -> pd.DataFrame:
        rows = pd.concat([one.rows for one in self.results.values()])
        return rows[rows.arm.isin(arms) & (rows.promoted == 1)]

    def _at_level(self, arm: str, reward: str) -> Comparison | None:
        level = self.level(reward)
        return None if level is None else self.results[reward].at_gain(level)[arm]

    @staticmethod
    def _told(comparison: Comparison | None, which: str, *, sign: bool = False) -> Told:
        if comparison is None:
            return Told(None)
        missed = f"reached by {comparison.num_reached} of {comparison.num_runs} runs"
        absent = missed if comparison.mean is None and which == "mean" else "–"
        return Told(getattr(comparison, which), sign=sign or which == "difference", absent=absent)


def _until(curve: Curve, evaluations: float) -> Curve:
    """The part of a curve that was measured after at most so many evaluations."""
    count = int(np.searchsorted(curve.evaluations, evaluations, side="right"))
    return replace(
        curve,
        points=curve.points[:count],
        evaluations=curve.evaluations[:count],
        gain=curve.gain[:count],
        quantities={name: values[:count] for name, values in curve.quantities.items()},
        promoted=curve.promoted if curve.promoted < count else 0,
    )


def _then(curve: Curve, other: Curve) -> Curve:
    """The points of a curve, and the last one of another curve of the same run."""
    quantities = {name: np.append(values, other.quantities[name][-1]) for name, values in curve.quantities.items()}
    return replace(
        curve,
        points=[*curve.points, other.points[-1]],
        evaluations=np.append(curve.evaluations, other.evaluations[-1]),
        gain=np.append(curve.gain, other.gain[-1]),
        quantities=quantities,
    )


def outputs(root: Path) -> dict[str, str]:
    """The files that the committed tables make: path below the root -> text.

    Args:
        root: The project's folder.

    Raises:
        ArtifactError: A table is absent or is none of its study.
        ConfigError: Definition or words are not valid.
    """
    words = Words.model_validate(parse_yaml((root / WORDS).read_text(encoding="utf-8"), origin=WORDS))
    study, results = _read(root, STUDY, TABLE)
    for name, one in results.items():
        unknown = [arm for arm in words.arms if arm not in one.compared]
        if unknown:
            known = f"arms of the comparison that have runs of {name}: {', '.join(one.compared)}"
            raise ConfigError(f"{WORDS}: arms", expected=known, got=unknown[0], fix="name one of them")
    answers = Answers(study, results)
    folder = Path(TABLE).parent
    fresh = {name: Answers(*_read(root, f"{folder}/{name}.yaml", f"{folder}/{name}.csv")) for name in FRESH}
    section = f"{_FIGURE_LINE}\n\n{table_of(answers, words.arms)}\n\n{paragraph(words.sentences, study=answers)}"
    page = _replaced((root / PAGE).read_text(encoding="utf-8"), BEGIN, END, section)
    page = _replaced(page, FRESH_BEGIN, FRESH_END, paragraph(words.fresh, study=answers, **fresh))
    page = _replaced(page, PRESETS_BEGIN, PRESETS_END, table_of(fresh["presets"], fresh["presets"].arms))
    studies = (root / ARMS_PAGE).read_text(encoding="utf-8")
    studies = _replaced(studies, ARMS_BEGIN, ARMS_END, all_arms_of(answers), path=ARMS_PAGE)
    front = fresh["front"]
    studies = _replaced(studies, FRONT_BEGIN, FRONT_END, all_arms_of(front), path=ARMS_PAGE)
    in_brief = f"{front_table_of(front, words.front)}\n\n{paragraph(words.brief, front=front)}"
    brief = (root / BRIEF_PAGE).read_text(encoding="utf-8")
    brief = _replaced(brief, BRIEF_BEGIN, BRIEF_END, in_brief, path=BRIEF_PAGE)
    return {
        FIGURE: figure_of(results, words.arms),
        FRONT_FIGURE: figure_of(front.results, tuple(dict.fromkeys(shown.arm for shown in words.front))),
        PAGE: page,
        BRIEF_PAGE: brief,
        ARMS_PAGE: studies,
    }


def _read(root: Path, definition: str, table: str) -> tuple[Study, dict[str, RewardResults]]:
    """A study and its results by reward."""
    study = Study.from_yaml((root / definition).read_text(encoding="utf-8"), origin=definition)
    return study, {one.name: one for one in read_results(study, read_table_file(root / table))}


def _replaced(page: str, begin: str, end: str, text: str, *, path: str = PAGE) -> str:
    """The page with a text between two markers, its minus signs as plain hyphens."""
    if begin not in page:
        raise ArtifactError(path, problem=f"it has no {begin}", fix=f"put {begin} and {end} where the text belongs")
    between = f"{begin}\n{text.replace(MINUS, '-')}\n{end}"
    return re.sub(f"{begin}.*?{end}", lambda _: between, page, flags=re.DOTALL)


def figure_of(results: Mapping[str, RewardResults], arms: Sequence[str]) -> str:
    """Diversity against gain of some arms, a panel per reward."""
    colours = {arm: colour for colour, arm in enumerate(arms)}
    panels = []
    for name, one in results.items():
        shown = [point for point in one.points if point.arm in colours]
        chart = plane_chart(shown, colours, one.unit, one.study.matched.diversity_ratios[:1])
        assert chart is not None, "results have points"
        panels.append((f"{name}: diversity ratio", chart))
    return sheet(panels, list(colours.items()), style=(TEMPLATES / "charts.css").read_text(encoding="utf-8"))


def table_of(answers: Answers, arms: Sequence[str]) -> str:
    """Some arms, as a Markdown table."""
    header = (
        "reward",
        "arm",
        "gain at the end",
        "diversity ratio at the end",
        "ratio at matched reward",
        f"less {answers.reference}",
        f"gain at ratio {answers.ratio_level:g}",
        f"less {answers.reference}",
        "gain promoted",
    )
    rows = []
    for reward in answers.rewards:
        level = answers.level(reward)
        matched = "" if level is None else f", matched at {with_unit(f'+{level:g}', answers.unit(reward))}"
        for arm in arms:
            cells = (
                answers.gain(arm, reward),
                answers.ratio(arm, reward),
                answers.ratio_at_level(arm, reward),
                answers.ratio_less_reference(arm, reward),
                answers.gain_within(arm, reward),
                answers.gain_less_reference(arm, reward),
                answers.promoted(arm, reward),
            )
            named = f"{reward}{matched}" if arm == arms[0] else ""
            rows.append((named, f"`{arm}`", *map(str, cells)))
    return _markdown(header, rows)


def front_table_of(front: Answers, rows: Sequence[Shown]) -> str:
    """How much reward at the diversity that is asked for, as a Markdown table."""
    whole, early = f"after {front.budget}", f"after {EARLY:,} evaluations"
    header = ("reward", "trained by", early, whole, f"less {front.reference}")
    cells = []
    for row in rows:
        unit = front.unit(row.reward)
        cells.append(
            (
                f"{row.reward}{f', {unit}' if unit else ''}",
                row.words,
                str(front.reach(row.arm, row.reward, by=EARLY)),
                str(front.reach(row.arm, row.reward)),
                str(front.reach_less_reference(row.arm, row.reward)),
            )
        )
    return _markdown(header, cells)


def all_arms_of(answers: Answers) -> str:
    """Every arm that has runs, a Markdown table per reward, and the names of those that have none."""
    parts = []
    for reward in answers.rewards:
        arms, less = answers.arms_of(reward), f"less {answers.reference}"
        suffix = f", {answers.unit(reward)}" if answers.unit(reward) else ""
        header = (
            reward,
            f"gain{suffix}",
            "diversity ratio",
            f"ratio at matched reward {less}",
            f"gain at ratio {answers.ratio_level:g}{suffix}",
            less,
            "unrecognised",
            "what it is",
        )
        rows = []
        for arm in arms:
            cells = (
                answers.gain(arm, reward),
                answers.ratio(arm, reward),
                answers.ratio_less_reference(arm, reward),
                answers.gain_within(arm, reward),
                answers.gain_less_reference(arm, reward),
                answers.quantity("unrecognised_fraction", arm, reward).value,
            )
            rows.append((f"`{arm}`", *map(str, cells), answers.study.arms[arm].description))
        parts.append(_markdown(header, rows))
        absent = [f"`{arm}`" for arm in answers.study.arms if arm not in arms]
        if absent:
            said = f"Not run, or not with all seeds, on {reward}: {', '.join(absent)}."
            parts.append(textwrap.fill(said, WIDTH, break_on_hyphens=False))
    return "\n\n".join(parts)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def paragraph(sentences: Sequence[str], **asked: Answers) -> str:
    """Sentences with their numbers, as one paragraph.

    Args:
        sentences: Templates.
        **asked: Whom they may ask, by name.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    said = [environment.from_string(sentence).render(**asked) for sentence in sentences]
    return textwrap.fill(" ".join(" ".join(said).split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def differing(root: Path) -> list[str]:
    """The files, below the root, that are not what the committed table gives."""
    made = outputs(root)
    return [
        path
        for path, text in made.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write the results, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    parser.add_argument("--root", type=Path, default=PROJECT, help="the project's folder")
    arguments = parser.parse_args()
    wrong = differing(arguments.root)
    if arguments.check:
        if wrong:
            sys.exit(f"not what {TABLE} gives: {', '.join(wrong)}. Run python -m benchmarks.results")
        return
    for path, text in outputs(arguments.root).items():
        (arguments.root / path).parent.mkdir(parents=True, exist_ok=True)
        (arguments.root / path).write_text(text, encoding="utf-8")
    print("\n".join(wrong) or "nothing has changed")


if __name__ == "__main__":
    main()
