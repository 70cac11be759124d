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
        num_gpus = _count_gpus() if _on_gpu(config) else 0
        check_processes(num_processes, num_gpus=num_gpus, has_nccl=_has_nccl())
        result: Result = run_in_processes(function, kwargs, num_processes=num_processes, on_gpu=num_gpus > 0)
        return result

    return run


def _on_gpu(config: Config) -> bool:
    """Whether any network that ranks run is on a GPU: the denoiser, a scorer, or the encoder that compares siblings.

    A step without a GPU, such as `score` on a cluster, works in memory; who then asks for one raises that.
    """
    scorers = [leaf for path, reward in config.trained_rewards.items() for leaf, _ in reward.leaves(path)]
    devices = {config.model.device} | {getattr(scorer, "device", "cpu") for scorer in scorers}
    if config.update.sibling_distance_weight:
        devices.add(config.evaluation.encoder.device)
    return "cuda" in devices


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _has_nccl() -> bool:
    import torch

    return torch.distributed.is_available() and torch.distributed.is_nccl_available()
