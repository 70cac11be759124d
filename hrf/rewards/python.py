"""A reward that is the user's own Python function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrf.errors import ConfigError, HrfError
from hrf.rewards.base import CheckedReward, Images, Prompts
from hrf.rewards.family import RewardFamily, RewardRecord
from hrf.storage.folders import canonical_json, file_sha256
from hrf.storage.weights import ABSENT, digest_or_absent

if TYPE_CHECKING:
    pass

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

    def __call__(self, images: Images, prompts: Prompts = None) -> Any:
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
    # The module may import it, while a server's own environment may lack torch.
    if find_spec("torchvision"):
        from hrf.networks.torchvision_ops import declare_missing

        declare_missing()
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


def _module_digest(module: str) -> str:
    """Of the module's source; of one in a package that of the whole package, as it may import the rest.

    It is found where a step finds it, and not imported: it is the user's code.
    """
    spec = PathFinder.find_spec(module.partition(".")[0], [os.getcwd(), *sys.path])
    if spec is None:
        return ABSENT
    if not spec.submodule_search_locations:
        return digest_or_absent(spec.origin) if spec.origin else ABSENT
    sources = {
        f"{number}/{file.relative_to(folder).as_posix()}": file_sha256(file)
        for number, folder in enumerate(spec.submodule_search_locations)
        for file in Path(folder).rglob("*.py")
    }
    return hashlib.sha256(canonical_json(sources)).hexdigest()


class PythonReward(RewardFamily):
    """A Python function of the user's."""

    name: Literal["python"] = "python"
    function: str = ""
    """`module:function`; it is called as f(images), or as f(images, prompts=...) if it has a parameter `prompts`."""

    catalogue = (
        RewardRecord(
            name="python",
            measures="what your function says: f(images), or f(images, prompts)",
            range="any finite number",
            direction="yours to decide: higher is better",
            needs_prompts=False,
            weights="yours",
            licence="yours",
            cost="yours",
        ),
    )

    def build(self, field: str, *, folder: Path | None, device: str | None) -> CheckedReward:
        """See `RewardFamily.build`."""
        del folder, device
        function = load_user_function(self.function, field=field)
        return CheckedReward(name=self.function, score=function, needs_prompts=function.needs_prompts, field=field)

    def problems(self, path: str) -> Iterator[ConfigError]:
        """See `RewardFamily.problems`."""
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", self.function):
            yield ConfigError(
                f"{path}.function",
                expected="module:function, such as my_package.rewards:redness",
                got=self.function,
                fix=f"set {path}.function",
            )

    def input_digests(self, path: str) -> dict[str, str]:
        """See `RewardFamily.input_digests`: the function's module."""
        return {f"{path}.function": _module_digest(self.function.partition(":")[0])}

    @classmethod
    def words(cls, settings: Mapping[str, Any], built_name: str) -> str:
        """See `RewardFamily.words`."""
        del built_name
        return f"the function {settings.get('function')}: larger is better"
