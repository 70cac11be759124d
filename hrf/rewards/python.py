"""A reward that is the user's own Python function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrf.errors import ConfigError, HrfError


@dataclass(frozen=True, kw_only=True)
class UserFunction:
    """A function named by the configuration, called with float32 images [B, 3, H, W] in [0, 1], read-only."""

    name: str
    """`module:function`."""
    function: Callable[[NDArray[np.float32]], Any]

    def __call__(self, images: NDArray[np.float32]) -> Any:
        """Call the function.

        Raises:
            HrfError: If the function fails; the function's own exception is the cause.
        """
        try:
            return self.function(images)
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
        ConfigError: If the module cannot be imported or has no such function.
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
    return UserFunction(name=name, function=function)
