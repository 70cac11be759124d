"""The example of a new reward in the documentation is whole: applied to a copy of the library, it scores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, fenced

(DIFF,) = fenced("diff", PAGES["docs/rewards.md"])
PROGRAM = """
import numpy as np
from hrf.config import Config, resolve
from hrf.errors import ConfigError
from hrf.rewards import CATALOGUE, build_reward, reward_words

config = resolve("avatars-compressibility", "reward: {name: brightness, target: 0.7}")
assert Config.from_yaml(config.to_yaml()) == config
pictures = np.stack([np.full((3, 8, 8), level, dtype=np.float32) for level in (0.2, 0.7, 1.0)])
np.testing.assert_allclose(build_reward(config.reward)(pictures), [-0.5, 0.0, -0.3], atol=1e-6)

terms = "[{reward: {name: brightness}, weight: 2}, {}]"
total = resolve("", f"reward: {{name: weighted_sum, terms: {terms}}}").reward
assert build_reward(total).name == "2 brightness + 1 jpeg_compressibility"

try:
    resolve("", "reward: {name: brightness, target: 2}")
except ConfigError as error:
    assert error.field == "reward.target"
else:
    raise AssertionError("a target beyond 1")

(record,) = [record for record in CATALOGUE if record.name == "brightness"]
words = reward_words(config.to_mapping()["reward"], "brightness")
assert words == f"{record.measures} (0.7): larger is better"
"""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the library with the example in it."""
    shutil.copytree(ROOT / "hrf", tmp_path / "hrf", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    subprocess.run(["git", "apply", "-"], input=DIFF.encode(), cwd=tmp_path, check=True)
    return tmp_path


def test_it_touches_two_files_at_most() -> None:
    assert DIFF.count("\n+++ ") + DIFF.startswith("+++ ") <= 2


def test_it_scores_is_listed_and_is_described(changed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(changed)}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=changed, env=environment, check=True)


def test_the_new_file_is_in_the_projects_style(changed: Path) -> None:
    file = changed / "hrf" / "rewards" / "brightness.py"
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(file)]
        subprocess.run(ruff, check=True)
