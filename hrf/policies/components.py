"""The parts of a diffusers pipeline folder, one by one: networks, and the scheduler's configuration."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.modeling_utils import no_init_weights

from hrf.errors import ArtifactError
from hrf.networks import torchvision_ops
from hrf.networks.tensor_files import load_exactly, read_tensors, weight_files

# diffusers loads its networks, and peft, when they are first asked for, and torchvision with them.
torchvision_ops.declare_missing()

_WEIGHTS = "diffusion_pytorch_model"


def load_component(folder: Path, class_name: str) -> Any:
    """Load a network of diffusers in float32, in evaluation mode.

    Args:
        folder: With `config.json` and the weights.
        class_name: Of the network, as diffusers names it.

    Raises:
        ArtifactError: If the weights are missing, not safetensors, or are not exactly those of the configuration; or
            the configuration is another network's, or has settings that this version of diffusers doesn't know.
    """
    kind = getattr(diffusers, class_name)
    tensors = read_tensors(folder, _WEIGHTS, class_name)
    config = _network_config(folder / "config.json", kind)
    try:
        # All weights come from the file; drawing them first takes longer than reading them.
        with no_init_weights():
            network = kind.from_config(config)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise ArtifactError(
            folder / "config.json",
            problem=f"not a loadable {class_name}: {error}",
            fix=f"give a diffusers {class_name}",
        ) from error
    # Attention layers had other names in models of diffusers' first versions, the usual VAE of Stable Diffusion's too.
    network._fix_state_dict_keys_on_load(tensors)
    load_exactly(network, tensors, weight_files(folder, _WEIGHTS)[0])
    # diffusers notes the path it loaded from; saved again, the same model would differ from machine to machine.
    network.register_to_config(_name_or_path="")
    return network


def _network_config(file: Path, kind: Any) -> dict[str, Any]:
    """A network's configuration: its class, and all of its settings, are known."""
    config = read_json(file)
    if config.get("_class_name", kind.__name__) != kind.__name__:
        raise ArtifactError(
            file, problem=f"of a {config['_class_name']}, not a {kind.__name__}", fix=f"give a {kind.__name__}"
        )
    known = inspect.signature(kind.__init__).parameters
    # diffusers drops what it doesn't know, and makes another network of the same weights.
    unknown = [
        f"{name}: {value}"
        for name, value in config.items()
        if name not in known and not name.startswith("_") and value is not None and value is not False
    ]
    if unknown:
        raise ArtifactError(
            file,
            problem=f"settings that {kind.__name__} of diffusers {diffusers.__version__} does not know: "
            + ", ".join(unknown),
            fix="remove them if the network is the same without them, or choose another model",
        )
    return config


def scheduler_config(model_folder: Path) -> dict[str, Any]:
    """The model's own scheduler configuration.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    own = model_folder / "scheduler"
    # Early hub models have it beside the denoiser's.
    return read_json((own if own.is_dir() else model_folder) / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a pipeline folder's JSON files.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            path, problem=f"cannot be read: {error}", fix="give a folder in diffusers' pipeline layout"
        ) from error
