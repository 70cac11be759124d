"""The charts of a study's page. Beyond a few arms only some have a colour; the others are thin grey lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from markupsafe import Markup

from hrf.networks.labels import UNRECOGNISED
from hrf.report.charts import (
    NEUTRAL,
    NUM_COLOURS,
    Axis,
    Bars,
    Point,
    Rule,
    Series,
    legend,
    line_chart,
    stacked_bars,
)
from hrf.report.formatting import count, in_unit, number, with_unit
from hrf.report.fronts import gain_axis
from hrf.report.page import Figure
from hrf.study.matching import RATIO, ArmPoint, Comparison, Curve, Mean, pareto_front

Colours = Mapping[str, int]
"""Of the arms that have one, by name."""
NO_CURVES = "No run is finished."


def mean_text(mean: Mean, decimals: int, *, sign: bool = False) -> str:
    """A mean with its interval, such as `0.95 [0.91, 0.99]`."""
    value = number(mean.value, decimals, sign=sign)
    if mean.low is None or mean.high is None:
        return f"{value} (one seed)"
    return f"{value} [{number(mean.low, decimals, sign=sign)}, {number(mean.high, decimals, sign=sign)}]"


def choose_colours(arms: Sequence[str], reference: str, points: Sequence[Sequence[ArmPoint]]) -> dict[str, int]:
    """Which arms have a colour: all where there are few, else the reference and the most frequent on Pareto fronts."""
    if len(arms) <= NUM_COLOURS:
        return {arm: colour for colour, arm in enumerate(arms)}
    on_front = [point.arm for of_reward in points for point in front(of_reward) if point.point]
    by_frequency = sorted(arms, key=lambda arm: -on_front.count(arm))
    others = [arm for arm in by_frequency if arm != reference and arm in on_front]
    return {arm: colour for colour, arm in enumerate([reference, *others][:NUM_COLOURS])}


def front(points: Sequence[ArmPoint]) -> list[ArmPoint]:
    """The Pareto front of the arms' points and of the base, which is in it once."""
    bases = [point for point in points if point.point == 0]
    return pareto_front([*bases[:1], *(point for point in points if point.point)])


def _by_arm(points: Sequence[ArmPoint]) -> dict[str, list[ArmPoint]]:
    arms: dict[str, list[ArmPoint]] = {}
    for point in points:
        arms.setdefault(point.arm, []).append(point)
    return arms


def _range(mean: Mean) -> tuple[float, float] | None:
    return None if mean.low is None or mean.high is None else (mean.low, mean.high)


def _line(arm: str, points: Sequence[Point], colours: Colours, *, bars: bool = False) -> Series:
    if arm in colours:
        return Series(name=arm, points=points, colour=colours[arm], bars=bars)
    plain = [Point(x=point.x, y=point.y) for point in points]
    return Series(name=arm, points=plain, colour=NEUTRAL, style="quiet")


def _in_front(series: Sequence[Series]) -> list[Series]:
    """What has a colour is drawn last, over the grey lines."""
    return sorted(series, key=lambda one: not one.style)


def key(colours: Colours, arms: Collection[str]) -> Markup:
    """The key of a chart of arms."""
    entries = [(arm, colour) for arm, colour in colours.items() if arm in arms]
    others = len(arms) - len(entries)
    return legend([*entries, *([(f"{others} other arms", NEUTRAL)] if others else [])])


def against_evaluations(points: Sequence[ArmPoint], quantity: str, title: str, colours: Colours) -> Figure:
    """Gain (the empty name) or another quantity against the work spent, as means over seeds with intervals."""
    decimals = 2 if quantity else 3
    series = []
    for arm, own in _by_arm(points).items():
        drawn = []
        for point in own:
            mean = point.quantities.get(quantity) if quantity else point.gain
            if mean is not None:
                told = f"{arm}, {count(point.evaluations)} evaluations: {mean_text(mean, decimals)}"
                drawn.append(
                    Point(x=point.evaluations, y=mean.value, y_range=_range(mean), text=f"{told}, {_seeds(mean)}")
                )
        series.append(_line(arm, drawn, colours))
    chart = line_chart(
        _in_front(series),
        description=f"{title} of {len(series)} arms against denoiser evaluations; the numbers are in the tables.",
        x=Axis(name="denoiser evaluations"),
    )
    return Figure(title=title, chart=chart, legend=key(colours, [one.name for one in series]), absent=NO_CURVES)


def _seeds(mean: Mean) -> str:
    return f"{mean.num_seeds} seed{'' if mean.num_seeds == 1 else 's'}"


def _plane_point(point: ArmPoint, *, ranges: bool) -> Point:
    told = f"{point.arm}, {count(point.evaluations)} evaluations: gain {mean_text(point.gain, 3, sign=True)}"
    return Point(
        x=point.gain.value,
        y=point.ratio.value,
        x_range=_range(point.gain) if ranges else None,
        y_range=_range(point.ratio) if ranges else None,
        text=f"{told}, ratio {mean_text(point.ratio, 2)}",
    )


def plane_chart(points: Sequence[ArmPoint], colours: Colours, unit: str, ratios: Sequence[float]) -> Markup | None:
    """Diversity ratio against gain: each arm's path from the base, the Pareto front of all, and levels of diversity."""
    series = [
        _line(arm, [_plane_point(point, ranges=point is own[-1]) for point in own], colours, bars=True)
        for arm, own in _by_arm(points).items()
    ]
    best = [Point(x=point.gain.value, y=point.ratio.value) for point in front(points)]
    return line_chart(
        [*_in_front(series), Series(name="Pareto front", points=best, colour=NEUTRAL, style="dashed")],
        description="Mean diversity ratio against mean gain, each arm's path from the base. On the Pareto front: "
        + "; ".join(_plane_point(point, ranges=False).text for point in front(points)),
        x=gain_axis(unit),
        y=Axis(includes=[1.0]),
        rules=[Rule(y=ratio, text=number(ratio, 2)) for ratio in ratios],
    )


def plane(points: Sequence[ArmPoint], colours: Colours, unit: str, ratios: Sequence[float]) -> Figure:
    """`plane_chart` with its title and key."""
    note = (
        "Up and to the right is better. Paths are means over seeds; crosses are the intervals of their last points; "
        "the dotted line joins the Pareto front."
    )
    chart = plane_chart(points, colours, unit, ratios)
    entries = key(colours, _by_arm(points))
    return Figure(title="Diversity against gain", chart=chart, legend=entries, note=note, absent=NO_CURVES)


def beside_reference(
    arms: Mapping[str, Mapping[int, Curve]], points: Sequence[ArmPoint], reference: str, unit: str
) -> list[Figure]:
    """Of each arm: its path and its single runs, beside the reference's path, all on the same axes."""
    paths = {arm: [_plane_point(point, ranges=False) for point in own] for arm, own in _by_arm(points).items()}
    curves = [curve for runs in arms.values() for curve in runs.values()]
    gains = [float(value) for curve in curves for value in (curve.gain.min(), curve.gain.max())]
    ratios = [float(value) for curve in curves for value in (curve.quantities[RATIO].min(), 1.0)]
    x = Axis(name=gain_axis(unit).name, includes=gains)
    figures = []
    for arm, runs in arms.items():
        if arm == reference:
            continue
        singles = [
            Series(
                name=f"seed {seed}",
                points=[
                    Point(x=float(a), y=float(b)) for a, b in zip(curve.gain, curve.quantities[RATIO], strict=True)
                ],
                style="quiet",
            )
            for seed, curve in runs.items()
        ]
        theirs = Series(name=reference, points=paths.get(reference, []), colour=NEUTRAL)
        chart = line_chart(
            [theirs, *singles, Series(name=arm, points=paths[arm])],
            description=f"Diversity ratio against gain of {arm} and of {reference}; thin lines are single seeds.",
            x=x,
            y=Axis(includes=ratios),
        )
        figures.append(Figure(title=arm, chart=chart, legend=legend([(arm, 0), (reference, NEUTRAL)])))
    return figures


def dial(
    positions: Mapping[str, float],
    points: Sequence[ArmPoint],
    matched: Mapping[float, Mapping[str, Comparison]],
    unit: str,
) -> list[Figure]:
    """What a series of arms that differ in one number makes of it; empty if there is none.

    Arms whose names differ in their last part alone, such as `window-0.3` and `window-0.4`, are one line.

    `matched` has diversity ratios at matched reward: level -> arm -> comparison.
    """
    last = {arm: own[-1] for arm, own in _by_arm(points).items() if arm in positions}
    if not last:
        return []
    quantities: list[tuple[str, Mapping[str, Mean]]] = [
        (in_unit("Gain at the end of the budget", unit), {arm: point.gain for arm, point in last.items()}),
        ("Diversity ratio at the end of the budget", {arm: point.ratio for arm, point in last.items()}),
    ]
    for level, compared in matched.items():
        means = {arm: compared[arm].mean for arm in last if arm in compared}
        known = {arm: mean for arm, mean in means.items() if mean is not None}
        if len(known) > 1:
            quantities.append((f"Diversity ratio at gain {with_unit(f'{level:g}', unit)}", known))
    return [_dial_figure(title, means, positions) for title, means in quantities]


def _dial_figure(title: str, means: Mapping[str, Mean], positions: Mapping[str, float]) -> Figure:
    lines: dict[str, list[Point]] = {}
    for arm in sorted(means, key=lambda name: positions[name]):
        mean = means[arm]
        told = f"{arm}: {mean_text(mean, 3)}"
        point = Point(x=positions[arm], y=mean.value, y_range=_range(mean), text=told)
        lines.setdefault(arm.rpartition("-")[0] or arm, []).append(point)
    series = [
        Series(name=name, points=points, colour=colour, bars=True)
        for colour, (name, points) in enumerate(lines.items())
    ]
    chart = line_chart(series, description=f"{title} against the dial's position.", x=Axis(name="position of the dial"))
    entries = legend([(one.name, one.colour) for one in series])
    return Figure(title=title, chart=chart, legend=entries)


def modes(counts: Mapping[str, Mapping[str, float]]) -> Figure:
    """The share of each mode in each arm's samples.

    Args:
        counts: Row (the base, then arms) -> mode -> mean number of samples.
    """
    names = list(dict.fromkeys(mode for row in counts.values() for mode in row if mode != UNRECOGNISED))
    colours = {mode: colour for colour, mode in enumerate(names)} | {UNRECOGNISED: NEUTRAL}
    used = [mode for mode in colours if any(mode in row for row in counts.values())]
    groups = [Bars(name=mode, values=[row.get(mode) for row in counts.values()], colour=colours[mode]) for mode in used]
    chart = stacked_bars(list(counts), groups, description="Share of each mode in the last samples of each arm.")
    return Figure(
        title="Modes at the end of the budget",
        chart=chart,
        legend=legend([(mode, colours[mode]) for mode in used]),
        note="Means over seeds.",
        absent="The study has no mode histogram: its features are not a classifier's.",
    )
