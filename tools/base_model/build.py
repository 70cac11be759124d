"""From nothing to the shipped folder: draw, train, judge, write."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from diffusers import DDPMPipeline, UNet2DModel

from hrf import __version__
from hrf.networks.classifier import ImageClassifier
from hrf.storage.folders import write_manifest
from tools.base_model.card import BuildRecord, render_card
from tools.base_model.dataset import credits, render, without_copies_of
from tools.base_model.evaluate import judge, sample, save_grid
from tools.base_model.train_classifier import ClassifierTraining, evaluate
from tools.base_model.train_classifier import train as train_classifier
from tools.base_model.train_diffusion import DiffusionTraining, averaged_unet, make_noise_scheduler
from tools.base_model.train_diffusion import train as train_diffusion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Everything that decides the result."""

    diffusion: DiffusionTraining = field(default_factory=DiffusionTraining)
    """Training of the diffusion model."""
    classifier: ClassifierTraining = field(default_factory=ClassifierTraining)
    """Training of the classifier."""
    images_per_style: int = 2000
    """Drawn pictures of each style to train on."""
    held_out_per_style: int = 250
    """Drawn pictures of each style to test the classifier on."""
    data_seed: int = 1
    """Seed of the drawn pictures."""
    num_samples: int = 1024
    """Samples to judge the diffusion model by."""
    sample_seed: int = 0
    """Seed of these samples."""
    outliers_per_kind: int = 300
    """Held-out outliers of each kind."""


def build(
    output_folder: Path,
    settings: BuildSettings,
    *,
    scratch: Path,
    num_workers: int,
    command: str,
    machine: str,
) -> BuildRecord:
    """Make the base model and its classifier.

    Args:
        output_folder: Receives the models, the samples and the card; the parts that it already holds are replaced.
        settings: What to make.
        scratch: Holds the checkpoint of the diffusion training, which goes on from it.
        num_workers: Processes to draw with.
        command: What was typed, for the card.
        machine: Kind of machine, for the card.

    Returns:
        What the card reports.

    Raises:
        ImportError: The drawing packages are not installed.
        ArtifactError: The scratch folder holds the checkpoint of another training.
    """
    data = render(images_per_style=settings.images_per_style, seed=settings.data_seed, num_workers=num_workers)
    held_out = render(
        images_per_style=settings.held_out_per_style,
        seed=settings.data_seed,
        split="test",
        num_workers=num_workers,
    )
    logger.info("drew %d pictures, %d more to test with", len(data), len(held_out))
    state = train_diffusion(data, settings.diffusion, scratch=scratch)
    clock = time.perf_counter()
    classifier = train_classifier(data, settings.classifier)
    classifier_seconds = time.perf_counter() - clock
    unet = averaged_unet(state)
    write_models(output_folder, unet, classifier)
    # What is judged is what ships: the weights as they come back from their fp16 file.
    shipped = DDPMPipeline.from_pretrained(output_folder).unet.eval()
    images = sample(shipped, num_samples=settings.num_samples, seed=settings.sample_seed)
    save_grid(images[:64], output_folder / "samples.png", columns=16)
    record = BuildRecord(
        command=command,
        machine=machine,
        data_seed=settings.data_seed,
        images_per_style=settings.images_per_style,
        credits=credits(),
        diffusion=settings.diffusion,
        diffusion_seconds=state.elapsed_seconds,
        diffusion_loss=sum(state.losses[-5:]) / max(1, len(state.losses[-5:])),
        num_unet_parameters=sum(parameter.numel() for parameter in unet.parameters()),
        classifier=settings.classifier,
        classifier_seconds=classifier_seconds,
        num_classifier_parameters=sum(parameter.numel() for parameter in classifier.parameters()),
        classifier_evaluation=evaluate(
            classifier,
            without_copies_of(held_out, data),
            outliers_per_kind=settings.outliers_per_kind,
            seed=settings.data_seed,
        ),
        sample_evaluation=judge(images, classifier, seed=settings.sample_seed),
    )
    (output_folder / "README.md").write_text(render_card(record), encoding="utf-8")
    write_manifest(output_folder, {"command": command, "data_seed": settings.data_seed, "hrf": __version__})
    logger.info("modes %s", record.sample_evaluation.histogram)
    return record


def write_models(folder: Path, unet: UNet2DModel, classifier: ImageClassifier) -> None:
    """Write both models.

    Args:
        folder: Made if need be; the models that it already holds are replaced.
        unet: Written as fp16, which halves the file; it is left as it is.
        classifier: Written as fp32.
    """
    for part in ("unet", "scheduler", "classifier"):
        shutil.rmtree(folder / part, ignore_errors=True)
    halved = UNet2DModel.from_config(unet.config)
    halved.load_state_dict(unet.state_dict())
    DDPMPipeline(unet=halved.half(), scheduler=make_noise_scheduler()).save_pretrained(folder)
    # diffusers leaves the weights readable by their owner only; a package is read by everybody.
    (folder / "unet" / "diffusion_pytorch_model.safetensors").chmod(0o644)
    classifier.save_pretrained(folder / "classifier")
