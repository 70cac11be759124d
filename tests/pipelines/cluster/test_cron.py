"""Schedules, held against the parser that Kubeflow's controller uses, and against another cron library."""

from __future__ import annotations

import datetime

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from hrf.errors import ConfigError
from hrf_pipelines.cluster.cron import FIELDS, UTC, parse
from tests.kfp_api import robfig_cron

NOW = datetime.datetime(2026, 11, 24, 5, 30, 15, 500, tzinfo=UTC)


@st.composite
def fields(draw, field):
    """One field as people write it, right or a little wrong."""
    number = st.integers(max(0, field.first - 1), field.last + 1).map(str)
    value = st.one_of(number, st.sampled_from([*field.names, "*", "?"]))
    item = st.one_of(
        value,
        st.tuples(value, value).map("-".join),
        st.tuples(value, st.integers(0, 20).map(str)).map("/".join),
        st.tuples(st.tuples(value, value).map("-".join), st.integers(0, 9).map(str)).map("/".join),
    )
    return ",".join(draw(st.lists(item, min_size=1, max_size=3)))


expressions = st.one_of(
    st.tuples(*(fields(field) for field in FIELDS)).map(" ".join),
    # Most of those above have something wrong in one of six fields.
    *(
        fields(field).map(lambda text, number=number: " ".join(["*"] * number + [text] + ["*"] * (5 - number)))
        for number, field in enumerate(FIELDS)
    ),
)


@given(expressions)
def test_what_is_accepted_fires_when_the_controller_says(text):
    try:
        ours = parse(text)
    except ConfigError:
        return
    theirs = robfig_cron.parse(text)
    expected, moment = [], NOW
    for _ in range(3):
        moment = robfig_cron.next_time(theirs, moment)
        if moment is None:
            break
        expected.append(moment)
    found = ours.next_times(NOW, 3)
    # The controller looks until the end of the fifth year; we look for five years.
    assert found == expected[: len(found)]
    assert found or not expected or expected[0] > NOW + datetime.timedelta(days=5 * 366)


@pytest.mark.parametrize(
    "text",
    [
        "0 0 3 * * *",
        "0 30 4 1,15 * *",
        "*/20 * * * * *",
        "0 0 0 31 * *",
        "0 0 3 * JAN-MAR MON-FRI",
        "0 10-50/20 5 * * SUN",
    ],
)
def test_another_library_agrees_on_the_times(text):
    times = croniter(text, NOW, second_at_beginning=True)
    assert parse(text).next_times(NOW, 5) == [times.get_next(datetime.datetime) for _ in range(5)]


def test_a_time_that_is_now_is_not_the_next_one():
    now = datetime.datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    assert parse("0 0 3 * * *").next_times(now, 1) == [now + datetime.timedelta(days=1)]


def test_days_of_the_month_and_of_the_week_are_joined_as_the_controller_joins_them():
    # Neither with a star: either will do. 2026-12-01 is a Tuesday, and the next Friday is 2026-11-27.
    either = parse("0 0 3 1 * FRI").next_times(NOW, 2)
    assert [time.date().isoformat() for time in either] == ["2026-11-27", "2026-12-01"]
    # With a star in it, even with a step: both must hold. Odd days that are Mondays.
    both = parse("0 0 3 */2 * MON").next_times(NOW, 2)
    assert [time.date().isoformat() for time in both] == ["2026-12-07", "2026-12-21"]
    assert "every 2 days, and only on Monday" in parse("0 0 3 */2 * MON").in_words()
    assert "or on Friday" in parse("0 0 3 1 * FRI").in_words()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 3 * * *", "At 03:00"),
        ("0 0 3 ? * MON", "At 03:00, only on Monday"),
        ("0 15 3 * * MON-FRI", "At 03:15, Monday through Friday"),
        ("0 0 */6 * * *", "Every 6 hours"),
    ],
)
def test_a_schedule_is_told_in_words(text, said):
    assert parse(text).in_words() == said


def test_words_are_english_whatever_the_locale(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert parse("0 0 3 * * MON").in_words() == "At 03:00, only on Monday"


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        # The controller would take it for every hour at minute 3, and say nothing.
        ("0 3 * * *", '--cron "0 0 3 * * *"'),
        ("*/5 * * * *", '--cron "0 */5 * * * *"'),
        ("@daily", '"0 0 0 * * *"'),
        ("", "0 0 3"),
        ("0 0 3 * * * 2027", "0 0 3"),
        ("0 0 24 * * *", "this field"),
        ("60 0 0 * * *", "this field"),
        ("0 0 3 0 * *", "this field"),
        ("0 0 3 * 13 *", "this field"),
        ("0 0 3 * * 7", "Sunday is 0"),
        ("0 0 3 * * FRI-MON", "wrap around"),
        ("0 0 3 * * MONDAY", "this field"),
        ("0 0 3 L * *", "this field"),
        ("0 0 3 * * 1#2", "this field"),
        ("0 0 3 15W * *", "this field"),
        ("0 */0 3 * * *", "this field"),
        ("0 0 3 1- * *", "this field"),
        ("0 0 3 -1 * *", "this field"),
        ("0 0 ³ * * *", "this field"),
        ("0 0 3,, * * *", "this field"),
        ("H 0 3 * * *", "this field"),
        ("0 0 3 31 2 *", "days that exist"),
    ],
)
def test_what_the_controller_does_not_take_or_takes_for_something_else_is_refused_with_the_fix(text, fix):
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert fix in str(raised.value)


def test_five_fields_are_what_the_controller_would_misread():
    assert robfig_cron.parse("0 3 * * *") == robfig_cron.parse("0 3 * * * *")
