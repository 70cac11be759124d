"""The mean of several policies' tuned weights, which were trained from the same ones (model soups, arXiv 2203.05482).

All weights are averaged number by number. Adapters are not: what one adds to a layer is a product B A, and the mean of
products is not the product of means. That mean has up to n times the rank, from which a run of the configured rank
could not go on. So the mean of A is kept, and of all B that go with it the one is taken whose product is nearest to the
mean of products, in least squares (A^+ is the pseudoinverse):

    A' = mean A_i,    B' = (mean B_i A_i) A'^+ = mean B_i (A_i A'^+)

That is exact where the A_i agree, as they do to first order in what was trained; the rest is measured and returned.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hrf.networks.tensor_files import Misfit
from hrf.policies.policy_folder import adapter_pairs
from hrf.storage.names import LORA_FILE


def average_policies(policies: Sequence[Path], names: Iterable[str], folder: Path) -> float:
    """Write the mean of policies into an existing folder.

    Sums are in float64 and in the order of `policies`: equal orders give equal bits.

    Args:
        policies: Verified policy folders of one run.
        names: The files that are averaged, or copied from the first policy where they hold no tensors.
        folder: Where.

    Returns:
        Of adapters, the largest share of a mean of products (in its squared norm) that one adapter could not hold; 0
        where all weights are tuned.

    Raises:
        ArtifactError: If the policies' tensors are not of the same names and shapes.
    """
    left_out = 0.0
    for name in sorted(names):
        target, files = folder / name, [policy / name for policy in policies]
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix != ".safetensors":
            shutil.copyfile(files[0], target)
            continue
        found, metadata = zip(*map(_read, files), strict=True)
        for tensors, file in zip(found, files, strict=True):
            Misfit.of(found[0], tensors).refuse(file, f"those of {files[0]}", fix="run the replicas' steps again")
        averaged = {key: _mean([tensors[key].double() for tensors in found]) for key in found[0]}
        if target.name == LORA_FILE:
            for down, up in adapter_pairs(averaged).items():
                averaged[up], lost = nearest_up(
                    [tensors[up].double() for tensors in found],
                    [tensors[down].double() for tensors in found],
                    averaged[down],
                )
                left_out = max(left_out, lost)
        save_file(
            {key: value.to(found[0][key].dtype).contiguous() for key, value in averaged.items()}, target, metadata[0]
        )
    return left_out


def nearest_up(ups: Sequence[Tensor], downs: Sequence[Tensor], down: Tensor) -> tuple[Tensor, float]:
    """The B' that goes with A' for a mean of products B_i A_i; see the module.

    Args:
        ups: The B_i, (outputs, rank) or a convolution's (outputs, rank, 1, 1).
        downs: The A_i, (rank, inputs) or (rank, inputs, height, width).
        down: A', of the shape of an A_i.

    Returns:
        B', of the shape of a B_i, and |mean B_i A_i - B' A'|^2 / |mean B_i A_i|^2, 0 where the mean is 0.
    """
    pairs = [(up.flatten(1), each.flatten(1)) for up, each in zip(ups, downs, strict=True)]
    flat_down = down.flatten(1)
    inverse = torch.linalg.pinv(flat_down)
    nearest = _mean([up @ (each @ inverse) for up, each in pairs])
    exact = _mean([up @ each for up, each in pairs])
    whole = float(exact.square().sum())
    lost = float((exact - nearest @ flat_down).square().sum())
    return nearest.reshape(ups[0].shape), lost / whole if whole > 0 else 0.0


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total / len(tensors)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    with safe_open(file, framework="pt") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata()  # noqa: SIM118
