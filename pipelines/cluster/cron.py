"""Schedules as Kubeflow's controller reads them: six fields, the seconds first, in UTC.

The controller parses with robfig/cron of version 1. What that reads in another way than one would think is refused
here: it takes five fields as six without the last one, so that "0 3 * * *" would start a run every hour.
"""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

from hrf.errors import ConfigError

UTC = datetime.UTC
MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
#: The controller gives up on a schedule that has no time within five years, and never starts a run.
YEARS = 5


@dataclass(frozen=True)
class Field:
    """One field of an expression: its name, its range, and names of values."""

    name: str
    first: int
    last: int
    names: dict[str, int]


FIELDS = (
    Field("second", 0, 59, {}),
    Field("minute", 0, 59, {}),
    Field("hour", 0, 23, {}),
    Field("day of month", 1, 31, {}),
    Field("month", 1, 12, MONTHS),
    Field("day of week", 0, 6, DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A schedule. Made by `parse`.

    Attributes:
        text: The expression, as it is sent.
        values: The values of each field at which it fires.
        starred: Whether each field has a `*` or `?`.
    """

    text: str
    values: tuple[frozenset[int], ...]
    starred: tuple[bool, ...]

    def next_times(self, after: datetime.datetime, count: int) -> list[datetime.datetime]:
        """The next times at which it fires.

        Returns:
            Fewer, where there are no more within five years.
        """
        seconds, minutes, hours = (sorted(values) for values in self.values[:3])
        start = after.astimezone(UTC)
        found: list[datetime.datetime] = []
        for number in range(366 * YEARS + 1):
            day = start.date() + datetime.timedelta(days=number)
            if not self._has_day(day):
                continue
            for hour in hours:
                for minute in minutes:
                    for second in seconds:
                        moment = datetime.datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)
                        if moment > start:
                            found.append(moment)
                        if len(found) == count:
                            return found
        return found

    def in_words(self) -> str:
        """What it means, such as `At 03:00, only on Monday`."""
        from cron_descriptor import Options, get_description

        # cron-descriptor would take a `?` for a sign that the seconds are missing.
        plain = " ".join(self.text.replace("?", "*").split())
        words = str(get_description(plain, Options(locale_code="en_US", use_24hour_time_format=True)))
        # Most crons join the two day fields with "or". This one does so only if neither has a star.
        return words.replace(", or on ", ", and only on ") if any(self.starred[3:6:2]) else words

    def _has_day(self, day: datetime.date) -> bool:
        by_month = day.day in self.values[3]
        by_week = day.isoweekday() % 7 in self.values[5]
        either = by_month and by_week if self.starred[3] or self.starred[5] else by_month or by_week
        return day.month in self.values[4] and either


def parse(text: str) -> Cron:
    """Read an expression.

    Raises:
        ConfigError: It isn't six fields that the controller understands, or it never fires.
    """
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise _wrong_count(text, parts)
    read = [_field_values(part, field, text) for part, field in zip(parts, FIELDS, strict=True)]
    cron = Cron(" ".join(parts), tuple(values for values, _ in read), tuple(star for _, star in read))
    if not cron.next_times(datetime.datetime.now(UTC), 1):
        raise ConfigError(
            "--cron", expected="a schedule that fires within five years", got=text, fix="name days that exist"
        )
    return cron


def _wrong_count(text: str, parts: list[str]) -> ConfigError:
    if len(parts) == len(FIELDS) - 1:
        fix = f'put the second before it: --cron "0 {" ".join(parts)}"'
    elif parts and parts[0].startswith("@"):
        fix = 'write it out; once a day at midnight is "0 0 0 * * *", once an hour "0 0 * * * *"'
    else:
        fix = 'second minute hour day-of-month month day-of-week, such as "0 0 3 * * *" for every day at 03:00 UTC'
    return ConfigError("--cron", expected="six fields, the second first", got=text, fix=fix)


def _field_values(part: str, field: Field, text: str) -> tuple[frozenset[int], bool]:
    """The values of one field, and whether it has a star."""
    values: set[int] = set()
    starred = False
    for item in part.split(","):
        match = re.fullmatch(r"(?:(?P<star>[*?])|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?", item)
        if not match:
            raise _wrong_item(item, field, text)
        step = int(match["step"] or 1)
        if match["star"]:
            low, high, starred = field.first, field.last, True
        else:
            low = _number(match["low"], field, item, text)
            high = _number(match["high"], field, item, text) if match["high"] else low
            if match["step"] and not match["high"]:
                high = field.last
        if step < 1 or not field.first <= low <= high <= field.last:
            raise _wrong_item(item, field, text)
        values.update(range(low, high + 1, step))
    return frozenset(values), starred


def _number(word: str, field: Field, item: str, text: str) -> int:
    if word.lower() in field.names:
        return field.names[word.lower()]
    if re.fullmatch(r"[0-9]{1,4}", word):
        return int(word)
    raise _wrong_item(item, field, text)


def _wrong_item(item: str, field: Field, text: str) -> ConfigError:
    names = f" or {', '.join(field.names)}" if field.names else ""
    sunday = "; Sunday is 0" if field.name == "day of week" else ""
    return ConfigError(
        "--cron",
        expected=f"{field.first} to {field.last}{names} as {field.name}, as N, N-N, */N, N-N/N or a list of them",
        got=item,
        fix=f"correct this field of {text!r}; ranges don't wrap around{sunday}",
    )
