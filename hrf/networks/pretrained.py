"""Models of transformers, in its own folder layout: CLIPs with preferences, image classifiers, DINOv2."""

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
from torch import Tensor, nn

from hrf.errors import ArtifactError
from hrf.networks.calls import Caller, pictures, scorer_library, without_warnings
from hrf.networks.tensor_files import Misfit, weight_files

HUB_FILES = ("*.json", "model*.safetensors", "*.txt")
PROCESSOR_FILES = ("*.json", "*.txt")
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)
_broken = partial(
    ArtifactError,
    producer="transformers",
    fix="give a folder as save_pretrained of the model and of its processor writes it",
)


@dataclass(frozen=True, kw_only=True)
class Pretrained(Caller):
    """A model of transformers with its image processor; float32, in evaluation mode."""

    processor: Callable[..., Any]
    """transformers' own preparation of pictures, on Pillow: the same bytes on every device."""

    def prepare(self, picture: Any) -> Tensor:
        """What the network is shown of a picture: [3, h, w]."""
        prepared: Tensor = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return prepared

    def on_images(self, images: NDArray[np.float32], network: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a function of prepared pictures on images [n, 3, H, W] in [0, 1]: [n, ...] on the CPU."""
        return self.in_calls(pictures(images), self.prepare, network)


@dataclass(frozen=True, kw_only=True)
class ClipPair(Pretrained):
    """A CLIPModel with its tokenizer."""

    tokenizer: Callable[..., Any]

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by."""
        return float(self.model.logit_scale.exp())

    def embed_images(self, images: NDArray[np.float32]) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] to embeddings of length 1, [n, D] float32."""
        embedded = self.on_images(images, lambda prepared: self.model.get_image_features(prepared).pooler_output)
        return nn.functional.normalize(embedded, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings of length 1, [n, D] float32. Equal texts are embedded once."""
        unique = list(dict.fromkeys(texts))

        def tokens(text: str) -> Tensor:
            # Ids and mask in one tensor, so that texts are batched as pictures are.
            encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=self._length)
            return torch.tensor([encoded["input_ids"], encoded["attention_mask"]])

        def network(batch: Tensor) -> Tensor:
            ids, mask = batch.unbind(1)
            features: Tensor = self.model.get_text_features(ids, attention_mask=mask).pooler_output
            return features

        embedded = self.in_calls(unique, tokens, network)
        return nn.functional.normalize(embedded, dim=1)[[unique.index(text) for text in texts]]

    @property
    def _length(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)


def load_clip_pair(
    folder: Path, processor_folder: Path, *, device: torch.device, call_size: int, field: str
) -> ClipPair:
    """Load a CLIPModel, and its tokenizer and image processor from a folder that may be another.

    Raises:
        ArtifactError: If a folder does not hold them.
        ConfigError: If transformers is not installed.
    """
    transformers = scorer_library("transformers", field)
    model = load_model("CLIPModel", folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(processor_folder, local_files_only=True)
    except _ERRORS as error:
        raise _broken(processor_folder, problem=f"no tokenizer here: {error}") from error
    processor = _image_processor(transformers, processor_folder)
    return ClipPair(model=model, processor=processor, tokenizer=tokenizer, device=device, call_size=call_size)


def load_pretrained(folder: Path, kind: str, *, device: torch.device, call_size: int, field: str) -> Pretrained:
    """Load a model of a class of transformers, such as `AutoModelForImageClassification`, and its image processor.

    Raises:
        ArtifactError: If the folder does not hold them.
        ConfigError: If transformers is not installed.
    """
    transformers = scorer_library("transformers", field)
    model = load_model(kind, folder)
    processor = _image_processor(transformers, folder)
    return Pretrained(model=model, processor=processor, device=device, call_size=call_size)


def load_model(kind: str, folder: Path) -> Any:
    """Load a model of a class of transformers in float32, frozen and in evaluation mode.

    Raises:
        ArtifactError: If the folder does not hold one, or other tensors than the model's own.
    """
    import transformers

    files = weight_files(folder, "model")
    transformers.utils.logging.disable_progress_bar()
    try:
        # What it would warn of is an error below.
        with without_warnings():
            model, report = getattr(transformers, kind).from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except _ERRORS as error:
        raise _broken(folder, problem=f"not a {kind} of transformers: {error}") from error
    # transformers only warns, and goes on with weights drawn at random. It renames what its older versions wrote, so
    # that what is missing and what is left over is its to say.
    misfit = Misfit(
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        misshapen=[
            f"{name} is {list(shape)}, not {list(expected)}"
            for name, shape, expected in sorted(report["mismatched_keys"])
        ],
    )
    misfit.refuse(files[0], f"a {type(model).__name__}")
    return model.eval().requires_grad_(False)


def _image_processor(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except _ERRORS as error:
        raise _broken(folder, problem=f"no image processor here: {error}") from error
