"""Rewards by pretrained networks: fetch the weights, load them, and put the reward together."""

from __future__ import annotations

from typing import Any

from hrf.config.rewards import (
    AestheticReward,
    ClipScoreReward,
    ImageClassifierReward,
    OnnxClassifierReward,
    PickScoreReward,
    Thresholded,
)
from hrf.networks import clip, pretrained
from hrf.networks.calls import usable_device
from hrf.networks.onnx import load_onnx
from hrf.rewards.aesthetic import Aesthetic, check_embedding_size, load_head
from hrf.rewards.base import CheckedReward
from hrf.rewards.probabilities import ClassesProbability, check_classes, label_indices, logits_of
from hrf.rewards.text_image import TextImageCosine
from hrf.storage.weights import weights_file, weights_folder

NetworkReward = AestheticReward | ClipScoreReward | PickScoreReward | ImageClassifierReward | OnnxClassifierReward


def build_network_reward(settings: NetworkReward, *, field: str, device: str | None) -> CheckedReward:
    """Make the reward of a pretrained network; see `hrf.rewards.build_reward`."""
    match settings:
        case AestheticReward():
            return _aesthetic(settings, field, device)
        case ClipScoreReward():
            encoder = _open_clip(settings, field, device)
            return CheckedReward(
                name="clip_score", score=TextImageCosine(encoder=encoder), needs_prompts=True, field=field
            )
        case PickScoreReward():
            return _pickscore(settings, field, device)
        case ImageClassifierReward():
            return _image_classifier(settings, field, device)
        case OnnxClassifierReward():
            return _onnx_classifier(settings, field)


def _open_clip(settings: AestheticReward | ClipScoreReward, field: str, device: str | None) -> clip.OpenClip:
    folder = weights_folder(settings.clip, f"{field}.clip", clip.HUB_FILES)
    return clip.load_open_clip(
        folder, device=usable_device(device or settings.device, field), call_size=settings.batch_size, field=field
    )


def _aesthetic(settings: AestheticReward, field: str, device: str | None) -> CheckedReward:
    # The small file first: a mistake in it need not wait for the large one.
    head = load_head(weights_file(settings.head, f"{field}.head"))
    encoder = _open_clip(settings, field, device)
    check_embedding_size(encoder, field)
    return CheckedReward(name="aesthetic", score=Aesthetic(clip=encoder, head=head), field=field)


def _pickscore(settings: PickScoreReward, field: str, device: str | None) -> CheckedReward:
    folder = weights_folder(settings.model, f"{field}.model", pretrained.HUB_FILES)
    processor = (
        weights_folder(settings.processor, f"{field}.processor", pretrained.PROCESSOR_FILES)
        if settings.processor
        else folder
    )
    encoder = pretrained.load_clip_pair(
        folder,
        processor,
        device=usable_device(device or settings.device, field),
        call_size=settings.batch_size,
        field=field,
    )
    score = TextImageCosine(encoder=encoder, scale=encoder.logit_scale)
    return CheckedReward(name="pickscore", score=score, needs_prompts=True, field=field)


def _image_classifier(settings: ImageClassifierReward, field: str, device: str | None) -> CheckedReward:
    folder = weights_folder(settings.model, f"{field}.model", pretrained.HUB_FILES)
    network = pretrained.load_pretrained(
        folder,
        "AutoModelForImageClassification",
        device=usable_device(device or settings.device, field),
        call_size=settings.batch_size,
        field=field,
    )
    classes = label_indices(network.model, settings.labels, field)
    run = logits_of(network.model)
    score = ClassesProbability(
        network=lambda images: network.on_images(images, run), classes=classes, are_logits=True, **_threshold(settings)
    )
    return CheckedReward(name=f"image_classifier:{'|'.join(settings.labels)}", score=score, field=field)


def _onnx_classifier(settings: OnnxClassifierReward, field: str) -> CheckedReward:
    network = load_onnx(
        weights_file(settings.model, f"{field}.model"),
        crop=settings.crop,
        mean=settings.mean,
        std=settings.std,
        call_size=settings.batch_size,
        field=field,
    )
    check_classes(settings.classes, network.num_outputs, field)
    score = ClassesProbability(
        network=network,
        classes=range(*settings.classes),
        are_logits=settings.output == "logits",
        **_threshold(settings),
    )
    file = settings.model.source.rsplit("/", 1)[-1]
    return CheckedReward(name=f"{file}:{settings.classes[0]}-{settings.classes[1] - 1}", score=score, field=field)


def _threshold(settings: Thresholded) -> dict[str, Any]:
    return {"threshold": settings.threshold, "below": settings.below}
