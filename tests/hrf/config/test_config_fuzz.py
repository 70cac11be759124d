"""Whatever somebody writes for a configuration ends in a `Config` or in a `ConfigError` of a few lines, and soon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, seed, settings
from hypothesis import strategies as st

from hrf.config import Config, list_presets, resolve
from hrf.errors import ConfigError
from hrf.storage.validation import _leaves
from hrf.storage.yaml_text import dump_yaml

SEED, LONGEST_MESSAGE = 20261129, 1500
PRESETS = [info.name for info in list_presets()]
FIELDS = sorted(set(_leaves(Config)))


def choices(schema: Any) -> Iterator[str]:
    """All words that a field somewhere in a schema takes."""
    if isinstance(schema, dict):
        yield from schema.get("enum", [])
        for part in schema.values():
            yield from choices(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from choices(part)


WORDS = [
    *sorted(set(choices(Config.model_json_schema()))),
    *("", " ", "shipped", "shipped:avatars-32", "hf:a/b", "hf:", "s3://b/p", "s3://", "../..", "/", "a:b", "m:f", "~"),
    *("{prompt}", "{", "0" * 40, "0" * 64, "http://h:1/p", "http://u:p@h", "x" * 300, "\0", "\ud800", "\u2028", "é"),
]
numbers = (
    st.sampled_from([0, 1, 2, 3, 5, 8, -1, 0.5, 0.05, 1.0, -0.0, 1e-300, 1e308, 2**31 - 1, 2**31, 2**63, 10**400])
    | st.integers(-2, 40)
    | st.integers()
    | st.floats(0, 1)
    | st.floats()
)
scalars = st.none() | st.booleans() | numbers | st.sampled_from(WORDS) | st.text(max_size=8)
keys = st.sampled_from(sorted({name for field in FIELDS for name in field.split(".")})) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


@st.composite
def written(draw) -> str:
    """Known fields with values that may do, or any."""
    tree: dict[str, Any] = {}
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        *sections, name = field.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[name] = draw(scalars | values)
    if draw(st.integers(0, 9)) == 0:
        tree["extends"] = draw(st.sampled_from([*PRESETS, None, "", []]))
    return json.dumps(tree) if draw(st.booleans()) else dump_yaml(tree)


TOKENS = [
    *(
        "[",
        "]",
        "{",
        "}",
        "[" * 60,
        "{a: " * 60,
        ": ",
        ":",
        "- ",
        "- " * 60,
        "\n",
        "\n  ",
        ", ",
        "? ",
        "| \n",
        ">-\n",
        "'",
        '"',
    ),
    *("&a ", "*a", "&b ", "*b", "<<: *a\n", "!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!binary ", "!!set "),
    *(
        "!!omap ",
        "!!null ",
        "!!str ",
        "!x ",
        "! ",
        "!!python/name:os.system ",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "#",
        "\t",
    ),
    *(
        "run",
        "epochs",
        "starts",
        "windows",
        "reward",
        "name",
        "extends",
        "avatars-hrf",
        "a: ",
        "1",
        "1e999",
        "9" * 5000,
    ),
    *(".nan", "-.inf", "0x1F", "1:30", "010", "~", "true", "\0", "\ud800", "\x85", "\ufeff", "\\", "%", "@", "`"),
]
tokens = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=25).map("".join)
WHOLE = [resolve(name).to_yaml() for name in PRESETS]


@st.composite
def mangled(draw) -> str:
    """A whole configuration with a few cuts, each with something else in its place."""
    text = draw(st.sampled_from(WHOLE))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.sampled_from([0, 0, 1, 2, 5, 40, 400])))
        text = text[:begin] + draw(st.sampled_from(TOKENS) | st.sampled_from(WORDS)) + text[end:]
    return text


texts = written() | written() | tokens | mangled()
#: Nested aliases that stand for 9^9 values in 322 bytes.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def fuzzed(count: int):
    """So many texts from the fixed seed; each has 10 seconds, where it takes milliseconds."""
    given_texts = given(preset=st.sampled_from([*PRESETS, "", "", ""]), text=texts)
    budget = settings(
        max_examples=count,
        deadline=timedelta(seconds=10),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda function: seed(SEED)(budget(given_texts(function)))


def outcome(preset: str, text: str) -> Config | ConfigError:
    try:
        return resolve(preset, text)
    except ConfigError as error:
        return error


def check(preset: str, text: str) -> None:
    """A configuration comes out of its own text again; an error has a field, and a message that fits on a screen."""
    found = outcome(preset, text)
    event(type(found).__name__)
    if isinstance(found, Config):
        assert Config.from_yaml(found.to_yaml()) == found
        return
    assert found.field
    assert len(str(found)) < LONGEST_MESSAGE
    assert "\n" not in str(found)
    str(found).encode()


@example(preset="", text=BOMB)
@example(preset="", text="a: " + "[" * 500 + "]" * 500)
@example(preset="", text="a: " + "[" * 100_000)
@example(preset="", text="\n".join(f"{' ' * depth}a:" for depth in range(500)))
@example(preset="", text="run: &r {epochs: *r}")
@example(preset="avatars-smoke", text="run: {epochs: 100000000}\nstarts: {schedule: sliding, width: 0.2}")
@example(preset="avatars-smoke", text="\n".join(f"k{number}: 1" for number in range(2000)))
@example(preset="x" * 100_000, text="")
@fuzzed(300)
def test_every_text_ends_in_a_configuration_or_in_its_error(preset, text):
    check(preset, text)


@pytest.mark.slow
@fuzzed(10_000)
def test_ten_thousand_texts_end_in_a_configuration_or_in_their_error(preset, text):
    check(preset, text)
