"""Charts as inline SVG whose colours and fonts come from the page's style sheet.

Drawn here rather than by a plotting library so that they follow the page into dark mode and print, keep their text as
text, name each point to a pointer and to a screen reader, and cost the last step of a run no import of seconds.
A chart is an `<svg>` element, or None where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from markupsafe import Markup, escape

from hrf.report.formatting import MINUS, significant

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 14.0, 12.0, 40.0
NUM_COLOURS = 6
NEUTRAL = -1
MOST_MARKERS = 60
MOST_TICKS = 6
CHARACTER_WIDTH = 6.2
"""Of an average letter at the size of the ticks."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a series.

    Attributes:
        x: Horizontal position, in data units.
        y: Vertical position, in data units.
        y_range: Interval of `y`, drawn as a band or an error bar.
        x_range: Interval of `x`, drawn as an error bar.
        label: Text beside the point; none if empty.
        text: What a pointer or a screen reader gets told.
    """

    x: float
    y: float
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    label: str = ""
    text: str = ""

    @property
    def is_finite(self) -> bool:
        """Whether all coordinates can be drawn."""
        ranges = (*(self.y_range or ()), *(self.x_range or ()))
        return all(math.isfinite(value) for value in (self.x, self.y, *ranges))


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line with markers.

    Attributes:
        name: For the legend.
        points: In drawing order.
        colour: Position in the palette and in the list of marker shapes; wraps around; NEUTRAL is grey.
        bars: Whether intervals are drawn as error bars at the points; otherwise as a band along the line.
        style: `quiet` is a thin line without markers, its name told to a pointer: one of many that are not looked at
            one by one. `dashed` is a dashed line without markers.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    bars: bool = False
    style: Literal["", "quiet", "dashed"] = ""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """How an axis is drawn.

    Attributes:
        name: Written along the axis.
        labels: Text per data position, for axes of names; numbers are labelled at round values where it is empty.
        includes: Values that must be in sight.
    """

    name: str = ""
    labels: Sequence[tuple[float, str]] = ()
    includes: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A horizontal dashed line at `y` with a text; `shade` tints everything below it."""

    y: float
    text: str
    shade: bool = False


@dataclass(frozen=True)
class _Scale:
    """Maps data in [low, high] to positions in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def round_ticks(low: float, high: float) -> list[float]:
    """At most `MOST_TICKS` round values within [low, high], spaced by 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    for spacing in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
        if last - first + 1 <= MOST_TICKS:
            return [position * spacing for position in range(first, last + 1)]
    raise AssertionError("a spacing of twenty tenths of the range always fits")


def _tick_text(value: float, spacing: float) -> str:
    if spacing >= 1000 and value:
        return f"{value / 1000:.{0 if spacing % 1000 == 0 else 1}f}k".replace("-", MINUS)
    if 0 < spacing < 1e-4:
        return significant(round(value / spacing) * spacing, 2).replace(".0e", "e")
    return f"{value + 0.0:.{max(0, -math.floor(math.log10(spacing) + 1e-9))}f}".replace("-", MINUS)


def _scale(values: Sequence[float], axis: Axis, start: float, end: float, *, padding: float) -> _Scale:
    seen = [*values, *axis.includes, *(position for position, _ in axis.labels)]
    low, high = min(seen), max(seen)
    room = (high - low) * padding or max(abs(low) * 0.1, 0.5)
    low, high = low - room, high + room
    if axis.labels:
        every = math.ceil(len(axis.labels) / 10)
        kept = [label for index, label in enumerate(axis.labels) if index % every == 0]
        return _Scale(low, high, start, end, kept)
    positions = round_ticks(low, high)
    spacing = positions[1] - positions[0] if len(positions) > 1 else high - low
    return _Scale(low, high, start, end, [(value, _tick_text(value, spacing)) for value in positions])


def _marker(colour: int, x: float, y: float) -> str:
    shape = colour % 4
    if shape == 0:
        return f'<circle cx="{x}" cy="{y}" r="3.2"/>'
    if shape == 1:
        return f'<rect x="{x - 3:.2f}" y="{y - 3:.2f}" width="6" height="6"/>'
    if shape == 2:
        return f'<path d="M{x} {y - 4:.2f}l4 7h-8z"/>'
    return f'<path d="M{x} {y - 4.2:.2f}l4.2 4.2l-4.2 4.2l-4.2 -4.2z"/>'


def _class(colour: int) -> str:
    return "neutral" if colour == NEUTRAL else f"c{colour % NUM_COLOURS}"


def _draw_axes(x: _Scale, y: _Scale, axis: Axis) -> list[str]:
    parts = []
    for value, text in y.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y(value) + 3.5:.2f}">{escape(text)}</text>')
    for value, text in x.ticks:
        parts.append(f'<path class="notch" d="M{x(value)} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text class="tick middle" x="{x(value)}" y="{HEIGHT - BOTTOM + 16}">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis-name middle" x="{middle}" y="{HEIGHT - 6}">{escape(axis.name)}</text>')
    return parts


def _draw_rule(rule: Rule, y: _Scale) -> list[str]:
    height = y(rule.y)
    parts = []
    if rule.shade:
        depth = max(0.0, HEIGHT - BOTTOM - height)
        parts.append(
            f'<rect class="below" x="{LEFT}" y="{height}" width="{WIDTH - RIGHT - LEFT}" height="{depth:.2f}"/>'
        )
    parts.append(f'<path class="rule" d="M{LEFT} {height}H{WIDTH - RIGHT}"/>')
    # Under the line where there is room: the curve that has to stay above it comes from above.
    beneath = height + 13 < HEIGHT - BOTTOM
    baseline = height + 12 if beneath else height - 5
    parts.append(f'<text class="rule-text" x="{LEFT + 5}" y="{baseline:.2f}">{escape(rule.text)}</text>')
    return parts


def _draw_series(series: Series, x: _Scale, y: _Scale) -> list[str]:
    parts = [f'<g class="series {" ".join(filter(None, (_class(series.colour), series.style)))}">']
    spread = [(point, point.y_range) for point in series.points if point.y_range is not None]
    if not series.bars and len(spread) > 1:
        upper = [f"{x(point.x)} {y(high)}" for point, (_, high) in spread]
        lower = [f"{x(point.x)} {y(low)}" for point, (low, _) in reversed(spread)]
        parts.append(f'<path class="band" d="M{"L".join(upper + lower)}z"/>')
    if len(series.points) > 1:
        line = "L".join(f"{x(point.x)} {y(point.y)}" for point in series.points)
        told = f"<title>{escape(series.name)}</title>" if series.style else ""
        parts.append(f'<path class="line" d="M{line}">{told}</path>' if told else f'<path class="line" d="M{line}"/>')
    for point, (low, high) in spread:
        if series.bars or len(spread) == 1:
            parts.append(f'<path class="bar" d="M{x(point.x)} {y(low)}V{y(high)}"/>')
    for point in series.points:
        if point.x_range is not None:
            parts.append(f'<path class="bar" d="M{x(point.x_range[0])} {y(point.y)}H{x(point.x_range[1])}"/>')
    if len(series.points) <= MOST_MARKERS and not series.style:
        for point in series.points:
            text = f"<title>{escape(point.text)}</title>" if point.text else ""
            parts.append(f'<g class="marker">{_marker(series.colour, x(point.x), y(point.y))}{text}</g>')
    parts.append("</g>")
    return parts


def _draw_labels(all_series: Sequence[Series], x: _Scale, y: _Scale) -> list[str]:
    parts = []
    for point in (point for series in all_series for point in series.points if point.label):
        on_the_right = x(point.x) < WIDTH * 0.72
        anchor, shift = ("start", 7) if on_the_right else ("end", -7)
        parts.append(
            f'<text class="point-label {anchor}" x="{x(point.x) + shift:.2f}" y="{y(point.y) - 6:.2f}">'
            f"{escape(point.label)}</text>"
        )
    return parts


def _begin(height: float, description: str) -> str:
    """The beginning of a chart, with what it shows for readers who do not see it."""
    return f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(description)}">'


def line_chart(
    series: Sequence[Series], *, description: str, x: Axis, y: Axis | None = None, rules: Sequence[Rule] = ()
) -> Markup | None:
    """Draw lines with intervals over a common pair of axes.

    Points that are not finite are left out; rules are always in sight.
    """
    vertical = y or Axis()
    drawn = [replace(one, points=[point for point in one.points if point.is_finite]) for one in series]
    points = [point for one in drawn for point in one.points]
    if not points:
        return None
    xs = [value for point in points for value in (point.x, *(point.x_range or ()))]
    ys = [value for point in points for value in (point.y, *(point.y_range or ()))] + [rule.y for rule in rules]
    to_x = _scale(xs, x, LEFT, WIDTH - RIGHT, padding=0.05)
    to_y = _scale(ys, vertical, HEIGHT - BOTTOM, TOP, padding=0.08)
    parts = [_begin(HEIGHT, description)]
    for rule in rules:
        parts += _draw_rule(rule, to_y)
    parts += _draw_axes(to_x, to_y, x)
    for one in drawn:
        parts += _draw_series(one, to_x, to_y)
    parts += _draw_labels(drawn, to_x, to_y)
    return Markup("".join(parts) + "</svg>")


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar per category; None leaves a category without a bar."""

    name: str
    values: Sequence[float | None]
    colour: int = 0


def bar_chart(categories: Sequence[str], groups: Sequence[Bars], *, description: str) -> Markup | None:
    """Draw horizontal bars, grouped by category, each with its value at its end."""
    largest = max((value for group in groups for value in group.values if value is not None), default=None)
    if largest is None:
        return None
    left, thickness, gap = 92.0, 11.0, 9.0
    length = (WIDTH - left - 34) / max(largest, 1)
    block = thickness * len(groups) + gap
    height = block * len(categories) + gap
    parts = [_begin(height, description)]
    for row, category in enumerate(categories):
        top = gap / 2 + row * block
        centre = top + (block - gap) / 2 + 4
        parts.append(f'<text class="tick end" x="{left - 7}" y="{centre:.2f}">{escape(category)}</text>')
        for position, group in enumerate(groups):
            value = group.values[row]
            if value is None:
                continue
            edge = top + position * thickness
            parts.append(
                f'<g class="series {_class(group.colour)}"><rect class="block" x="{left}" y="{edge:.2f}" '
                f'width="{value * length:.2f}" height="{thickness - 1.5}"/></g>'
                f'<text class="tick" x="{left + value * length + 5:.2f}" y="{edge + 8.5:.2f}">{value:g}</text>'
            )
    parts.append(f'<path class="axis" d="M{left} 0V{height:.2f}"/>')
    return Markup("".join(parts) + "</svg>")


def stacked_bars(rows: Sequence[str], groups: Sequence[Bars], *, description: str) -> Markup | None:
    """Draw one bar per row, cut into the shares that each group has of it.

    A row whose values are None has no bar.
    """
    totals = [sum(group.values[row] or 0.0 for group in groups) for row in range(len(rows))]
    if not any(totals):
        return None
    longest = max(map(len, rows))
    left, thickness, pitch = min(180.0, 14 + CHARACTER_WIDTH * longest), 12.0, 16.0
    length, height = WIDTH - left - RIGHT, pitch * len(rows) + 4
    parts = [_begin(height, description)]
    for row, (name, total) in enumerate(zip(rows, totals, strict=True)):
        top, edge = 2 + row * pitch, left
        parts.append(f'<text class="tick end" x="{left - 7}" y="{top + 9.5:.2f}">{escape(name)}</text>')
        for group in groups if total else ():
            share = (group.values[row] or 0.0) / total
            told = f"<title>{escape(name)}, {escape(group.name)}: {100 * share:.0f} %</title>"
            parts.append(
                f'<g class="series {_class(group.colour)}"><rect class="block" x="{edge:.2f}" y="{top:.2f}" '
                f'width="{share * length:.2f}" height="{thickness}">{told}</rect></g>'
            )
            edge += share * length
    return Markup("".join(parts) + "</svg>")


def legend(entries: Sequence[tuple[str, int]]) -> Markup:
    """The key of a chart, as an HTML list of (name, colour)."""
    items = [
        f'<li><svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><g class="series {_class(colour)}">'
        f'<g class="marker">{_marker(colour, 6, 6)}</g></g></svg>{escape(name)}</li>'
        for name, colour in entries
    ]
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def sheet(panels: Sequence[tuple[str, Markup]], entries: Sequence[tuple[str, int]], *, style: str) -> str:
    """Charts with their titles under one key of (name, colour), two in a row, as an SVG file that needs no page.

    Returns:
        The file's text. It paints its own ground, so it can be read on a page of any colour.
    """
    gap, line_height, title_height = 16.0, 20.0, 22.0
    columns = min(2, len(panels))
    width = columns * WIDTH + (columns + 1) * gap
    places = _key_places([name for name, _ in entries], width)
    key_height = 10 + line_height * (1 + max(line for _, line in places))
    row_height = title_height + HEIGHT + gap
    height = key_height + math.ceil(len(panels) / columns) * row_height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}"><style><![CDATA[\n{style}]]></style>\n',
        f'<rect class="ground" width="{width:.0f}" height="{height:.0f}" rx="6"/>\n',
    ]
    for (name, colour), (edge, line) in zip(entries, places, strict=True):
        y = 17 + line * line_height
        parts.append(f'<g class="series {_class(colour)}"><g class="marker">{_marker(colour, edge, y)}</g></g>')
        parts.append(f'<text class="axis-name" x="{edge + 9:.2f}" y="{y + 4:g}">{escape(name)}</text>\n')
    for place, (title, chart) in enumerate(panels):
        content = chart.partition(">")[2].removesuffix("</svg>")
        row, column = divmod(place, columns)
        left, top = gap + column * (WIDTH + gap), key_height + row * row_height + title_height
        parts.append(f'<g transform="translate({left:.0f} {top:.0f})">')
        parts.append(f'<text class="panel-title" x="{LEFT}" y="-6">{escape(title)}</text>{content}</g>\n')
    return "".join(parts) + "</svg>\n"


def _key_places(names: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Left edge and line of each entry of a key, in as many lines as its names need."""
    places: list[tuple[float, int]] = []
    edge, line = float(LEFT), 0
    for name in names:
        length = 34 + CHARACTER_WIDTH * len(name)
        if edge > LEFT and edge + length > width:
            edge, line = float(LEFT), line + 1
        places.append((edge, line))
        edge += length
    return places
