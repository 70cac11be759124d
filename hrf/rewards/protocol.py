"""What a remote reward and its client say to each other: HTTP with one tensor up and one list of numbers back.

`GET /health` answers JSON, `Health`. `POST /score` takes safetensors: the tensor `images`, float32 [B, 3, H, W] in
[0, 1], and in the metadata `protocol` and `prompts`, a JSON list of B texts or null. It answers JSON, `Scores`. An
error answers JSON with a text `error` and, where one image is at fault, its index `image`. Images travel as they are
and not as PNG: eight bits would change the rewards, and a remote reward has to give the numbers that a local one gives.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hrf.storage.validation import dotted

PROTOCOL = 1
"""Version of the protocol; client and server must have the same."""

CONTENT_TYPE = "application/x-safetensors"


MOST_IMAGES, LONGEST_SIDE = 4096, 8192
"""Of one request. A scorer that resizes would make a hundred gigabytes of one row of millions of pixels."""


class ProtocolError(ValueError):
    """A message that is not what the protocol says; the text says what is wrong with it."""


class _Message(BaseModel):
    """A message in JSON: fields of these types alone, and others that this version does not know, which it leaves."""

    model_config = ConfigDict(frozen=True, strict=True)

    def encode(self) -> bytes:
        """As JSON; a number has all the digits of its float64."""
        return json.dumps(self.model_dump(), allow_nan=False).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read a server's answer.

        Raises:
            ProtocolError: If it is none.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if not first["loc"]:
                raise ProtocolError(f"it is no JSON object: {body[:60]!r}") from error
            told = first.get("ctx", {}).get("error") or f"it has no valid `{dotted(first['loc'])}`: {first['msg']}"
            raise ProtocolError(str(told)) from error


class Health(_Message):
    """What a server says of its reward."""

    protocol: int
    name: str
    """Of the reward; every answer repeats it."""
    version: str
    """Changes whenever the numbers may; every answer repeats it."""
    range: tuple[float | None, float | None]
    """Lowest and highest possible reward; null where there is no bound."""
    needs_prompts: bool
    """Whether it rewards an image for its prompt, and so cannot do without."""
    needs_token: bool = False
    """Whether `POST /score` asks for the bearer token."""
    max_request_bytes: Annotated[int | float, Field(gt=0)] | None = None
    """Largest body that `POST /score` takes; null: not said."""

    @field_validator("protocol")
    @classmethod
    def _check_protocol(cls, protocol: int) -> int:
        if protocol != PROTOCOL:
            raise ValueError(f"it speaks protocol {protocol}, and this version of hrf speaks {PROTOCOL}")
        return protocol


class Scores(_Message):
    """The answer to one request."""

    name: str
    """Of the reward that gave them."""
    version: str
    """Of that reward."""
    rewards: list[float]
    """One per image, in order. May hold what is not finite: that is for the reader to refuse, image by image."""


def encode_request(images: NDArray[np.float32], prompts: Sequence[str] | None) -> bytes:
    """The body of `POST /score`.

    Args:
        images: [B, 3, H, W] float32 in [0, 1].
        prompts: One per image; None for images without prompts.
    """
    from safetensors.numpy import save

    texts = json.dumps(None if prompts is None else list(prompts))
    metadata = {"protocol": str(PROTOCOL), "prompts": texts}
    return save({"images": np.ascontiguousarray(images)}, metadata)


def decode_request(body: bytes) -> tuple[NDArray[np.float32], list[str] | None]:
    """Read the body of `POST /score`: (images [B, 3, H, W] float32, one prompt per image or None).

    Whether the images lie in [0, 1] is for the reward to check.

    Raises:
        ProtocolError: If it is anything else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(body)
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ProtocolError(f"the body is no safetensors file of numpy's types: {error}") from error
    metadata = header.get("__metadata__") or {}
    if metadata.get("protocol") != str(PROTOCOL):
        raise ProtocolError(f"the metadata's `protocol` is '{PROTOCOL}', got {metadata.get('protocol')!r}")
    images = tensors.get("images")
    if set(tensors) != {"images"} or images is None or images.dtype != np.float32:
        got = {name: str(tensor.dtype) for name, tensor in tensors.items()}
        raise ProtocolError(f"the body holds one float32 tensor `images`, got {got}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ProtocolError(f"images are [B, 3, H, W], got {list(images.shape)}")
    if len(images) > MOST_IMAGES or max(images.shape[2:]) > LONGEST_SIDE:
        most = f"at most {MOST_IMAGES} images of at most {LONGEST_SIDE} x {LONGEST_SIDE}"
        raise ProtocolError(f"a request has {most}, got {list(images.shape)}")
    return images, _prompts(metadata, len(images))


def is_loopback(host: str | None) -> bool:
    """Whether what is sent to a host stays on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _prompts(metadata: Mapping[str, str], count: int) -> list[str] | None:
    try:
        prompts = json.loads(metadata["prompts"])
        if prompts is None:
            return None
        if not isinstance(prompts, list):
            raise TypeError
        for prompt in prompts:
            # JSON can escape halves of characters, which no tokenizer takes.
            str.encode(prompt)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("the metadata's `prompts` is a JSON list of texts, or null") from error
    if len(prompts) != count:
        raise ProtocolError(f"{count} images need {count} prompts, got {len(prompts)}")
    return prompts
