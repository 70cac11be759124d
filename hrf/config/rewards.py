"""The `reward` section: one class per family of rewards, told apart by `name`, each with its own options only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from hrf.networks.settings import Network
from hrf.storage.schema import Count, CountOrZero, Fraction, Positive, Section
from hrf.storage.weights import PinnedWeights

DEFAULT_REWARD = "jpeg_compressibility"

Triple = tuple[float, float, float]


class JpegReward(Section):
    """Size of the image as a JPEG file."""

    name: Literal["jpeg_compressibility", "jpeg_incompressibility"] = "jpeg_compressibility"
    """Minus the size in kB, or the size."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality."""
    legacy_range: bool = False
    """Feed the encoder [-1, 1] images as the published code does, to compare with its numbers."""


class ClassifierReward(Section):
    """Probability of a class under a small classifier of this project's own kind."""

    name: Literal["classifier"] = "classifier"
    label: str = ""
    """The class whose probability is the reward."""
    classifier: str = "shipped"
    """`shipped` or a local folder."""


class PythonReward(Section):
    """A Python function of the user's."""

    name: Literal["python"] = "python"
    function: str = ""
    """`module:function`; it is called as f(images), or as f(images, prompts=...) if it has a parameter `prompts`."""


class AestheticReward(Network):
    """LAION's aesthetic predictor: a linear head on CLIP's image embedding."""

    name: Literal["aesthetic"] = "aesthetic"
    clip: PinnedWeights = PinnedWeights()
    """The CLIP model, in open_clip's layout; the published head is for ViT-L/14 with OpenAI's weights."""
    head: PinnedWeights = PinnedWeights()
    """The head, one safetensors file."""


class ClipScoreReward(Network):
    """Cosine of CLIP's embeddings of the image and of its prompt."""

    name: Literal["clip_score"] = "clip_score"
    clip: PinnedWeights = PinnedWeights()
    """The CLIP model, in open_clip's layout."""


class PickScoreReward(Network):
    """PickScore, and any other preference model that is a CLIPModel of transformers."""

    name: Literal["pickscore"] = "pickscore"
    model: PinnedWeights = PinnedWeights()
    """The CLIPModel, in transformers' layout."""
    processor: PinnedWeights | None = None
    """Where its tokenizer and image processor are; null: with the model."""


class Thresholded(Section):
    """What a small probability is worth."""

    threshold: Fraction | None = None
    """A probability that is not above this counts as `below`; null: every probability counts as itself."""
    below: float = -1.0
    """For `threshold` only. (Published code of the HRF paper, task "over 50": threshold 0.6, below -1.)"""


class ImageClassifierReward(Network, Thresholded):
    """Probability of labels under an image classifier of transformers."""

    name: Literal["image_classifier"] = "image_classifier"
    model: PinnedWeights = PinnedWeights()
    """The classifier with its image processor, in transformers' layout."""
    labels: tuple[str, ...] = ()
    """The labels whose probabilities are added up, as the model's config.json spells them."""


class OnnxClassifierReward(Thresholded):
    """Probability of a range of classes under an ONNX classifier."""

    name: Literal["onnx_classifier"] = "onnx_classifier"
    model: PinnedWeights = PinnedWeights()
    """The ONNX file: one input [B, 3, H, W] float32, one output [B, C]."""
    classes: tuple[CountOrZero, CountOrZero] = (0, 0)
    """[i, j]: the classes i..j-1, whose probabilities are added up."""
    output: Literal["probabilities", "logits"] = "probabilities"
    """What the network returns; logits go through a softmax."""
    crop: tuple[Fraction, Fraction, Fraction, Fraction] = (0.0, 0.0, 1.0, 1.0)
    """[left, top, right, bottom] of what the network is shown, as fractions of the image; resized to its input."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Of red, green and blue in [0, 1], subtracted."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """What the difference is divided by."""
    batch_size: Count = 16
    """Images in every call of the network, the last ones filled up. It runs on the CPU, on one thread."""


class RemoteReward(Section):
    """A reward that another process computes. See `hrf.rewards.protocol`; the token is in `HRF_REWARD_TOKEN`."""

    name: Literal["remote"] = "remote"
    url: str = ""
    """`http(s)://HOST[:PORT][/PATH]` of the server."""
    scorer: str = ""
    """Name of the reward that the server must say it has."""
    version: str = ""
    """Its version, as the server says it; empty takes any, and holds a step to the one that it found."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images in a request: memory and speed, and not the rewards."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests under way at a time."""
    timeout_seconds: Positive = 120.0
    """For one request, from connecting to the end of the answer."""
    deadline_seconds: Positive = 600.0
    """For all images of a call, repeated requests included."""
    retries: CountOrZero = 8
    """How often a request is repeated at most, after what may pass."""


_SINGLE = (
    JpegReward,
    ClassifierReward,
    PythonReward,
    AestheticReward,
    ClipScoreReward,
    PickScoreReward,
    ImageClassifierReward,
    OnnxClassifierReward,
    RemoteReward,
)


def family_name(value: Any) -> str | None:
    """The class that a reward's values or settings belong to; an unknown name itself; None for what is no mapping."""
    if isinstance(value, Mapping):
        name = value.get("name", DEFAULT_REWARD)
    else:
        name = getattr(value, "name", None)
        if name is None:
            return None
    return _FAMILIES.get(name, name) if isinstance(name, str) else repr(name)


SingleReward = Annotated[
    Annotated[JpegReward, Tag("JpegReward")]
    | Annotated[ClassifierReward, Tag("ClassifierReward")]
    | Annotated[PythonReward, Tag("PythonReward")]
    | Annotated[AestheticReward, Tag("AestheticReward")]
    | Annotated[ClipScoreReward, Tag("ClipScoreReward")]
    | Annotated[PickScoreReward, Tag("PickScoreReward")]
    | Annotated[ImageClassifierReward, Tag("ImageClassifierReward")]
    | Annotated[OnnxClassifierReward, Tag("OnnxClassifierReward")]
    | Annotated[RemoteReward, Tag("RemoteReward")],
    Discriminator(family_name),
]
"""Any reward but a sum of rewards."""


class Term(Section):
    """One reward of a weighted sum."""

    reward: SingleReward = JpegReward()
    weight: float = 1.0
    """How much it counts, in standard deviations; a negative one turns the reward around."""
    mean: float = 0.0
    """Subtracted from the reward first; only shifts the sum."""
    std: Positive = 1.0
    """The reward is divided by it; its standard deviation over the base model's images makes terms comparable."""


class WeightedSumReward(Section):
    """Sum of weight x (reward - mean) / std over several rewards."""

    name: Literal["weighted_sum"] = "weighted_sum"
    terms: tuple[Term, ...] = ()
    """At least two."""


Reward = Annotated[
    Annotated[JpegReward, Tag("JpegReward")]
    | Annotated[ClassifierReward, Tag("ClassifierReward")]
    | Annotated[PythonReward, Tag("PythonReward")]
    | Annotated[AestheticReward, Tag("AestheticReward")]
    | Annotated[ClipScoreReward, Tag("ClipScoreReward")]
    | Annotated[PickScoreReward, Tag("PickScoreReward")]
    | Annotated[ImageClassifierReward, Tag("ImageClassifierReward")]
    | Annotated[OnnxClassifierReward, Tag("OnnxClassifierReward")]
    | Annotated[RemoteReward, Tag("RemoteReward")]
    | Annotated[WeightedSumReward, Tag("WeightedSumReward")],
    Discriminator(family_name),
]
"""The reward: images, and their prompts, to numbers; higher is better."""

_FAMILIES = {
    name: family.__name__
    for family in (*_SINGLE, WeightedSumReward)
    for name in get_args(family.model_fields["name"].annotation)
}
"""Reward name -> class name."""

REWARD_NAMES = tuple(_FAMILIES)


def leaf_rewards(reward: Any, path: str) -> list[tuple[Any, str]]:
    """A reward's settings with their path; of a weighted sum, those of its terms."""
    if isinstance(reward, WeightedSumReward):
        return [(term.reward, f"{path}.terms[{index}].reward") for index, term in enumerate(reward.terms)]
    return [(reward, path)]


def measured_settings(reward: Any) -> dict[str, Any]:
    """A reward's settings that its numbers depend on, as plain values: all, but for how a remote one is reached."""
    values: dict[str, Any] = reward.model_dump(mode="json")
    if isinstance(reward, RemoteReward):
        return {name: values[name] for name in ("name", "scorer", "version")}
    if isinstance(reward, WeightedSumReward):
        for term, settings in zip(values["terms"], reward.terms, strict=True):
            term["reward"] = measured_settings(settings.reward)
    return values
