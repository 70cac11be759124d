"""Image networks in ONNX files, run by onnxruntime on the CPU, on one thread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hrf.errors import ArtifactError, ConfigError
from hrf.networks.calls import in_calls, pictures, scorer_library

_broken = partial(
    ArtifactError,
    producer="another tool",
    fix="give a network with one float32 input [B, 3, height, width] and one float32 output [B, classes]",
)


@dataclass(frozen=True, kw_only=True)
class OnnxNetwork:
    """A network of one input [B, 3, h, w] float32 and one output [B, C]."""

    session: Any
    input_name: str
    height: int
    width: int
    num_outputs: int
    crop: tuple[float, float, float, float]
    """Left, top, right and bottom of what the network is shown, as fractions of the picture."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    call_size: int

    def __call__(self, images: NDArray[np.float32]) -> Tensor:
        """Run it on images [n, 3, H, W] in [0, 1]: [n, C] float32."""
        return in_calls(pictures(images), self.prepare, self._run, call_size=self.call_size)

    def prepare(self, picture: Image.Image) -> Tensor:
        """What the network is shown of a picture: the crop, resized by Pillow's bilinear filter, normalised."""
        scale = (picture.width, picture.height, picture.width, picture.height)
        left, top, right, bottom = (fraction * side for fraction, side in zip(self.crop, scale, strict=True))
        resized = picture.resize((self.width, self.height), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        pixels = torch.from_numpy(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _run(self, batch: Tensor) -> Tensor:
        (output,) = self.session.run(None, {self.input_name: batch.contiguous().numpy()})
        return torch.from_numpy(output)


def load_onnx(
    file: Path,
    *,
    crop: tuple[float, float, float, float],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    call_size: int,
    field: str,
) -> OnnxNetwork:
    """Load a network and check what it takes and returns.

    Raises:
        ArtifactError: If the file is no ONNX network of images.
        ConfigError: If onnxruntime is not installed, or the network takes calls of another size only.
    """
    runtime = scorer_library("onnxruntime", field)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _broken(file, problem=f"not an ONNX network: {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise _broken(file, problem=f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    taken, returned = inputs[0].shape, outputs[0].shape
    if inputs[0].type != "tensor(float)" or len(taken) != 4 or taken[1] != 3 or not _known(taken[2:]):
        raise _broken(file, problem=f"its input is {inputs[0].type} {taken}")
    if outputs[0].type != "tensor(float)" or len(returned) != 2 or not _known(returned[1:]):
        raise _broken(file, problem=f"its output is {outputs[0].type} {returned}")
    if isinstance(taken[0], int) and taken[0] != call_size:
        raise ConfigError(
            f"{field}.batch_size",
            expected=f"{taken[0]}, the only number of images that this network takes at a time",
            got=call_size,
            fix=f"set it to {taken[0]}",
        )
    return OnnxNetwork(
        session=session,
        input_name=inputs[0].name,
        height=taken[2],
        width=taken[3],
        num_outputs=returned[1],
        crop=crop,
        mean=mean,
        std=std,
        call_size=call_size,
    )


def _known(sides: list[Any]) -> bool:
    """Whether sizes are numbers, and not names of what may vary."""
    return all(isinstance(side, int) for side in sides)
