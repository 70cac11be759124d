"""What a kind of base model has to say of itself, and what kinds share."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.policies.acceptance import check_answers, check_parts, parts_of
from hrf.policies.architecture import Architecture
from hrf.policies.components import load_component, scheduler_config
from hrf.policies.conditioning import Ask, Conditioning, PromptEmbeddings, Text, TextConditioning
from hrf.policies.decoding import Decoder, LatentDecoder
from hrf.policies.schedulers import Timing, clip_range_of, is_flow, training_scheduler
from hrf.policies.text import TextEncoder

_TOKENIZER_FILES = ("*.json", "*.txt")


class Kind(Protocol):
    """A kind of base model."""

    pipeline: str
    """Class of its pipeline in diffusers."""
    component: str
    """Folder of its denoiser: `unet` or `transformer`."""
    denoiser: str
    """Class of its denoiser."""
    denoiser_settings: Mapping[str, Any]
    """What its denoiser's configuration says, and that of other kinds with the same class does not."""
    policy_files: tuple[str, ...]
    """What goes with tuned weights, besides them."""

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite any accepted layout as a pipeline folder with float32 safetensors."""
        ...

    def check(self, config: Config, model: Architecture) -> None:
        """Refuse a configuration for another kind of model."""
        ...

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """(C, H, W) of its samples.

        Args:
            model: The base model.
            picture_size: `model.picture_size`.
        """
        ...

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing | None:
        """Of a flow, what its scheduler is told; else None.

        Args:
            config: The denoiser's.
            shape: Of a sample.
        """
        ...

    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """What its denoiser is called with for one sample, of zeros; the first is the sample.

        Args:
            config: The denoiser's.
            shape: Of the sample.
        """
        ...

    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts by the model's own text encoders, on the CPU; none of them is kept."""
        ...

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """How its denoiser is asked."""
        ...

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """Its finished samples to pictures."""
        ...

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """Clamp of its estimated sample; None for none."""
        ...


class TextToImage(ABC):
    """What kinds with prompts and an autoencoder share."""

    pipeline: str
    component: str
    denoiser: str
    denoiser_settings: Mapping[str, Any] = {}
    policy_files: tuple[str, ...] = ("scheduler/scheduler_config.json",)
    text_encoders: tuple[TextEncoder, ...]
    unused: tuple[str, ...] = ("image_encoder", "feature_extractor")
    """Parts that its pipeline may have, and that make no difference to what it draws."""
    other_folders: tuple[str, ...] = ()
    """Networks beside a published model, which its index doesn't name."""

    def normalise(self, source: Path, target: Path) -> None:
        """Rewrite denoiser, autoencoder, text encoders, tokenizers and scheduler, one network after the other.

        Raises:
            ConfigError: If it is a model of another class, such as one for inpainting.
            ArtifactError: If a part is missing or damaged.
        """
        names = [name for encoder in self.text_encoders for name in (encoder.name, encoder.tokenizer)]
        check_parts(source, (self.component, "vae", *names, "scheduler"), left_out=(*self.unused, *self.other_folders))
        found = parts_of(source)
        encoders = [encoder for encoder in self.text_encoders if not encoder.optional or encoder.name in found]
        scheduler = scheduler_config(source)
        timesteps = self.ends(scheduler)
        denoiser = load_component(source / self.component, self.denoiser)
        config = denoiser.config
        check_answers(denoiser, self.trial(config), timesteps)
        denoiser.save_pretrained(target / self.component)
        del denoiser
        autoencoder = load_component(source / "vae", "AutoencoderKL")
        autoencoder.save_pretrained(target / "vae")
        read = rewrite_text_encoders(source, target, encoders)
        self.check_fits(config, autoencoder.config, read)
        # Absent, it would mean True to some of diffusers' schedulers and False to others; latents are not clamped.
        scheduler = scheduler if is_flow(scheduler) else {"clip_sample": False, **scheduler}
        write_scheduler(scheduler, target)
        index = {
            "_class_name": self.pipeline,
            **{name: [None, None] for name in (*self.unused, *names)},
            "scheduler": ["diffusers", scheduler["_class_name"]],
            **{encoder.name: ["transformers", encoder.kind] for encoder in encoders},
            **{encoder.tokenizer: ["transformers", encoder.tokenizer_kind] for encoder in encoders},
            self.component: ["diffusers", self.denoiser],
            "vae": ["diffusers", "AutoencoderKL"],
            **self.said_of(source),
        }
        write_index(target, dict(sorted(index.items())))

    def ends(self, scheduler: Mapping[str, Any]) -> Tensor:
        """The first and the last timestep that a denoiser is asked at.

        Raises:
            ConfigError: If the scheduler is one of another noise process.
        """
        return torch.tensor([0, len(training_scheduler(scheduler).alphas_cumprod) - 1])

    def trial(self, config: Any) -> dict[str, Any]:
        """A question that a denoiser must answer: of its own size, unless that takes long.

        Raises:
            ConfigError: If its configuration is another kind's.
        """
        return self.question(config, own_sample_shape(Architecture(denoiser=config, scheduler={}), None))

    @abstractmethod
    def question(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
        """As `ask` calls the denoiser."""

    @abstractmethod
    def check_fits(self, denoiser: Any, autoencoder: Any, encoders: Mapping[str, Any]) -> None:
        """Refuse parts that don't belong together.

        Args:
            denoiser: Its configuration.
            autoencoder: Likewise.
            encoders: Name -> configuration of a text encoder.

        Raises:
            ConfigError: If they don't.
        """

    def said_of(self, source: Path) -> dict[str, Any]:
        """What a pipeline's index says beside its parts."""
        del source
        return {}

    @torch.no_grad()
    def embed_prompts(self, base: Path, texts: Sequence[str], *, negative: str) -> PromptEmbeddings:
        """Embed prompts on the CPU as the pipeline does, by one text encoder after the other.

        Args:
            base: A model that `normalise` wrote.
            texts: P prompts.
            negative: What guidance leads away from; may be empty.

        Raises:
            ConfigError: If a prompt is longer than a text encoder reads.
            ArtifactError: If a tokenizer or a text encoder can't be loaded.
        """
        asked = [*((text, "prompts") for text in texts), (negative, "prompts.negative")]
        tokens, pooled = self.read(base, asked)
        whole = {} if pooled is None else {"pooled": pooled[:-1], "negative_pooled": pooled[-1]}
        return PromptEmbeddings(prompts=tokens[:-1], negative=tokens[-1], **whole)

    @abstractmethod
    def read(self, base: Path, asked: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor | None]:
        """Prompts, with the field that each is from, as `ask` takes them: tokens [P, L, D], and as a whole [P, E]."""

    @staticmethod
    @abstractmethod
    def ask(denoiser: nn.Module, states: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        """Call the denoiser: states, timesteps [B] and the prompt of each sample to its output."""

    def asking(self, config: Config) -> Ask:
        """`ask`, as configured."""
        del config
        return self.ask

    def check(self, config: Config, model: Architecture) -> None:
        """Demand prompts, and of a model that reads guidance as a number, that number.

        Raises:
            ConfigError: If there are none, or it reads none.
        """
        if config.prompts is None:
            raise ConfigError(
                "prompts",
                expected="prompts, as the model is a text-to-image one",
                got=None,
                fix="write `prompts: {}` for the animals of the DDPO paper, or name a file of your own",
            )
        guidance = config.model.embedded_guidance
        reads = model.settings.get("guidance_embeds", False)
        if reads and guidance is None:
            raise ConfigError(
                "model.embedded_guidance",
                expected="a number, which the model reads beside the prompt",
                got=None,
                fix="set it to 3.5, with which its pipeline draws",
            )
        if not reads and guidance is not None:
            raise ConfigError(
                "model.embedded_guidance",
                expected="null, as the model reads no such number",
                got=guidance,
                fix="leave it out; model.guidance_scale is classifier-free guidance, for all models",
            )

    def sample_shape(self, model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
        """As the denoiser's configuration says."""
        return own_sample_shape(model, picture_size)

    def timing(self, config: Mapping[str, Any], shape: tuple[int, int, int]) -> Timing | None:
        """None: its process is a variance-preserving one."""
        del config, shape
        return None

    def conditioning(self, config: Config, embeddings: PromptEmbeddings | None) -> Conditioning:
        """Of a state and a prompt, guided as configured.

        Raises:
            ValueError: If there are no embeddings.
        """
        if embeddings is None:
            raise ValueError("a text-to-image policy needs the embeddings of its prompts")
        return TextConditioning(
            embeddings=embeddings, call=self.asking(config), guidance_scale=config.model.guidance_scale
        )

    def decoder(self, base: Path, device: torch.device) -> Decoder:
        """By the model's autoencoder."""
        return LatentDecoder(folder=base / "vae", device=device)

    def clip_range(self, scheduler: Mapping[str, Any]) -> float | None:
        """None, unless the scheduler asks for it: latents are not clamped."""
        return clip_range_of(scheduler, by_default=False)


def own_sample_shape(model: Architecture, picture_size: int | None) -> tuple[int, int, int]:
    """(C, H, W) of samples as the denoiser's configuration has it.

    Raises:
        ConfigError: If another picture size is wanted.
    """
    if picture_size is not None:
        raise ConfigError(
            "model.picture_size",
            expected="null, as the model's own files say how large its pictures are",
            got=picture_size,
            fix="leave it out",
        )
    return (int(model.settings["in_channels"]), *sides(model.settings["sample_size"]))


def latent_side(model: Architecture, picture_size: int, patch: int) -> int:
    """Side of the latents of pictures so large.

    Raises:
        ConfigError: If they are no number of patches of so many latents.
    """
    if picture_size % (model.scale * patch):
        raise ConfigError(
            "model.picture_size",
            expected=f"a multiple of {model.scale * patch}: the autoencoder's {model.scale} pixels to a latent, and "
            f"{patch} latents to a patch",
            got=picture_size,
            fix="choose one, such as half of what the model draws by itself",
        )
    return picture_size // model.scale


def sides(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a `sample_size`."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def rewrite_text_encoders(source: Path, target: Path, encoders: Sequence[TextEncoder]) -> dict[str, Any]:
    """Rewrite text encoders and the tokenizer of each, one after the other: they may be larger than the denoiser.

    Args:
        source: A model in diffusers' layout.
        target: The pipeline folder.
        encoders: Its text encoders.

    Returns:
        Name -> configuration of a text encoder.

    Raises:
        ArtifactError: If one can't be loaded.
        ConfigError: If a tokenizer has more tokens than its text encoder knows.
    """
    read = {}
    for encoder in encoders:
        tokenizer, network = encoder.load(source)
        if len(tokenizer) > network.config.vocab_size:
            raise ConfigError(
                "model.source",
                expected=f"a tokenizer of {encoder.name}'s {network.config.vocab_size} tokens at most",
                got=f"one of {len(tokenizer)}",
                fix="give the tokenizer that belongs to the text encoder, or one whose embeddings were added to it",
            )
        network.save_pretrained(target / encoder.name)
        read[encoder.name] = network.config
        del network
        (target / encoder.tokenizer).mkdir()
        for pattern in _TOKENIZER_FILES:
            for file in sorted((source / encoder.tokenizer).glob(pattern)):
                shutil.copyfile(file, target / encoder.tokenizer / file.name)
    return read


def write_scheduler(scheduler: Mapping[str, Any], target: Path) -> None:
    """Write the scheduler's configuration of a pipeline folder."""
    (target / "scheduler").mkdir()
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(scheduler), indent=2), encoding="utf-8")


def write_index(target: Path, index: Mapping[str, Any]) -> None:
    """Write what a pipeline folder consists of."""
    (target / "model_index.json").write_text(json.dumps(dict(index), indent=2), encoding="utf-8")
