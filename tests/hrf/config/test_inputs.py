"""What a configuration names on this machine is known by its contents."""

import sys

import pytest

from hrf.config import Config, resolve
from hrf.config.inputs import input_digests
from hrf.config.overrides import from_settings
from hrf.storage.weights import ABSENT

TEXT = {"model": {"source": "somewhere", "guidance_scale": 5.0}, "evaluation": {"features": "pixels", "classifier": ""}}
LIMITS = {"gate": {"monitors": {"unrecognised_fraction": None}}}


def test_what_comes_with_the_package_or_from_elsewhere_is_not_read():
    assert input_digests(resolve("avatars-compressibility")) == {}
    assert input_digests(resolve("sd15-compressibility")) == {}
    assert input_digests(resolve("sd15-pickscore")) == {}


def test_a_changed_file_or_folder_has_another_digest_and_the_same_contents_the_same(tmp_path):
    (tmp_path / "model").mkdir()
    names = ["model/weights", "train.txt", "evaluate.txt"]
    config = Config.from_mapping(
        {
            **TEXT,
            **LIMITS,
            "model": {**TEXT["model"], "source": str(tmp_path / "model")},
            "prompts": {"source": str(tmp_path / "train.txt"), "evaluation_source": str(tmp_path / "evaluate.txt")},
        }
    )
    fields = ["model.source", "prompts.source", "prompts.evaluation_source"]
    for name in names:
        (tmp_path / name).write_text("one")
    first = input_digests(config)
    assert list(first) == fields
    for name, field in zip(names, fields, strict=True):
        (tmp_path / name).write_text("two")
        now = input_digests(config)
        assert {each for each in fields if now[each] != first[each]} == {field}
        (tmp_path / name).write_text("one")
    assert input_digests(config) == first


@pytest.mark.parametrize("section", ["reward", "shaping.reward", "evaluation.held_out_reward"])
def test_a_changed_reward_function_has_another_digest_and_is_not_imported(tmp_path, monkeypatch, section):
    """Kills: a digest of the function's name; of its own file alone, where it imports its neighbours."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "alone.py").write_text("raise SystemExit")
    package = tmp_path / "together"
    package.mkdir()
    for name in ("__init__.py", "rewards.py", "helpers.py"):
        (package / name).write_text("raise SystemExit")

    def digest(function: str) -> str:
        config = resolve("").with_changes(from_settings([], {section: {"name": "python", "function": function}}))
        ((field, found),) = input_digests(config).items()
        assert field == f"{section}.function"
        return found

    alone, together = digest("alone:f"), digest("together.rewards:f")
    (tmp_path / "alone.py").write_text("raise SystemExit(1)")
    (package / "helpers.py").write_text("raise SystemExit(1)")
    assert ABSENT not in (alone, together)
    assert digest("alone:f") != alone
    assert digest("together.rewards:f") != together
    assert digest("nowhere:f") == ABSENT


def test_a_module_is_looked_for_where_a_step_looks_for_it(tmp_path, monkeypatch):
    """Steps are started as `python -m`, which puts the working directory first."""
    (tmp_path / "mine.py").write_text("")
    config = resolve("").with_changes({"reward": {"name": "python", "function": "mine:f"}})
    assert input_digests(config) == {"reward.function": ABSENT}
    monkeypatch.chdir(tmp_path)
    assert input_digests(config)["reward.function"] != ABSENT
