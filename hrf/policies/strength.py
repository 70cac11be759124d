"""Strength: how much of what was learnt a policy keeps, base + a (tuned - base) with a in (0, 1]. Needs no torch.

It is folded into the stored weights, once: `policy.json` then says `strength` as a fact of their origin, by which
nobody multiplies when they are loaded. So plain diffusers draws what was measured.

Source: interpolation of fine-tuned weights with pretrained ones (WiSE-FT, arXiv 2109.01903), of rewarded ones (WARP,
2406.16768). Of a low-rank adapter, whose product B A is added to the base's weights, a scales B alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from hrf.errors import ConfigError
from hrf.policies.policy_folder import adapter_pairs, copy_policy, denoiser_folder
from hrf.storage.names import LORA_FILE, POLICY_FILE

_Array = NDArray[Any]


def check_strength(strength: float, field: str) -> None:
    """Refuse what is no strength.

    Raises:
        ConfigError: If it is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ConfigError(
            field,
            expected="a strength above 0 and at most 1: 1 is the tuned model, and towards 0 lies the base",
            got=strength,
            fix="choose one in between, such as 0.5",
        )


def fold_strength(policy: Path, base: Path, target: Path, strength: float) -> None:
    """Write a policy at some strength into an existing folder, as it is shipped: averaged weights where it has them.

        full weights   w = base + a (tuned - base), in float32
        an adapter     B = a B_tuned; A and alpha as they are, so that the product B A is scaled once

    At strength 1 the bytes are the policy's own. What was folded before is folded further: strengths multiply.

    Args:
        policy: A policy folder.
        base: Folder of the base that it was tuned from.
        target: Where.
        strength: a, in (0, 1].

    Raises:
        ArtifactError: If the policy has no weights.
        ValueError: If it is no strength.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"a strength is in (0, 1], got {strength}")
    copy_policy(policy, target, averaged=True)
    if strength == 1:
        return
    if (target / LORA_FILE).is_file():
        ups = {*adapter_pairs(_names(target / LORA_FILE)).values()}
        _rewrite(target / LORA_FILE, lambda name, tuned: strength * tuned if name in ups else tuned)
    else:
        files = sorted(denoiser_folder(base).glob("*.safetensors"))
        untuned = {name: file for file in files for name in _names(file)}

        def blended(name: str, tuned: _Array) -> _Array:
            with safe_open(untuned[name], "np") as opened:
                reference = opened.get_tensor(name)
            # Counters and the like are not interpolated.
            return reference + strength * (tuned - reference) if np.issubdtype(tuned.dtype, np.floating) else tuned

        for file in sorted(denoiser_folder(target).glob("*.safetensors")):
            _rewrite(file, blended)
    about = json.loads((target / POLICY_FILE).read_text(encoding="utf-8"))
    about["strength"] = about.get("strength", 1.0) * strength
    (target / POLICY_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def strength_of(policy: Path) -> float:
    """The strength that is folded into a policy folder's weights: 1 unless its `policy.json` says otherwise."""
    return float(json.loads((policy / POLICY_FILE).read_text(encoding="utf-8")).get("strength", 1.0))


def _names(file: Path) -> Iterator[str]:
    with safe_open(file, "np") as opened:
        yield from opened.keys()


def _rewrite(file: Path, changed: Callable[[str, _Array], _Array]) -> None:
    """Replace the tensors of a file, each by what becomes of it; they keep their types."""
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
        tensors = {name: changed(name, opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, file, metadata=metadata)
