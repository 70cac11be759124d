"""The user's own function as a reward."""

from __future__ import annotations

import numpy as np
import pytest

from hrf.errors import ConfigError, HrfError, NumericalError
from hrf.rewards import build_reward
from hrf.rewards.python import PythonReward

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
def lengths(images, prompts):
    return [len(prompt) for prompt in prompts]
def lengths_by_keyword(images, *, prompts):
    return lengths(images, prompts)
def lengths_if_any(images, prompts=None):
    return lengths(images, prompts) if prompts else [-1] * len(images)
def scaled(images, scale=2):
    return [scale] * len(images)
def two_things(images, texts):
    return 0
def nothing_at_all():
    return 0
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
    return build_reward(PythonReward(function=function))


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
        build_reward(PythonReward(function="a_b_c:d"), field="evaluation.held_out_reward")
    assert caught.value.field == "evaluation.held_out_reward.function"


@pytest.mark.parametrize(("function", "cause"), [("fails", IndexError), ("writes", ValueError)])
def test_a_failing_function_is_named_and_its_own_exception_kept(user_module, function, cause):
    with pytest.raises(HrfError, match=f"their_rewards:{function} failed on 3 images with {cause.__name__}") as caught:
        build(f"{user_module}:{function}")(images())
    assert isinstance(caught.value.__cause__, cause)


def test_an_error_of_ours_passes_through(user_module):
    with pytest.raises(NumericalError, match="too dark"):
        build(f"{user_module}:refuses")(images())


PROMPTS = ["a", "abc", "ab"]


@pytest.mark.parametrize("function", ["lengths", "lengths_by_keyword"])
def test_a_parameter_called_prompts_gets_them_and_needs_them(user_module, function):
    reward = build(f"{user_module}:{function}")
    assert reward.needs_prompts
    assert reward(images(), PROMPTS).tolist() == [1, 3, 2]


def test_prompts_with_a_default_are_optional(user_module):
    reward = build(f"{user_module}:lengths_if_any")
    assert not reward.needs_prompts
    assert reward(images()).tolist() == [-1] * 3
    assert reward(images(), PROMPTS).tolist() == [1, 3, 2]


@pytest.mark.parametrize("function", ["scaled", "redness"])
def test_a_function_of_images_alone_is_called_with_images_alone(user_module, function):
    """Kills passing the prompts by position: they would become the scale."""
    reward = build(f"{user_module}:{function}")
    assert not reward.needs_prompts
    assert (reward(images(), PROMPTS) == reward(images())).all()


@pytest.mark.parametrize("function", ["two_things", "nothing_at_all"])
def test_a_function_that_cannot_be_called_with_images_is_found_early(user_module, function):
    with pytest.raises(ConfigError, match=r"\(images, prompts=prompts\)") as caught:
        build(f"{user_module}:{function}")
    assert caught.value.field == "reward.function"


def test_a_function_that_hides_its_signature_is_called_with_images():
    reward = build("builtins:max")
    assert not reward.needs_prompts
    with pytest.raises(NumericalError, match=r"must be \[1\], got \[3, 4, 4\]"):
        reward(images()[:1])
