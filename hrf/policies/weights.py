"""How tuned weights lie in a policy folder: all of a denoiser's, or a low-rank adapter's beside a base's.

unet/, or transformer/                  all weights, as diffusers saves a denoiser
pytorch_lora_weights.safetensors        an adapter's, as diffusers' pipelines load one
average/                                the moving average of either, where there is one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hrf.config import Lora
from hrf.distributed.sharding import class_name
from hrf.errors import ArtifactError, ConfigError
from hrf.networks.tensor_files import Misfit
from hrf.policies.components import read_json
from hrf.policies.kinds import Kind, kind_of_denoiser, load_denoiser
from hrf.policies.policy_folder import ADAPTER_NAMES, denoiser_folder
from hrf.seeds import Purpose, stream
from hrf.storage.names import AVERAGE_FOLDER, LORA_FILE

_ADAPTER = "default"
_METADATA_KEY = "lora_adapter_metadata"


class TunedWeights(Protocol):
    """How tuned weights are read and written."""

    def load(self, base: Path, folder: Path, *, reference: bool) -> tuple[Any, Any]:
        """(denoiser with the weights in `folder`, reference with the base's), on the CPU; the reference is frozen.

        Without `reference`, the second is None where it would be another network.
        """
        ...

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write a denoiser's tuned weights into an existing folder."""
        ...

    def save_fresh(self, base: Path, folder: Path, *, run_seed: int) -> None:
        """Write the weights of an untrained policy: they make no difference to the base."""
        ...

    def save_average(self, denoiser: nn.Module, average: Mapping[str, Tensor], folder: Path) -> None:
        """Write the moving average of the weights, by parameter name, into an existing folder."""
        ...

    def load_average(self, denoiser: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Read it back; the weights in the folder themselves where it has none."""
        ...


def average_folder(folder: Path) -> Path:
    """Where a policy's moving average lies; the policy folder itself where it has none."""
    averaged = folder / AVERAGE_FOLDER
    return averaged if averaged.is_dir() else folder


@dataclass(frozen=True)
class FullWeights:
    """All weights are tuned; the reference is a second network."""

    def load(self, base: Path, folder: Path, *, reference: bool) -> tuple[Any, Any]:
        """Load one network, or two."""
        untuned = denoiser_folder(base)
        frozen = load_denoiser(untuned).requires_grad_(False) if reference else None
        return _load_tuned(denoiser_folder(folder), read_json(untuned / "config.json")), frozen

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write the denoiser's folder, in float32."""
        network: Any = denoiser
        network.save_pretrained(folder / _kind(network).component)

    def save_fresh(self, base: Path, folder: Path, *, run_seed: int) -> None:
        """Copy the base's."""
        del run_seed
        untuned = denoiser_folder(base)
        shutil.copytree(untuned, folder / untuned.name)

    def save_average(self, denoiser: nn.Module, average: Mapping[str, Tensor], folder: Path) -> None:
        """Write `average/`."""
        network: Any = denoiser
        averaged = type(network).from_config(network.config)
        averaged.load_state_dict({**network.state_dict(), **average})
        averaged.save_pretrained(folder / AVERAGE_FOLDER)

    def load_average(self, denoiser: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Read `average/`, or the weights."""
        tuned: Any = denoiser
        network = _load_tuned(denoiser_folder(average_folder(folder)), tuned.config)
        return {name: value.detach().clone() for name, value in network.named_parameters()}


@dataclass(frozen=True)
class LoraWeights:
    """An adapter beside frozen weights is tuned; the reference is the same network with the adapter switched off."""

    settings: Lora

    def load(self, base: Path, folder: Path, *, reference: bool) -> tuple[Any, Any]:
        """Load one network and put the adapter in; of the base's own folder, which has none, it changes nothing.

        Raises:
            ArtifactError: If the adapter's file is missing, damaged, or another adapter's.
            ConfigError: If one of `policy.lora.targets` is no layer's name.
        """
        del reference
        network = load_denoiser(denoiser_folder(base))
        if folder == base:
            network.requires_grad_(False)
            return network, network
        add_adapter(network, self.settings)
        with torch.no_grad():
            for name, value in self._read(network, folder).items():
                network.get_parameter(name).copy_(value)
        return network, AdapterOff(network)

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Write the adapter."""
        self._write(_kind(denoiser), tuned_parameters(denoiser), folder)

    def save_average(self, denoiser: nn.Module, average: Mapping[str, Tensor], folder: Path) -> None:
        """Write the averaged adapter."""
        (folder / AVERAGE_FOLDER).mkdir()
        self._write(_kind(denoiser), average, folder / AVERAGE_FOLDER)

    def load_average(self, denoiser: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Read the averaged adapter, or the adapter."""
        return self._read(denoiser, average_folder(folder))

    def save_fresh(self, base: Path, folder: Path, *, run_seed: int) -> None:
        """Write an adapter as it is before training: A from a normal distribution of std 1/r, B zero, their product 0.

        That initialisation is the one called "gaussian" by peft; here it has streams of its own.

        Raises:
            ConfigError: If one of `policy.lora.targets` is no layer's name.
        """
        network = load_denoiser(denoiser_folder(base))
        add_adapter(network, self.settings)
        fresh = {}
        for index, (name, value) in enumerate(sorted(tuned_parameters(network).items())):
            drawn = torch.randn(value.shape, generator=stream(run_seed, Purpose.ADAPTER, index)) / self.settings.rank
            fresh[name] = drawn if f".lora_A.{_ADAPTER}." in name else torch.zeros_like(value)
        self._write(_kind(network), fresh, folder)

    def _write(self, kind: Kind, tensors: Mapping[str, Tensor], folder: Path) -> None:
        named = {_file_name(kind, name): value.detach().float().cpu().contiguous() for name, value in tensors.items()}
        about = {
            f"{kind.component}.r": self.settings.rank,
            f"{kind.component}.lora_alpha": self.settings.alpha,
            f"{kind.component}.target_modules": list(self.settings.targets),
        }
        # One entry only: safetensors writes several in any order, and the same adapter would get other bytes.
        save_file(named, folder / LORA_FILE, metadata={_METADATA_KEY: json.dumps(about, sort_keys=True)})

    def _read(self, network: nn.Module, folder: Path) -> dict[str, Tensor]:
        """The tensors of a file by the names of the adapter's parameters."""
        file, kind = folder / LORA_FILE, _kind(network)
        tuned = tuned_parameters(network)
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(file, problem=f"no adapter: {error}", fix="run the step that made it again") from error
        expected = {_file_name(kind, name): value for name, value in tuned.items()}
        Misfit.of(expected, tensors).refuse(
            file,
            "policy.lora's adapter (it is one of other layers, or of another rank than policy.lora.rank)",
            fix="set policy.lora.rank and policy.lora.targets to those that it was made with",
        )
        return {name: tensors[_file_name(kind, name)] for name in tuned}


class AdapterOff(nn.Module):
    """A network with its adapter switched off: the frozen weights beside it, without a second copy of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Nothing: the network is compiled where it is tuned."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Ask the frozen weights; the adapter is on again afterwards, whatever happens."""
        network: Any = self.network
        network.disable_adapters()
        try:
            return network(*arguments, **options)
        finally:
            network.enable_adapters()


def add_adapter(network: Any, settings: Lora) -> None:
    """Freeze a network and put an adapter into it, in place; its weights are still arbitrary.

    Raises:
        ConfigError: If one of the targets is no layer's name: an adapter that binds nothing would train nothing.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    network.requires_grad_(False)
    layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise ConfigError(
                "policy.lora.targets",
                expected="ends of the names of linear or convolution layers of the denoiser",
                got=target,
                fix=f"choose among {', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}, or longer ends",
            )
    adapter = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets))
    network.add_adapter(adapter, adapter_name=_ADAPTER)
    assert any(isinstance(module, LoraLayer) for module in network.modules())


def round_frozen_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold the frozen layers of a network beside an adapter in the precision of its forward passes, in place.

    Under autocast a linear or convolution layer rounds its weights so at every pass anyway: what comes out is the same
    to the bit. Normalisations take theirs as they are, and keep them.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.requires_grad:
            module.to(dtype)


def _load_tuned(folder: Path, config: Mapping[str, Any]) -> Any:
    """Load a denoiser's tuned weights.

    Args:
        folder: With them and their configuration.
        config: Of the denoiser that was tuned.

    Raises:
        ArtifactError: If theirs is another one: it can be another function of the same tensors.
    """
    network = load_denoiser(folder)
    tuned = network.config
    other = [
        f"{name}: {tuned.get(name)}, not {value}"
        for name, value in config.items()
        if name[0] != "_" and tuned.get(name) != value
    ]
    if other:
        raise ArtifactError(
            folder / "config.json",
            problem=f"another network than the base's: {', '.join(other)}",
            fix="give a policy that was tuned from this base, as the run wrote it",
        )
    return network


def tuned_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Those of a network's parameters that are tuned, by name."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def _kind(network: Any) -> Kind:
    return kind_of_denoiser({**network.config, "_class_name": class_name(network)})


def _file_name(kind: Kind, parameter: str) -> str:
    """`X.lora_A.default.weight` -> `unet.X.lora.down.weight`, or what else diffusers calls the same."""
    down, up = ADAPTER_NAMES[kind.component]
    name = parameter.replace(f".lora_A.{_ADAPTER}.", down).replace(f".lora_B.{_ADAPTER}.", up)
    return f"{kind.component}.{name}"
