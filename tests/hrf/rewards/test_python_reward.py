"""The user's own function as a reward."""

from __future__ import annotations

import numpy as np
import pytest

from hrf.config import Reward
from hrf.errors import ConfigError, HrfError, NumericalError
from hrf.rewards import build_reward

SOURCE = """
import numpy as np
LIMIT = 3
def redness(images):
    return images[:, 0].mean(axis=(1, 2))
def as_list(images):
    return [float(image.max()) for image in images]
def fails(images):
    return images["red"]
def writes(images):
    images[:] = 0
def refuses(images):
    from hrf.errors import NumericalError
    raise NumericalError("too dark", where="here", fix="light")
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "broken_rewards.py").write_text("def f(:", encoding="utf-8")
    (tmp_path / "failing_rewards.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "their_rewards"


def build(function: str):
    return build_reward(Reward(name="python", function=function))


def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 3, 4, 4), dtype=np.float32)


def test_the_function_is_called_with_the_images(user_module):
    reward = build(f"{user_module}:redness")
    assert reward.name == "their_rewards:redness"
    np.testing.assert_allclose(reward(images()), [image[0].mean() for image in images()], rtol=1e-6)


def test_a_list_of_numbers_will_do(user_module):
    assert build(f"{user_module}:as_list")(images()).shape == (3,)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("no_such_module_here:f", "ModuleNotFoundError"),
        ("broken_rewards:f", "SyntaxError"),
        ("failing_rewards:f", "ZeroDivisionError"),
        ("their_rewards:nothing", "nothing"),
        ("their_rewards:LIMIT", "LIMIT"),
    ],
)
def test_a_function_that_is_not_there_is_a_mistake_in_the_configuration(user_module, function, got):
    with pytest.raises(ConfigError) as caught:
        build(function)
    assert caught.value.field == "reward.function"
    assert got in str(caught.value.got)


def test_the_field_is_that_of_the_reward_that_was_configured(user_module):
    with pytest.raises(ConfigError) as caught:
        build_reward(Reward(name="python", function="a_b_c:d"), field="evaluation.held_out_reward")
    assert caught.value.field == "evaluation.held_out_reward.function"


@pytest.mark.parametrize(("function", "cause"), [("fails", IndexError), ("writes", ValueError)])
def test_a_failing_function_is_named_and_its_own_exception_kept(user_module, function, cause):
    with pytest.raises(HrfError, match=f"their_rewards:{function} failed on 3 images with {cause.__name__}") as caught:
        build(f"{user_module}:{function}")(images())
    assert isinstance(caught.value.__cause__, cause)


def test_an_error_of_ours_passes_through(user_module):
    with pytest.raises(NumericalError, match="too dark"):
        build(f"{user_module}:refuses")(images())
