"""Fronts over strength: what each share of what was learnt gains and loses, as charts."""

from __future__ import annotations

from collections.abc import Sequence

from hrf.evaluation.record import FrontPoint
from hrf.report.charts import Axis, Point, Rule, Series, legend, line_chart, sheet
from hrf.report.formatting import interval, number, with_unit
from hrf.report.page import TEMPLATES, Figure

TITLE = "Diversity ratio against reward gain, by strength"


def floor_rules(floor: float | None, *, shade: bool = False) -> list[Rule]:
    """The diversity floor as a line; none if there is no floor."""
    return [] if floor is None else [Rule(y=floor, text=f"floor {number(floor, 2)}", shade=shade)]


def gain_axis(unit: str) -> Axis:
    """Reward gain, to the right."""
    return Axis(name=with_unit("reward gain over the base,", unit).rstrip(","))


def fronts(measured: Sequence[tuple[str, Sequence[FrontPoint]]], floor: float | None, *, unit: str) -> Figure:
    """Reward gain to the right, diversity ratio upwards: a line from the base over the strengths of each policy."""
    lines = [
        Series(name=name, points=_points(name, points, in_full=colour + 1 == len(measured)), colour=colour, bars=True)
        for colour, (name, points) in enumerate(measured)
    ]
    described = f"{TITLE}. " + "; ".join(point.text for line in lines for point in line.points)
    drawn = line_chart(
        lines, description=described, x=gain_axis(unit), y=Axis(includes=[1.0]), rules=floor_rules(floor, shade=True)
    )
    return Figure(
        title=TITLE,
        chart=drawn,
        legend=legend([(line.name, line.colour) for line in lines]),
        note="Numbers are strengths a in base + a (tuned - base), and crosses intervals, of the last line.",
    )


def front_picture(name: str, points: Sequence[FrontPoint], floor: float, *, unit: str) -> str:
    """One front as an SVG file that needs no page."""
    chart = fronts([(name, points)], floor, unit=unit).chart
    assert chart is not None
    return sheet([(TITLE, chart)], [(name, 0)], style=(TEMPLATES / "charts.css").read_text(encoding="utf-8"))


def _points(name: str, points: Sequence[FrontPoint], *, in_full: bool) -> list[Point]:
    base = Point(x=0.0, y=1.0, label="base" if in_full else "", text="base")
    drawn = [base]
    for point in sorted(points, key=lambda point: point.strength):
        gain, ratio = point.reward_vs_base, point.diversity_ratio
        drawn.append(
            Point(
                x=gain.value,
                y=ratio.value,
                x_range=(gain.low, gain.high) if in_full else None,
                y_range=(ratio.low, ratio.high) if in_full else None,
                label=f"{point.strength:.3g}" if in_full else "",
                text=f"{name}, strength {point.strength:.3g}: gain {interval(gain, sign=True)}, "
                f"ratio {interval(ratio, 2)}",
            )
        )
    return drawn
