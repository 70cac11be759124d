"""The processes that share a step's work, its ranks: which of them this one is, and what they tell each other.

Sampling is shared out by roots and scoring by images, whose numbers don't depend on who computes them: one after
another, the parts are the whole bit for bit. The update is shared out by (branch, step) pairs; its gradients are added
up over the ranks, in another order than by one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # A step of one process that needs no torch starts without it.
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that share a step's work. All of them must ask the same things in the same order."""

    index: int = 0
    count: int = 1

    def part(self, total: int) -> slice:
        """Which of `total` things are this rank's: neighbours, so that all parts one after another are the whole.

        There are none where there are fewer things than ranks.
        """
        return slice(self.index * total // self.count, (self.index + 1) * total // self.count)

    def concatenate(self, part: Tensor) -> Tensor:
        """All ranks' parts one after another, on every rank: [M_r, ...] -> [sum of M_r, ...]."""
        if self.count == 1:
            return part
        import torch

        sizes = torch.zeros(self.count, dtype=torch.int64, device=part.device)
        sizes[self.index] = len(part)
        torch.distributed.all_reduce(sizes)
        # One sender after the other, as parts differ in length.
        parts = [
            part.contiguous() if rank == self.index else part.new_empty(size, *part.shape[1:])
            for rank, size in enumerate(sizes.tolist())
        ]
        for rank, sent in enumerate(parts):
            torch.distributed.broadcast(sent, src=rank)
        return torch.cat(parts)

    def concatenate_array(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same for numbers outside torch: [M_r] -> [sum of M_r]."""
        if self.count == 1:
            return part
        import torch

        whole: NDArray[np.float64] = self.concatenate(torch.from_numpy(part)).numpy()
        return whole

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: the same bits on all of them.

        A sharded one (`hrf.distributed.sharding`) is that already.
        """
        if self.count == 1:
            return
        import torch
        from torch.distributed.tensor import DTensor

        parts = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
        sent = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in parts]
        for work in sent:
            work.wait()

    def all_have(self, value: Tensor) -> bool:
        """Whether a tensor is the same on every rank."""
        return bool((self.concatenate(value[None]) == value).all())

    def wait_for_all(self) -> None:
        """Return once every rank has come this far."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes what all have made, once they have made it (`wait_for_all`)."""
        return self.index == 0


ALONE = Ranks()
"""A step in one process, which talks to nobody."""
_this = ALONE


def this_rank() -> Ranks:
    """This process among those of its step."""
    return _this


@contextlib.contextmanager
def joined(ranks: Ranks, *, meeting_file: Path, on_gpu: bool, timeout_seconds: float) -> Iterator[None]:
    """Be one of a step's ranks within the block.

    Args:
        ranks: Which one, of how many.
        meeting_file: Where ranks find each other: the same for all of them, and not there before.
        on_gpu: Each rank takes the GPU of its own number and talks by NCCL, about what is in memory by gloo. Otherwise
            all is in memory.
        timeout_seconds: After which a rank stops waiting for the others, with an error.
    """
    from accelerate import PartialState

    global _this
    state = PartialState(
        cpu=not on_gpu,
        backend="cuda:nccl,cpu:gloo" if on_gpu else "gloo",
        init_method=f"file://{meeting_file}",
        rank=ranks.index,
        world_size=ranks.count,
        timeout=timedelta(seconds=timeout_seconds),
    )
    _this = ranks
    try:
        yield
    finally:
        _this = ALONE
    # After an error the process ends anyway, and others may be gone.
    state.destroy_process_group()
