"""What pages are made of: tables, figures, and the templates that print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hrf.evaluation.record import Interval
from hrf.report.formatting import ABSENT, bounds, number, with_unit
from hrf.report.pictures import Picture

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: The content.
        tone: `good`, `bad` or `muted`; the text alone must say it too.
        detail: A second, smaller line, such as an interval.
    """

    text: str
    tone: str = ""
    detail: str = ""


def estimate_cell(estimate: Interval | None, decimals: int = 3, *, sign: bool = False, unit: str = "") -> Cell:
    """An estimate above its interval; a dash where there is none."""
    if estimate is None:
        return Cell(ABSENT)
    text = with_unit(number(estimate.value, decimals, sign=sign), unit)
    return Cell(text, detail=bounds(estimate, decimals, sign=sign))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: Says what the table holds.
        header: Names of the columns.
        rows: Cells, as many per row as there are columns.
        is_text: Whether the cells are words (aligned left) rather than numbers.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title above and, if there is more than one line, its key; without a chart it says why."""

    title: str
    chart: Markup | None
    legend: Markup | None = None
    note: str = ""
    absent: str = "Nothing was measured."


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    detail: str = ""
    tone: str = ""


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: object) -> str:
    """Fill a template of this package; every value is escaped unless it is Markup."""
    return _environment().get_template(template).render(**context)


__all__ = ["Cell", "Figure", "Picture", "Table", "Tile", "estimate_cell", "render"]
