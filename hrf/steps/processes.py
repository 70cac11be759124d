"""Steps whose work several processes share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hrf.config import Config
from hrf.distributed.processes import check_processes, run_in_processes
from hrf.steps.context import RunContext

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_processes(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a step that knows `hrf.distributed.ranks.this_rank`: run it in `model.num_processes` processes.

    With one it runs here. Of several, this process is none: it waits for them, and raises what one of them raised.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        config = RunContext.read(str(kwargs["run"])).config
        num_processes = config.model.num_processes
        if num_processes == 1:
            return function(*args, **kwargs)
        num_gpus = _count_gpus(config)
        check_processes(num_processes, num_gpus=num_gpus, has_nccl=_has_nccl())
        result: Result = run_in_processes(function, kwargs, num_processes=num_processes, on_gpu=num_gpus > 0)
        return result

    return run


def _count_gpus(config: Config) -> int:
    """GPUs of this machine that ranks take: none where the configuration asks for none.

    A step without a GPU, such as `score` on a cluster, works in memory; who then asks for one raises that.
    """
    import torch

    scorers = [leaf for path, reward in config.trained_rewards.items() for leaf, _ in reward.leaves(path)]
    devices = {config.model.device} | {getattr(scorer, "device", "cpu") for scorer in scorers}
    return torch.cuda.device_count() if "cuda" in devices else 0


def _has_nccl() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_nccl_available()
