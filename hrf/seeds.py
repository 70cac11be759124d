"""Seed streams: one independent random generator per purpose, epoch, root and branch.

A result must not depend on how work is batched or sharded, and the noise that chose something must never be
used again to train on it. Both follow when every stream has its own seed, derived from the names of its coordinates.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import torch


class Purpose(StrEnum):
    """What a stream of noise is for; streams of different purposes never meet."""

    ROOT = "root"
    START = "start"
    SELECTION = "selection"
    BRANCH = "branch"
    MINIBATCH = "minibatch"
    LEVELS = "levels"
    PREFIX_POOL = "prefix-pool"
    PROMPT = "prompt"
    POOL_PROMPT = "pool-prompt"
    ADAPTER = "adapter"
    EVALUATION = "evaluation"
    TEXT_DIRECTION = "text-direction"
    REPLICA = "replica"
    VERDICT = "verdict"


def derive_seed(run_seed: int, *coordinates: str | int) -> int:
    """Hash a run seed and coordinates to a seed in [0, 2^63).

    Args:
        run_seed: The seed of the run; any integer, 0 included.
        coordinates: What tells this stream from the others, such as ("branch", epoch, root, branch).

    Returns:
        The first 63 bits of BLAKE2b over the coordinates' text.
    """
    text = "/".join(str(part) for part in (run_seed, *coordinates))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def replica_seed(run_seed: int, replica: int) -> int:
    """Seed of a replica's training noise; the first one, 0, has that of a run without replicas."""
    return derive_seed(run_seed, Purpose.REPLICA, replica) if replica else run_seed


def stream(run_seed: int, purpose: Purpose, *coordinates: int) -> torch.Generator:
    """Open the random stream of one purpose and coordinate, such as (epoch, root, branch).

    Generators live on the CPU, so that a stream gives the same numbers whatever device the model is on.
    """
    return torch.Generator().manual_seed(derive_seed(run_seed, purpose.value, *coordinates))
