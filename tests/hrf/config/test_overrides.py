"""`--set` options, and overrides as a pipeline's parameter takes them."""

import itertools

import pytest

from hrf.config import resolve
from hrf.config.overrides import from_settings, lay_over
from hrf.errors import ConfigError
from hrf.storage.yaml_text import parse_yaml


def test_settings_become_a_tree_of_yaml_values():
    settings = ["update.learning_rate=5e-5", "update.minibatch=8", "reward.label=sprouts", "model.source=s3://a/b=c"]
    assert from_settings(settings) == {
        "update": {"learning_rate": 5e-5, "minibatch": 8},
        "reward": {"label": "sprouts"},
        "model": {"source": "s3://a/b=c"},
    }


def test_a_setting_may_hold_a_list():
    assert from_settings(["starts.windows=[{fractions: [0.5, 1.0]}]"]) == {
        "starts": {"windows": [{"fractions": [0.5, 1.0]}]}
    }


@pytest.mark.parametrize(
    "setting", ["update.learning_rate", "=3", "update.=3", ".x=1", "run.epochs=[1", "run.epochs=3\nrun.seed: 1"]
)
def test_a_broken_setting_is_refused(setting):
    with pytest.raises(ConfigError):
        from_settings([setting])


def in_any_order(settings):
    return [list(order) for order in itertools.permutations(settings)]


@pytest.mark.parametrize(
    "settings",
    in_any_order(["update.learning_rate=1e-5", "update={kl_weight: 1}", "update.minibatch=8"])
    + in_any_order(["update={learning_rate: 1e-5, minibatch: 8}", "update={kl_weight: 1}", "update={}"])
    + in_any_order(["update={learning_rate: 1e-5, minibatch: 8}", "update.kl_weight=1", "update.minibatch=8"]),
)
def test_settings_of_one_section_add_up_in_any_order(settings):
    """Kills: a whole section that drops what was set of it before."""
    assert from_settings(settings) == {"update": {"learning_rate": 1e-5, "kl_weight": 1, "minibatch": 8}}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        *((order, "run") for order in in_any_order(["run=3", "run.epochs=3"])),
        *((order, "prompts") for order in in_any_order(["prompts=null", "prompts.source=animals"])),
        *((order, "run.epochs") for order in in_any_order(["run.epochs=3", "run={epochs: 4, seed: 1}"])),
        *((order, "run.epochs") for order in in_any_order(["run.epochs=3", "run.epochs=4"])),
        *((order, "update.guidance") for order in in_any_order(["update.guidance=true", "update.guidance=1"])),
        *((order, "starts.windows") for order in in_any_order(["starts.windows=[]", "starts={windows: [{}]}"])),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_any_order(settings, field):
    with pytest.raises(ConfigError, match="once") as caught:
        from_settings(settings)
    assert caught.value.field == field


def test_an_option_and_a_setting_of_the_same_field_must_agree():
    """Kills: `--epochs 5` over `--set run.epochs=3`, without a word."""
    assert from_settings(["run.epochs=5"], {"run.epochs": 5}) == {"run": {"epochs": 5}}
    with pytest.raises(ConfigError, match=r"run\.epochs.*\[3, 5\]"):
        from_settings(["run={epochs: 3}"], {"run.epochs": 5})


def test_what_is_laid_over_wins_and_the_rest_stays():
    text = lay_over("update: {learning_rate: 1e-3, minibatch: 4}", {"update": {"minibatch": 8}})
    assert parse_yaml(text, origin="test") == {"update": {"learning_rate": 1e-3, "minibatch": 8}}


def test_the_text_is_ascii_and_means_the_same():
    text = lay_over("description: 'Übung \U0001f600'", {})
    assert text.isascii()
    assert resolve("avatars-smoke", text).description == "Übung \U0001f600"


def test_nothing_stays_nothing():
    assert lay_over("", {}) == ""
