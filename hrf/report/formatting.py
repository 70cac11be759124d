"""Numbers as a reader wants them: few digits, real minus signs, units."""

from __future__ import annotations

import math

from hrf.evaluation.record import Interval

ABSENT = "–"
MINUS = "−"


def number(value: float | None, decimals: int = 3, *, sign: bool = False) -> str:
    """A number with a fixed count of decimals, with `sign` also a plus; a dash where there is none."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    # Adding zero turns -0.0, which rounding makes of small negative numbers, into 0.0.
    text = f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """A number of unknown size with a few significant digits, such as a loss or a learning rate."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return number(value, decimals)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def interval(estimate: Interval | None, decimals: int = 3, *, sign: bool = False) -> str:
    """An estimate with its interval, such as `0.95 [0.91, 0.99]`; a dash where there is none."""
    if estimate is None:
        return ABSENT
    return f"{number(estimate.value, decimals, sign=sign)} {bounds(estimate, decimals, sign=sign)}"


def bounds(estimate: Interval, decimals: int = 3, *, sign: bool = False) -> str:
    """The interval alone, such as `[0.91, 0.99]`."""
    return f"[{number(estimate.low, decimals, sign=sign)}, {number(estimate.high, decimals, sign=sign)}]"


def fraction(value: float | None) -> str:
    """A value in [0, 1] as a percentage with one decimal."""
    return ABSENT if value is None else f"{number(100 * value, 1)} %"


def count(value: float | None) -> str:
    """A whole number with thin spaces between the thousands."""
    return ABSENT if value is None else f"{value:,.0f}".replace(",", "\u202f").replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would choose, such as `45 s`, `12 min`, `3 h 05 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def with_unit(text: str, unit: str) -> str:
    """A number and its unit, kept on one line."""
    return f"{text}\u00a0{unit}" if unit and text != ABSENT else text


def in_unit(name: str, unit: str) -> str:
    """A quantity and its unit, as a heading has them."""
    return f"{name}, {unit}" if unit else name


def steps(window: tuple[int, int] | None) -> str:
    """A half-open range of start steps, such as `[10, 20)`."""
    return ABSENT if window is None else f"[{window[0]}, {window[1]})"


def words(identifier: str) -> str:
    """A field name as words: `dark_pixel_fraction` reads `dark pixel fraction`."""
    return identifier.replace("_", " ")


def shortened(digest: str) -> str:
    """The beginning of a digest, enough to tell two apart."""
    return digest if len(digest) <= 16 else f"{digest[:16]}…"
