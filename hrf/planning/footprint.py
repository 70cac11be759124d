"""What one forward pass of a denoiser takes: FLOPs, operations, memory. Counted by running it on torch's meta device.

Tensors on the meta device have shapes and no contents: the model's own code runs, whatever its architecture, and takes
neither the memory nor the time that is being counted. So there is no formula here that could be wrong about a layer.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from hrf.config import Lora
from hrf.errors import ConfigError
from hrf.policies.architecture import Architecture
from hrf.policies.kinds import kind_of_denoiser
from hrf.policies.weights import add_adapter

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Of a module and one sample, in float32. FLOPs are 2 per multiply-add and leave out elementwise operations."""

    num_parameters: int
    num_in_layers: int
    """Those of them in linear and convolution layers."""
    largest_block: int
    """Parameters of the largest of its blocks, of which sharded weights are gathered one at a time."""
    outside_blocks: int
    """Parameters in none of them."""
    buffer_bytes: int
    """Of what a module holds besides parameters, such as a table of positions."""
    num_tuned: int
    """How many parameters are tuned: all, or those of an adapter beside them."""
    num_tuned_tensors: int
    """How many tensors these are."""
    sample_shape: tuple[int, ...]
    """(C, H, W) of what goes in."""
    output_shape: tuple[int, ...]
    """(C, H, W) of what comes out; of latents packed into tokens, (tokens, channels)."""
    convolution_flops: int
    """Of a forward pass, in convolutions."""
    other_flops: int
    """Of a forward pass, in linear layers and attention."""
    num_operations: int
    """Of a forward pass: each is a kernel to be launched."""
    forward_bytes: int
    """Most memory that a forward pass has in use at a time, beside weights and input."""
    backward_bytes: int
    """The same for a forward and a backward pass, beside weights and gradients."""
    checkpointed_bytes: int
    """The same with gradient checkpointing."""
    forward_casts: int
    """How many weights have a copy at a time where a forward pass is in another precision than they."""
    backward_casts: int
    """The same for a forward and a backward pass."""
    checkpointed_casts: int
    """The same with gradient checkpointing."""

    @property
    def forward_flops(self) -> int:
        """Of a forward pass."""
        return self.convolution_flops + self.other_flops


def denoiser_footprint(
    config: Mapping[str, Any], lora: Lora | None = None, shape: tuple[int, int, int] | None = None
) -> Footprint:
    """Count a denoiser.

    Args:
        config: `config.json` of a denoiser of any kind.
        lora: The adapter that is tuned; None: all of its weights are. Its own FLOPs, about a percent, are left out.
        shape: (C, H, W) of a sample; None: as the model's files say.

    Raises:
        ConfigError: If it is of a class that is not known here, or no model can be made of it, or no such adapter.
    """
    kind = kind_of_denoiser(config)
    shape = shape or kind.sample_shape(Architecture(denoiser=config, scheduler={}), None)
    return _count_denoiser(json.dumps(dict(config), sort_keys=True), shape, lora)


def decoder_footprint(config: Mapping[str, Any], latent_shape: tuple[int, ...]) -> Footprint:
    """Count the decoder of an autoencoder, from latents [C, H, W] to an image; its parameters are the whole one's.

    Raises:
        ConfigError: If it is of a class that is not known here, or no model can be made of it.
    """
    return _count_decoder(json.dumps(dict(config), sort_keys=True), latent_shape)


@lru_cache
def _count_denoiser(config: str, shape: tuple[int, int, int], lora: Lora | None) -> Footprint:
    """Count what `config.json` describes; it takes seconds, and plans of several runs have few models."""
    values = json.loads(config)
    kind = kind_of_denoiser(values)
    model = _build(values, kind.denoiser)
    with _META:
        inputs = kind.question(model.config, shape)
    return _count(model, shape, inputs, lora)


@lru_cache
def _count_decoder(config: str, latent_shape: tuple[int, ...]) -> Footprint:
    model = _build(json.loads(config), "AutoencoderKL")
    with _META:
        inputs = {"sample": torch.empty(1, *latent_shape)}
    counted = _count(_Decoder(model), latent_shape, inputs)
    return replace(counted, num_parameters=sum(parameter.numel() for parameter in model.parameters()))


class _Decoder(nn.Module):
    """The half of an autoencoder that makes images."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = autoencoder.decoder, autoencoder.post_quant_conv

    def forward(self, sample: Tensor) -> Any:
        latents = self.post_quant_conv(sample) if self.post_quant_conv is not None else sample
        return diffusers.models.autoencoders.vae.DecoderOutput(sample=self.decoder(latents))


def _build(config: Mapping[str, Any], name: str) -> Any:
    if config.get("_class_name") != name:
        raise ConfigError(
            "model.source",
            expected=f"a model of class {name}",
            got=config.get("_class_name"),
            fix="choose another model: what this one takes is not known",
        )
    kind = getattr(diffusers, name)
    try:
        with _META:
            return kind.from_config(dict(config)).eval()
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ConfigError(
            "model.source", expected=f"a configuration of a {name}", got=str(error), fix="correct its config.json"
        ) from error


def _count(model: Any, shape: tuple[int, ...], inputs: dict[str, Any], lora: Lora | None = None) -> Footprint:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    num_in_layers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    *blocks, outside = _gathered_at_a_time(model)

    def run(*, backward: bool) -> tuple[_Memory, tuple[int, ...]]:
        parameters = list(model.parameters())
        gradients = (parameter.grad for parameter in parameters)
        memory = _Memory(parameters, [*gradients, *model.buffers(), *tree_leaves(inputs)])
        with memory, torch.set_grad_enabled(backward), _META:
            with _AsOnGpu():
                output = model(**inputs).sample
            if backward:
                output.backward(torch.empty_like(output))
        return memory, tuple(output.shape[1:])

    # Of the forward pass alone: in a backward pass the counter's hooks would keep the graph, and with it what
    # checkpointing recomputes, until Python next looks for reference cycles.
    with FlopCounterMode(display=False) as flops:
        forward, output_shape = run(backward=False)
    if lora:
        with _META:
            add_adapter(model, lora)
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_tuned = sum(parameter.numel() for parameter in tuned)
    with _META:
        for parameter in tuned:
            # As in an update: gradients are there before the first backward pass, and are added to.
            parameter.grad = torch.zeros_like(parameter)
    backward, _ = run(backward=True)
    checkpointed = backward
    if hasattr(model, "enable_gradient_checkpointing"):
        model.enable_gradient_checkpointing(
            partial(checkpoint, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _AsOnGpu()))
        )
        checkpointed, _ = run(backward=True)
    counts = flops.get_flop_counts()["Global"]
    convolutions = sum(count for operation, count in counts.items() if "convolution" in str(operation))
    return Footprint(
        num_parameters=num_parameters,
        num_in_layers=num_in_layers,
        largest_block=max(blocks, default=0),
        outside_blocks=outside,
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
        num_tuned=num_tuned,
        num_tuned_tensors=len(tuned),
        sample_shape=shape,
        output_shape=output_shape,
        convolution_flops=convolutions,
        other_flops=flops.get_total_flops() - convolutions,
        num_operations=forward.num_operations,
        forward_bytes=forward.peak_bytes,
        backward_bytes=backward.peak_bytes,
        checkpointed_bytes=min(checkpointed.peak_bytes, backward.peak_bytes),
        forward_casts=max(parameter.numel() for parameter in tuned) if lora else forward.peak_copied,
        backward_casts=backward.peak_copied,
        checkpointed_casts=min(checkpointed.peak_copied, backward.peak_copied),
    )


def _gathered_at_a_time(model: nn.Module) -> list[int]:
    """Parameters of each of a model's blocks, as far as they are in no block within it; and of all the rest."""
    left = {id(parameter): parameter.numel() for parameter in model.parameters()}
    classes = getattr(model, "_no_split_modules", None) or ()
    return [
        sum(left.pop(id(parameter), 0) for parameter in module.parameters())
        for module in reversed(list(model.modules()))
        if module is model or type(module).__name__ in classes
    ]


class _Memory(TorchDispatchMode):
    """Adds up the memory of tensors from when an operation makes them until nobody holds them any more.

    Copies of weights are counted apart, in numbers: how many there are does not depend on the batch.
    """

    def __init__(self, weights: Iterable[Tensor], known: Iterable[Any] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = self.peak_copied = self.num_operations = self._bytes = self._copied = 0
        self._weights, self._seen = WeakIdKeyDictionary(), WeakIdKeyDictionary()
        for weight in weights:
            self._weights[weight.untyped_storage()] = self._seen[weight.untyped_storage()] = True
        for tensor in known:
            if isinstance(tensor, Tensor):
                self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default and args[0].untyped_storage() in self._weights:
            self._copy(output)
        else:
            self.num_operations += not func.is_view
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _copy(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._seen[storage] = True
        self._copied += tensor.numel()
        self.peak_copied = max(self.peak_copied, self._copied)
        weakref.finalize(storage, self._forget, tensor.numel())

    def _add(self, storage: Any) -> None:
        # Views share the storage of what they are views of.
        if storage in self._seen:
            return
        self._seen[storage] = True
        self._bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, num_bytes: int) -> None:
        self._bytes -= num_bytes

    def _forget(self, copied: int) -> None:
        self._copied -= copied


class _AsOnGpu(TorchFunctionMode):
    """What the meta device would do otherwise than a GPU under autocast.

    Attention is by the fused kernel that GPUs have, which does not write out the whole matrix. Weights are copied at
    each use, as a policy's autocast keeps no copies; but for frozen ones, which are held in the pass's precision.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in (linear, conv2d) and args[1].requires_grad:
            return func(args[0], args[1].clone(), *args[2:], **(kwargs or {}))
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3] if args else (kwargs["query"], kwargs["key"], kwargs["value"])
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        return fused(query, key, value, None, torch.is_grad_enabled())[0]
