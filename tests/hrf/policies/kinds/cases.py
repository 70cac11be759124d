"""Policies of a small model of each kind, and what its own pipeline is called with to draw the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler

from hrf.config import Config
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_fresh_policy
from hrf.policies.kinds import kind_of, normalise_base
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise
from tests.hrf import tiny_flux, tiny_stable_diffusion_3, tiny_stable_diffusion_xl
from tests.hrf.tiny_stable_diffusion import PROMPTS

STEPS = 6
LORA = {"policy": {"lora": {"rank": 2, "alpha": 6}}}
"""Alpha is not rank here."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of model in the tests of all of them."""

    save: Callable[[Path], Path]
    """Builds one."""
    model: Mapping[str, Any]
    """Its section of a configuration."""
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"kind": "cps", "min_std": 0.0})
    starts: Mapping[str, Any] = field(default_factory=dict)
    asked: Callable[[Config], dict[str, Any]] = lambda config: {"guidance_scale": config.model.guidance_scale}
    """What its pipeline is told beside prompts and noise."""
    eta: float = 0.0
    """By which the pipeline draws."""
    negative: str = ""

    def config(self, **changes: Any) -> Config:
        values = {
            "model": {"source": "x", "batch_size": 4, **self.model},
            "prompts": {"texts": list(PROMPTS)},
            "sampler": {"steps": STEPS, **self.sampler},
            "starts": dict(self.starts),
        }
        return Config.from_mapping(values).with_changes(changes)

    def base(self, model: Path, folder: Path) -> Path:
        """Its base, with its prompts."""
        folder.mkdir(exist_ok=True)
        normalise_base(model, folder)
        kind_of(folder).embed_prompts(folder, PROMPTS, negative=self.negative).save(folder)
        return folder

    def policy(self, base: Path, weights: Path | None = None, **changes: Any) -> DiffusionPolicy:
        return load_policy(self.config(**changes), base, weights or base, prompts=base)

    def fresh(self, base: Path, folder: Path) -> Path:
        """The folder of an untrained adapter."""
        folder.mkdir()
        save_fresh_policy(folder, self.config(**LORA), base, {"switch_step": 0}, run_seed=0)
        return folder

    def pipeline(self, base: Path) -> Any:
        pipeline = getattr(diffusers, kind_of(base).pipeline).from_pretrained(base)
        pipeline.set_progress_bar_config(disable=True)
        if self.eta:
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
        return pipeline


def _asked_of_flux(config: Config) -> dict[str, Any]:
    return {
        "negative_prompt": ["not that"] * 3,
        "true_cfg_scale": config.model.guidance_scale,
        "guidance_scale": 3.5,
        "height": config.model.picture_size,
        "width": config.model.picture_size,
    }


CASES = {
    "sd3": Case(save=tiny_stable_diffusion_3.save, model={"guidance_scale": 3.0}),
    "sdxl": Case(
        save=tiny_stable_diffusion_xl.save,
        model={"guidance_scale": 3.0},
        sampler={},
        asked=lambda config: {"guidance_scale": config.model.guidance_scale, "eta": 1.0},
        eta=1.0,
    ),
    "flux": Case(
        save=tiny_flux.save,
        model={"picture_size": 16, "embedded_guidance": 3.5},
        asked=_asked_of_flux,
        negative="not that",
    ),
    "schnell": Case(
        save=partial(tiny_flux.save, guidance_embeds=False, scheduler=tiny_flux.SCHNELL),
        model={"picture_size": 16},
        starts={"kind": "noise"},
        asked=_asked_of_flux,
        negative="not that",
    ),
}


def moved(policy: DiffusionPolicy, scale: float = 0.3) -> DiffusionPolicy:
    """The policy, with its tuned weights elsewhere."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return policy


def noise(count: int) -> list[torch.Generator]:
    """Of evaluation's first seeds."""
    return [stream(0, Purpose.EVALUATION, index) for index in range(count)]


def drawn(policy: DiffusionPolicy, asked: list[int], eta: float = 0.0) -> torch.Tensor:
    """Finished samples for prompts by their numbers."""
    sampler = policy.with_schedule(policy.schedule.with_eta(eta))
    return denoise(sampler, Batch.from_noise(policy, noise(len(asked)), torch.tensor(asked)), batch_size=4)


def same_weights(ours: Any, theirs: Any) -> bool:
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
