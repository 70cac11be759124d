"""`--set` options, and overrides as a pipeline's parameter takes them."""

import pytest

from hrf.config import resolve
from hrf.config.yaml_text import parse_yaml
from hrf.errors import ConfigError
from pipelines.overrides import from_settings, lay_over


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


@pytest.mark.parametrize("setting", ["update.learning_rate", "=3", "update.=3", ".x=1", "run.epochs=[1"])
def test_a_broken_setting_is_refused(setting):
    with pytest.raises(ConfigError):
        from_settings([setting])


def test_a_field_that_is_also_a_section_is_refused():
    with pytest.raises(ConfigError, match="once"):
        from_settings(["run=3", "run.epochs=3"])


def test_what_is_laid_over_wins_and_the_rest_stays():
    text = lay_over("update: {learning_rate: 1e-3, minibatch: 4}", {"update": {"minibatch": 8}})
    assert parse_yaml(text, origin="test") == {"update": {"learning_rate": 1e-3, "minibatch": 8}}


def test_the_text_is_ascii_and_means_the_same():
    text = lay_over("description: 'Übung'", {})
    assert text.isascii()
    assert resolve("avatars-smoke", text).description == "Übung"


def test_nothing_stays_nothing():
    assert lay_over("", {}) == ""
