"""CLIP by open_clip: unit embeddings of images and of texts.

A model lies in open_clip's own folder layout, as open_clip saves it to the hub: `open_clip_config.json`, which says
what the network is (the QuickGELU of OpenAI's weights included) and how pictures are prepared, and
`open_clip_model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hrf.errors import ArtifactError
from hrf.networks.calls import Caller, pictures, scorer_library, usable_device, without_warnings
from hrf.networks.settings import Network
from hrf.networks.tensor_files import load_exactly
from hrf.storage.weights import PinnedWeights, weights_folder

HUB_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
)
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_broken = partial(
    ArtifactError,
    producer="open_clip",
    fix=f"give a folder with {_CONFIG} and {_WEIGHTS}, as open_clip.push_to_hf_hub.save_for_hf writes them",
)


@dataclass(frozen=True, kw_only=True)
class OpenClip(Caller):
    """A CLIP model in evaluation mode, float32."""

    transform: Callable[[Any], Tensor]
    """open_clip's preparation of a picture: resize, crop, normalise."""
    tokenizer: Callable[[list[str]], Tensor]
    """Texts to [n, context length]; longer texts are cut off, as everywhere with CLIP."""

    @property
    def embedding_size(self) -> int:
        """D, the length of an embedding."""
        return int(self.model.encode_text(self.tokenizer([""])).shape[1])

    def embed_images(self, images: NDArray[np.float32]) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] to embeddings of length 1, [n, D] float32."""
        return self._unit(self.in_calls(pictures(images), self.transform, self.model.encode_image))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings of length 1, [n, D] float32. Equal texts are embedded once."""
        unique = list(dict.fromkeys(texts))
        embedded = self.in_calls(unique, lambda text: self.tokenizer([text])[0], self.model.encode_text)
        return self._unit(embedded)[[unique.index(text) for text in texts]]

    @staticmethod
    def _unit(embedded: Tensor) -> Tensor:
        return nn.functional.normalize(embedded.float(), dim=1)


def fetch_open_clip(
    weights: PinnedWeights, settings: Network, weights_field: str, *, device: str | None, field: str
) -> OpenClip:
    """Bring a CLIP model to this machine and load it, to run on `device` if that is given in place of the settings'.

    Raises:
        HrfError: Weights that cannot be fetched or are not what they should be.
    """
    folder = weights_folder(weights, weights_field, HUB_FILES)
    usable = usable_device(device or settings.device, field)
    return load_open_clip(folder, device=usable, call_size=settings.batch_size, field=field)


def load_open_clip(folder: Path, *, device: torch.device, call_size: int, field: str) -> OpenClip:
    """Load a model from a folder in open_clip's layout.

    Raises:
        ArtifactError: If the folder is not in that layout, or the weights don't fit the configuration.
        ConfigError: If open_clip is not installed.
    """
    open_clip = scorer_library("open_clip", field)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise _broken(folder / name, problem="there is no such file")
    try:
        # It warns that the weights are random, which they are until the next line.
        with without_warnings():
            model = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_image=False, pretrained_text=False
            )
        load_exactly(model, load_file(folder / _WEIGHTS), folder / _WEIGHTS)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        prepared = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AssertionError, SafetensorError) as error:
        raise _broken(folder, problem=f"not a model of open_clip: {error}") from error
    return OpenClip(
        model=model.requires_grad_(False),
        transform=open_clip.transform.image_transform_v2(prepared, is_train=False),
        tokenizer=tokenizer,
        device=device,
        call_size=call_size,
    )
