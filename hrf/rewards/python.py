"""A reward that is the user's own Python function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrf.errors import ConfigError, HrfError
from hrf.rewards.base import Prompts

_PROMPTS = "prompts"


@dataclass(frozen=True, kw_only=True)
class UserFunction:
    """A function named by the configuration, called with float32 images [B, 3, H, W] in [0, 1], read-only.

    A function with a parameter `prompts` gets the images' prompts, too: `f(images, prompts)` needs them, and
    `f(images, prompts=None)` takes what there is. Any other function is called as `f(images)`.
    """

    name: str
    """`module:function`."""
    function: Callable[..., Any]
    takes_prompts: bool = False
    needs_prompts: bool = False

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> Any:
        """Call the function.

        Raises:
            HrfError: If the function fails; the function's own exception is the cause.
        """
        try:
            return self.function(images, prompts=prompts) if self.takes_prompts else self.function(images)
        except HrfError:
            raise
        except Exception as error:
            raise HrfError(
                f"the reward {self.name} failed on {len(images)} images with {type(error).__name__}: {error}. "
                "Fix: call it by hand on a float32 array [B, 3, H, W] in [0, 1]; it must not write into its argument"
            ) from error


def load_user_function(name: str, *, field: str) -> UserFunction:
    """Import `module:function`.

    Raises:
        ConfigError: If the module cannot be imported, has no such function, or the function takes something else.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{field}.function",
            expected=f"a module {module_name!r} that can be imported",
            got=f"{type(error).__name__}: {error}",
            fix="install it where the steps run (on a cluster: into the image), or put its folder on PYTHONPATH",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{field}.function",
            expected=f"a function of the module {module_name!r}",
            got=function_name,
            fix="correct the name after the colon",
        )
    takes, needs = _prompt_parameter(function, function_name, field)
    return UserFunction(name=name, function=function, takes_prompts=takes, needs_prompts=needs)


def _prompt_parameter(function: Callable[..., Any], name: str, field: str) -> tuple[bool, bool]:
    """Whether a function takes prompts, and whether it needs them: what its signature says."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Functions written in C may not tell.
        return False, False
    parameter = signature.parameters.get(_PROMPTS)
    arguments = {} if parameter is None else {_PROMPTS: None}
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"{field}.function",
            expected=f"a function that can be called as {name}(images) or {name}(images, prompts=prompts)",
            got=f"{name}{signature}: {error}",
            fix="change its parameters: images first, `prompts` if it needs them, a default for every other one",
        ) from error
    return parameter is not None, parameter is not None and parameter.default is inspect.Parameter.empty
