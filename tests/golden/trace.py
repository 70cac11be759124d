"""The golden trace: what three epochs of training on the shipped model compute, written down.

An unchanged computation gives an unchanged trace, so whatever changes one by accident is seen: a dropped gradient clip,
a minibatch used twice, an option that nothing reads. Written anew, by hand and only where a change of the computation
is meant, with:

    OMP_NUM_THREADS=1 python -m tests.golden.trace
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrf.config import Config, resolve
from hrf.networks.features import pixel_features
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import build_reward
from hrf.trainer.starts import build_starts, draw_prefix_pool
from hrf.trainer.trainer import Trainer, sample_episodes, score_episodes
from hrf.trainer.update import Updater

FOLDER = Path(__file__).parent
NUM_EPOCHS = 3
RUN_SEED = 1


def redness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Red minus blue: a smooth reward, so that rounding moves it by rounding only, where a JPEG's size jumps."""
    return (images[:, 0].astype(np.float64) - images[:, 2]).mean(axis=(1, 2))


def greenness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """As smooth, for a second reward."""
    return images[:, 1].mean(axis=(1, 2)).astype(np.float64)


#: Two minibatches an epoch and a second pass over them, with both clips in use. The rate and the decay are large, so
#: that what leaves either out is far outside the tolerance.
_SMALL = {
    "sampler": {"steps": 6},
    "rollout": {"roots": 2, "branches": 3},
    "reward": {"name": "python", "function": "tests.golden.trace:redness"},
    "update": {
        "learning_rate": 1e-5,
        "weight_decay": 10.0,
        "clip_range": 2e-4,
        "max_grad_norm": 1e-2,
        "inner_epochs": 2,
        "minibatch": 4,
        "microbatch": 4,
    },
    "run": {"epochs": NUM_EPOCHS},
}
_UNIFORM = {"schedule": "uniform", "windows": []}
#: Name of a trace -> preset and what is changed besides _SMALL.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpo": (
        "avatars-ddpo",
        {"update": {"step_weighting": "std"}},
    ),
    "hrf": (
        "avatars-hrf",
        {
            "starts": _UNIFORM,
            "update": {
                "rate_schedule": "warmup_cosine",
                "warmup_updates": 3,
                "total_updates": 14,
                "advantage_spread": "sample",
                "advantage_delta": 1e-6,
            },
        },
    ),
    "hrf-d": (
        "avatars-hrf-d",
        {"starts": {"selection": {"stride": 1, "coarse_stride": 2, "branches": 2, "preview_steps": 1}}},
    ),
    "split": (
        "avatars-split",
        {
            "starts": _UNIFORM,
            "policy": {"split": 0.3, "prefix_pool": 3},
            "update": {"step_weighting": "std", "kl_weight": 1.0, "ema_decay": 0.5},
        },
    ),
    "shared": (
        "avatars-split",
        {
            "starts": {"schedule": "fixed", "windows": [{"steps": [2, 3]}]},
            "policy": {"split": 0.3, "prefix_pool": 3},
            "rollout": {"share_start": True},
            "update": {"trust_region": "divergence", "divergence_limit": 4e-6, "clip_range": 1e-4},
        },
    ),
    "difference": (
        "avatars-split",
        {
            "starts": _UNIFORM,
            "policy": {"split": 0.3, "prefix_pool": 3},
            # What it has no use for, at its default.
            "update": {"objective": "difference", "proximal_weight": 1.0, "levels_per_branch": 2, "clip_range": 1e-4},
        },
    ),
    "shaped": (
        "avatars-split",
        {
            "starts": _UNIFORM,
            "policy": {"split": 0.3, "prefix_pool": 3},
            "update": {
                "objective": "difference",
                "reference_weight": 1.0,
                "sibling_distance_weight": 0.5,
                "clip_range": 1e-4,
            },
            "shaping": {
                "reward": {"name": "python", "function": "tests.golden.trace:greenness"},
                "weight": -0.5,
            },
            "evaluation": {"features": "pixels"},
        },
    ),
}


def config_of(case: str) -> Config:
    """The configuration of a trace."""
    preset, changes = CASES[case]
    return resolve(preset).with_changes(_SMALL).with_changes(changes)


@contextmanager
def one_thread() -> Iterator[None]:
    """With more, the order of sums depends on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, str]:
    """What rounding depends on: two machines that agree in this must agree in every bit."""
    return {
        "processor": hashlib.sha256(_processor().encode()).hexdigest()[:16],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "libc": " ".join(platform.libc_ver()),
        **{name: version(name) for name in ("torch", "diffusers", "numpy")},
    }


def _processor() -> str:
    """Make, model and abilities: libraries choose their kernels by them, and by the sizes of caches."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    first = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    kept = ("vendor_id", "cpu family", "model", "model name", "cache size", "flags")
    return json.dumps({name.strip(): value.strip() for name, value in fields.items() if name.strip() in kept})


def trace(case: str) -> list[dict[str, Any]]:
    """Train, and note each epoch: its starts, rewards, every update's metrics, and the weights after it."""
    config = config_of(case)
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        base = Path(scratch) / "base"
        fetch_base(config.model, base, {"step": "test"})
        policy = load_policy(config, base, base, reference=True)
        reward = build_reward(config.reward)
        shaping = build_reward(config.shaping.reward) if config.shaping else None
        pool = None
        if config.policy.prefix_pool:
            pool = draw_prefix_pool(policy, config, run_seed=RUN_SEED, on_advance=None)
        starts = build_starts(config, policy, reward=lambda: reward, pool=pool)
        average = None
        if config.update.ema_decay:
            average = {name: value.detach().clone() for name, value in policy.denoiser.named_parameters()}
        trainer = Trainer(policy, config, run_seed=RUN_SEED, average=average)
        epochs = []
        for epoch in range(NUM_EPOCHS):
            episodes = sample_episodes(policy, starts, config, run_seed=RUN_SEED, epoch=epoch)
            embed = pixel_features if config.update.sibling_distance_weight else None
            scores = score_episodes(episodes.finished, reward, epoch=epoch, shaping=shaping, embed=embed)
            record = trainer.learn(episodes.trajectories, episodes.sampling, scores, epoch=epoch)
            epochs.append(
                {
                    "start_steps": episodes.trajectories.start_steps.tolist(),
                    "rewards": scores.rewards.tolist(),
                    # What an update does not have is absent, whatever others have.
                    "updates": [update.model_dump(exclude_none=True) for update in record.updates],
                    "grad_norm_by_step": {str(step): norm for step, norm in record.grad_norm_by_step.items()},
                    "weights": _weights(policy, trainer.updater),
                }
            )
        return epochs


def _weights(policy: DiffusionPolicy, updater: Updater) -> dict[str, Any]:
    """How far they are from the base's and from zero, and their digest; and so for the moving average."""
    tuned = {name: value.detach() for name, value in policy.denoiser.named_parameters()}
    base = {name: value.detach() for name, value in policy.reference.named_parameters()}
    noted = {"norm": _norm(tuned), "moved": _norm({name: tuned[name] - base[name] for name in tuned})}
    noted["sha256"] = _digest(tuned)
    if updater.average is not None:
        noted["average_moved"] = _norm({name: updater.average[name] - base[name] for name in tuned})
        noted["average_sha256"] = _digest(updater.average)
    return noted


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([value.double().square().sum() for value in tensors.values()]).sum().sqrt())


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def path_of(case: str) -> Path:
    """Where a trace is kept."""
    return FOLDER / f"{case}.json"


if __name__ == "__main__":
    for name in CASES:
        text = json.dumps({"machine": machine(), "epochs": trace(name)}, indent=1)
        path_of(name).write_text(text + "\n", encoding="utf-8")
