"""The model card: what the shipped folder is, what it was made from, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tools.base_model.dataset import STYLES
from tools.base_model.evaluate import ETA, NUM_STEPS, SampleEvaluation
from tools.base_model.train_classifier import ClassifierEvaluation, ClassifierTraining
from tools.base_model.train_diffusion import DiffusionTraining


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """Everything that the card reports."""

    command: str
    """What was typed."""
    machine: str
    """Kind of machine, such as "2 CPU cores"."""
    data_seed: int
    """Seed of the drawn pictures."""
    images_per_style: int
    """Drawn pictures of each style in the training set."""
    credits: Sequence[Mapping[str, str]]
    """Creator, source and licence of every style."""
    diffusion: DiffusionTraining
    """Settings of the diffusion model's training."""
    diffusion_seconds: float
    """Wall time of the diffusion model's training."""
    diffusion_loss: float
    """Mean loss over the last updates."""
    num_unet_parameters: int
    """Of the diffusion model."""
    classifier: ClassifierTraining
    """Settings of the classifier's training."""
    classifier_seconds: float
    """Wall time of the classifier's training."""
    num_classifier_parameters: int
    """Of the classifier."""
    classifier_evaluation: ClassifierEvaluation
    """On held-out pictures and outliers."""
    sample_evaluation: SampleEvaluation
    """On samples of the diffusion model."""


def render_card(record: BuildRecord) -> str:
    """Write the model card.

    Args:
        record: What to report.

    Returns:
        Markdown.
    """
    sections = (
        _introduction(record),
        _data(record),
        _diffusion(record),
        _samples(record),
        describe_classifier(record.classifier, record.classifier_seconds, record.classifier_evaluation),
        _limits(),
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"


def _introduction(record: BuildRecord) -> str:
    front_matter = "---\nlicense: mit\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation\n---"
    what = _paragraph(
        """An unconditional diffusion model (DDPM) of 32 x 32 colour pictures in six drawing styles, with a classifier
        that names the style of a picture. It is a base model for fine-tuning with rewards on a CPU: training that
        narrows the model to its favourite styles shows as empty bins in the mode histogram."""
    )
    unet = _paragraph(
        f"""the diffusion model ({record.num_unet_parameters / 1e6:.2f} million parameters, averaged weights, stored as
        fp16), for `DDPMPipeline.from_pretrained`"""
    )
    classifier = _paragraph(
        f"""the classifier ({record.num_classifier_parameters / 1e3:.0f} thousand parameters), for
        `hrf.networks.classifier.ImageClassifier.from_pretrained`"""
    )
    folders = _table(
        ["folder", "what it is"],
        [["`unet/`, `scheduler/`, `model_index.json`", unet], ["`classifier/`", classifier]],
    )
    made = _paragraph(
        f"""on {record.machine}. The command draws the data, trains both models, judges them and writes this folder,
        this page included."""
    )
    return "\n\n".join(
        (
            front_matter,
            "# avatars-32: a small base model with six countable modes",
            what,
            "![samples](samples.png)",
            folders,
            f"Made by\n\n    {record.command}",
            made,
        )
    )


def _data(record: BuildRecord) -> str:
    all_weights = sum(style.weight for style in STYLES)
    table = _table(
        ["style", "creator", "source", "licence", "share of the batches", "mirrored"],
        [
            [
                row["style"],
                row["creator"],
                f"[{row['source']}]({row['source_url']})",
                f"[{row['licence']}]({row['licence_url']})",
                _percent(style.weight / all_weights),
                "half" if style.mirrors else "never",
            ]
            for row, style in zip(record.credits, STYLES, strict=True)
        ],
    )
    total = record.images_per_style * len(STYLES)
    drawing = _paragraph(
        f"""{total:,} pictures, {record.images_per_style:,} of each style, drawn from seeds (data seed
        {record.data_seed}) as vector graphics with the Python packages `dicebear-core` 10.7.0 and `dicebear-styles`
        10.6.0 (code under MIT), rasterised at 128 x 128 by `resvg-py` 0.5.0 and reduced to 32 x 32 (Lanczos; box
        filter for pixel-art). Pixel-art and marbles, which have no background of their own, get a plain one (#b6e3f4
        and #eeeeee). The artwork is dedicated to the public domain; creators, sources and licences as the styles
        themselves state them:"""
    )
    weights = _paragraph(
        """Some styles are shown more often than others because short trainings draw too few of them. Only styles
        without a side light are mirrored."""
    )
    return "\n\n".join(("## Data", drawing, table, weights))


def _diffusion(record: BuildRecord) -> str:
    settings = record.diffusion
    model = _paragraph(
        """- Noise prediction, 1000 timesteps, linear betas from 1e-4 to 0.02; `UNet2DModel` with (32, 64, 128)
        channels, one layer per block, attention at 8 x 8."""
    )
    schedule = _paragraph(
        f"""- {settings.num_updates:,} updates of {settings.batch_size} pictures; AdamW, learning rate
        {settings.learning_rate:g} after {settings.num_warmup_updates} updates of warm-up, constant for the first
        {_percent(1 - settings.decay_fraction)} of the training, then along a half cosine to a hundredth; moving average
        of the weights with decay {settings.ema_decay:g}; bf16 autocast; seed {settings.seed}."""
    )
    outcome = _paragraph(
        f"""- Loss over the last 500 updates: {record.diffusion_loss:.4f}. Wall time:
        {record.diffusion_seconds / 60:.0f} minutes on {record.machine} shared with other work."""
    )
    return "\n".join(("## Training of the diffusion model\n", model, schedule, outcome))


def _samples(record: BuildRecord) -> str:
    result = record.sample_evaluation
    rows = [[label, str(count), _percent(result.fraction(label))] for label, count in result.histogram.items()]
    how = _paragraph(
        f"""{result.num_samples:,} samples (seed {result.seed}) with DDIM at eta {ETA:g} in {NUM_STEPS} steps ("leading"
        timesteps, last step to the clean picture, predicted picture clamped to [-1, 1]), named by the classifier:"""
    )
    confidence = f"Mean confidence of the classifier (largest class probability): {result.mean_confidence:.3f}."
    return "\n\n".join(("## Samples", how, _table(["mode", "samples", "share"], rows), confidence))


def describe_classifier(settings: ClassifierTraining, seconds: float, result: ClassifierEvaluation) -> str:
    """The card's section on a classifier: how it was trained, in how many seconds, and what it does."""
    training = _paragraph(
        f"""Trained for {settings.num_epochs} passes over {settings.images_per_epoch:,} drawn pictures (half of them
        slightly shifted, softened, recoloured and roughened) and {settings.outliers_per_kind} fresh outliers of each
        kind, seed {settings.seed}, in {seconds / 60:.1f} minutes. Its last class, "unrecognised",
        takes what is none of the six styles."""
    )
    held_out = _paragraph(
        f"""On {result.num_images:,} held-out drawn pictures, none of them a copy of a training picture: accuracy
        {_percent(result.accuracy)}, called unrecognised {_percent(result.false_alarm_fraction)}, mean confidence
        {result.mean_confidence:.4f}. Share of held-out outliers, {result.outliers_per_kind} of each kind, that it calls
        unrecognised:"""
    )
    rows = [[kind.replace("_", " "), _percent(recall)] for kind, recall in result.recall_by_kind.items()]
    return "\n\n".join(("## Classifier", training, held_out, _table(["kind of outlier", "recall"], rows)))


def _limits() -> str:
    text = _paragraph(
        """The pictures are small and the model is, too: fine lines (the hair of marbles, stars, rings) come out
        approximately. The classifier names styles; it does not grade how well a picture is drawn, and it can be fooled
        by a model that is trained against it."""
    )
    return f"## Limits\n\n{text}"
