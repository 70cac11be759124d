"""A network's weights shared out between the ranks: each holds a part of every tensor (FSDP2, torch's `fully_shard`).

Whatever asks a sharded network a question gathers its weights block by block, so all ranks must ask it as often, and go
backward as often. Where they can't, as sampling takes each of them another number of calls, it is gathered as a whole.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hrf.distributed.ranks import Ranks


def shard(network: nn.Module, block_classes: Sequence[str], *, ranks: Ranks, device: torch.device) -> None:
    """Share a network's weights out, in place; on every rank, from the same weights in memory.

    A block goes to its device as a whole and leaves its part there, one after the other: no device ever holds the
    whole network.

    Args:
        network: Whose forward and backward passes, from now on, all ranks make together. Gradients are added up over
            the ranks.
        block_classes: Names of the classes of its blocks, each of which is gathered at a time.
        ranks: Those that share it.
        device: Where its parts lie.
    """
    # Nobody changes the outputs of these networks' blocks in place: the gradients are those of one process.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (ranks.count,))
    blocks = [module for module in network.modules() if type(module).__name__ in block_classes]
    # Blocks within blocks first.
    for module in (*reversed(blocks), network):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for part in _sharded_modules(network):
        # The loss is divided by a minibatch's branches already. gloo knows no other reduction than a sum.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


def is_sharded(network: nn.Module) -> bool:
    """Whether a network's weights are shared out."""
    return isinstance(network, FSDPModule)


def class_name(network: nn.Module) -> str:
    """Of a network's class; of a sharded one's, which is made for it, the one before."""
    return next(kind.__name__ for kind in type(network).__mro__ if not issubclass(kind, FSDPModule))


@contextlib.contextmanager
def gathered(*networks: nn.Module | None) -> Iterator[None]:
    """Within the block, every rank has all weights of these networks, and may ask them on its own; without gradients.

    Of networks that are not sharded, nothing happens.
    """
    modules = [module for network in networks if network is not None for module in _sharded_modules(network)]
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a sharded network as a whole, on every rank; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collect(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Whole tensors on the first rank, those of sharded networks in memory; on the others none. All ranks must ask."""
    collected = {}
    for name, tensor in tensors.items():
        # One at a time: together they are what no device holds.
        value = whole(tensor).cpu() if isinstance(tensor, DTensor) else tensor
        if ranks.is_first:
            collected[name] = value
    return collected


def placed_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that every rank has, where a parameter of the same shape lies: on its device, sharded as it is."""
    moved = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    # Without a source: nothing has to be sent, as all have the same.
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _sharded_modules(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]
