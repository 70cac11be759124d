"""robfig/cron 1.2.0, with which Kubeflow's API server checks schedules and its controller follows them.

Written after that program's parser.go and spec.go, step by step and not after ours, so that each can be held against
the other.
"""

from __future__ import annotations

import calendar
import datetime

_BOUNDS = (
    (0, 59, {}),
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}),
    (0, 6, {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}),
)
_STAR = 1 << 63
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


def parse(spec: str) -> tuple[int, ...]:
    """The bit sets of the six fields; ValueError where `cron.Parse` has an error. `@every` is left out."""
    fields = _DESCRIPTORS.get(spec, spec).split()
    if not 5 <= len(fields) <= 6:
        raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}: {spec}")
    # The day of the week may be left out, so that five fields are read with the second first, too.
    return tuple(_field(*pair) for pair in zip([*fields, "*"][:6], _BOUNDS, strict=True))


def next_time(bits: tuple[int, ...], after: datetime.datetime) -> datetime.datetime | None:
    """The next time; None where there is none within five years."""
    time = after.replace(microsecond=0) + datetime.timedelta(seconds=1)
    limit = time.year + 5
    while time.year <= limit:
        if not bits[4] >> time.month & 1:
            time = (time.replace(day=1, hour=0, minute=0, second=0) + datetime.timedelta(days=32)).replace(day=1)
        elif not _day_matches(bits, time):
            time = time.replace(hour=0, minute=0, second=0) + datetime.timedelta(days=1)
        elif not bits[2] >> time.hour & 1:
            time = time.replace(minute=0, second=0) + datetime.timedelta(hours=1)
        elif not bits[1] >> time.minute & 1:
            time = time.replace(second=0) + datetime.timedelta(minutes=1)
        elif not bits[0] >> time.second & 1:
            time += datetime.timedelta(seconds=1)
        else:
            return time
    return None


def _day_matches(bits: tuple[int, ...], time: datetime.datetime) -> bool:
    by_month, by_week = bits[3] >> time.day & 1, bits[5] >> time.isoweekday() % 7 & 1
    if bits[3] & _STAR or bits[5] & _STAR:
        return bool(by_month and by_week)
    return bool(by_month or by_week)


def _field(field: str, bounds: tuple[int, int, dict[str, int]]) -> int:
    bits = 0
    for part in filter(None, field.split(",")):
        bits |= _range(part, *bounds)
    return bits


def _range(text: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    range_and_step = text.split("/")
    low_and_high = range_and_step[0].split("-")
    extra = 0
    if low_and_high[0] in ("*", "?"):
        start, end, extra = lowest, highest, _STAR
    else:
        start = _number(low_and_high[0], names)
        if len(low_and_high) > 2:
            raise ValueError(f"Too many hyphens: {text}")
        end = _number(low_and_high[-1], names)
    step = 1
    if len(range_and_step) == 2:
        step = _number(range_and_step[1], {})
        if len(low_and_high) == 1:
            end = highest
    elif len(range_and_step) > 2:
        raise ValueError(f"Too many slashes: {text}")
    if start < lowest or end > highest or start > end or step == 0:
        raise ValueError(f"Out of range: {text}")
    return sum(1 << value for value in range(start, end + 1, step)) | extra


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    number = int(text)
    if number < 0:
        raise ValueError(f"Negative number: {text}")
    return number
