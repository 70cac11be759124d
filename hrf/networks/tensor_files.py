"""Weights in safetensors files: which files of a folder they are, and that they are a network's, name by name.

Libraries warn where tensors are missing or left over, and go on with whatever lies in memory, which is something else
in every process. Here that is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hrf.errors import ArtifactError

_WHOLE, _INDEX = ".safetensors", ".safetensors.index.json"
_SHOWN = 3
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel or DistributedDataParallel",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_model.model": "peft",
    "base_layer": "peft",
}
"""What libraries put into the names of a network's tensors while they wrap it."""
_ADAPTER = "lora_"
"""In the names of the tensors that peft adds."""


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The files with a network's weights: `STEM.safetensors`, or the shards that their index names.

    Args:
        folder: Of the network.
        stem: What its library calls them: `model`, or `diffusion_pytorch_model`.

    Raises:
        ArtifactError: If they are not there; what lies there instead is named.
    """
    whole, index = folder / f"{stem}{_WHOLE}", folder / f"{stem}{_INDEX}"
    if whole.is_file() and index.is_file():
        raise ArtifactError(
            index, problem=f"weights in shards beside all of them in {whole.name}", fix="remove the older ones"
        )
    if whole.is_file():
        return [whole]
    if index.is_file():
        return _existing_shards(index)
    others = [path.name for pattern in (".*safetensors*", "-*safetensors*") for path in folder.glob(stem + pattern)]
    if others:
        raise ArtifactError(
            whole,
            problem=f"no {whole.name} here, only a variant of it, or shards without an index: {_first(others)}",
            fix="load the model with `variant=` and save it again without one; of shards, add the index",
        )
    raise ArtifactError(
        whole,
        problem=f"no {whole.name} here, in one file or in shards (variants such as fp16 are not looked for; pickled "
        "weights are not loaded: they can run code)",
        fix="save the model with its library's save_pretrained: safe_serialization=True, and no variant",
    )


def read_tensors(folder: Path, stem: str, network: str) -> dict[str, Tensor]:
    """All tensors of a network's files, on the CPU; `network` is what messages say it should be.

    Raises:
        ArtifactError: If a file is missing or damaged, or the shards hold other tensors than their index says.
    """
    tensors: dict[str, Tensor] = {}
    files = weight_files(folder, stem)
    index = folder / f"{stem}{_INDEX}"
    shard_of = _shard_of_each(index) if files[0].name != f"{stem}{_WHOLE}" else {}
    for file in files:
        try:
            in_file = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                file, problem=f"not a loadable {network}: {error}", fix="bring the file anew: it is damaged"
            ) from error
        if shard_of:
            listed = {name for name, shard in shard_of.items() if shard == file.name}
            Misfit.of_names(listed, in_file).refuse(file, f"this shard as {index.name} has it")
        tensors |= in_file
    return tensors


def load_exactly(
    network: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, owner: str = "", fix: str = ""
) -> None:
    """Give a network the weights of a file, in place, in float32 and in evaluation mode.

    Args:
        network: Its present weights don't matter.
        tensors: All of its weights and buffers, by name, and nothing else.
        path: Where they are from, for messages.
        owner: What the network is, for messages; its class, unless said otherwise.
        fix: What to do about other tensors.

    Raises:
        ArtifactError: If tensors are missing, left over, or of another shape or kind of number.
    """
    Misfit.of(network.state_dict(), tensors).refuse(path, owner or f"a {type(network).__name__}", fix)
    network.load_state_dict(tensors, strict=True, assign=True)
    network.float().eval()


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """How the tensors of a file differ from those that were expected; names in order."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    """With what each is, and what it should be."""

    @classmethod
    def of(cls, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Self:
        """Compare names, shapes, and whether they are floating-point numbers."""
        names = cls.of_names(expected, found)
        misshapen = [
            f"{name} is {_described(found[name])}, not {_described(expected[name])}"
            for name in sorted(expected.keys() & found.keys())
            if found[name].shape != expected[name].shape
            or found[name].is_floating_point() != expected[name].is_floating_point()
        ]
        return cls(missing=names.missing, unexpected=names.unexpected, misshapen=misshapen)

    @classmethod
    def of_names(cls, expected: Iterable[str], found: Iterable[str]) -> Self:
        """Compare names alone."""
        wanted, there = {*expected}, {*found}
        return cls(missing=sorted(wanted - there), unexpected=sorted(there - wanted), misshapen=[])

    def refuse(self, path: Path, owner: str, fix: str = "") -> None:
        """Raise, if there is a difference at all.

        Args:
            path: The file.
            owner: Whose tensors they should be, for the message.
            fix: What to do about it, unless a wrapper's names explain all of it.

        Raises:
            ArtifactError: With the first few names of each sort.
        """
        sorts = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        misfits = [f"{len(names)} {sort} ({_first(names)})" for sort, names in sorts.items() if names]
        if misfits:
            raise ArtifactError(
                path,
                problem=f"not the layout of {owner}: {', '.join(misfits)}",
                fix=self._unwrapping() or fix or "give the weights that belong to it, all of them and nothing else",
            )

    def _unwrapping(self) -> str:
        """What to do about names that a wrapper explains, all of them; empty for others."""
        plain = {_unwrapped(name) for name in self.unexpected}
        left = [name for name in plain - {*self.missing} if _ADAPTER not in name]
        if left or not self.missing or not {*self.missing} <= plain:
            return ""
        inside = {part: wrapper for part, wrapper in _WRAPPERS.items() if any(_has(part, n) for n in self.unexpected)}
        merge = ", and merge its adapter first (merge_and_unload)" if "peft" in inside.values() else ""
        names = " and ".join(f"`{part}.` ({wrapper})" for part, wrapper in inside.items())
        return f"the names are those of a wrapped network, with {names}: save the network that is inside{merge}"


def _existing_shards(index: Path) -> list[Path]:
    shards = [index.with_name(name) for name in sorted({*_shard_of_each(index).values()})]
    for shard in shards:
        if not shard.is_file():
            raise ArtifactError(shard, problem=f"{index.name} names it, but it is not there", fix="bring all shards")
    return shards


def _shard_of_each(index: Path) -> dict[str, str]:
    """The index: tensor -> name of the shard that it is in."""
    try:
        shard_of = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(index, problem=f"no index of shards: {error!r}", fix="bring the file anew") from error
    # Names and nothing else: a path could lead out of the model's folder.
    odd = [name for name in shard_of.values() if not isinstance(name, str) or Path(name).name != name]
    if odd or not shard_of:
        raise ArtifactError(
            index, problem=f"no index of shards beside it: {_first(map(str, odd)) or 'empty'}", fix="bring it anew"
        )
    return shard_of


def _unwrapped(name: str) -> str:
    for part in _WRAPPERS:
        name = f".{name}".replace(f".{part}.", ".")[1:]
    return name


def _has(part: str, name: str) -> bool:
    return f".{part}." in f".{name}"


def _described(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
