"""What the denoiser in bfloat16 saves, and what it costs in log-probabilities.

    python -m benchmarks.precision [PRESET] [--samples N]

Whole samples are drawn with float32. At every trained step, log-probs of the same states are computed again, at
unchanged weights, by a denoiser in either precision, in calls of the rollout's size and of the update's. Columns: the
error of bfloat16 is its difference to float32, mean over samples; the mismatch is the difference of the rollout's and
the update's calls in one precision, which is what the log of the ratio starts from. Both compare with the clip range of
an episode that starts at the step. Times are processor seconds of one thread, measured in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.epoch import forwards, forwards_and_backwards, timed
from hrf.config import Config, resolve
from hrf.core.objective import tail_fraction
from hrf.core.schedule import gaussian_log_prob
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, Trajectories, rollout

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="avatars-hrf")
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(arguments.preset)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        fetch_base(config.model, base, {"step": "benchmark"})
        policy = load_policy(config, base, base)
    print_errors(config, policy, arguments.samples)
    print_times(policy, sorted({config.model.batch_size, config.update.microbatch}))


def print_errors(config: Config, policy: DiffusionPolicy, count: int) -> None:
    """A row a trained step."""
    sizes = {"rollout": config.model.batch_size, "update": config.update.microbatch}
    streams = [stream(0, Purpose.ROOT, 0, index) for index in range(count)]
    batch = Batch.from_noise(policy, streams)
    reduction = config.update.log_prob_reduction
    tails, _ = rollout(policy, batch, batch.steps, batch_size=sizes["update"], reduction=reduction)
    table = Table(
        "step",
        "std",
        "clip range",
        "error of bf16 (mean)",
        "mismatch fp32 (mean)",
        "mismatch bf16 (mean)",
        "beyond",
        title=f"{count} samples; {sizes['rollout']} in a call of the rollout, {sizes['update']} in one of the update",
    )
    for step in range(tails.num_trained_steps):
        values = {
            (name, place): log_probs(replace(policy, forward_dtype=dtype), tails, step, size, config)
            for name, dtype in PRECISIONS.items()
            for place, size in sizes.items()
        }
        error = (values["bfloat16", "update"] - values["float32", "update"]).abs()
        mismatch = {name: (values[name, "update"] - values[name, "rollout"]).abs() for name in PRECISIONS}
        clip = config.update.clip_range
        if config.update.scale_trust_region:
            clip *= float(tail_fraction(torch.tensor(step), policy.schedule.num_steps))
        table.add_row(
            str(step),
            f"{float(policy.schedule.stds[step]):.3f}",
            f"{clip:.1e}",
            f"{float(error.mean()):.1e}",
            f"{float(mismatch['float32'].mean()):.1e}",
            f"{float(mismatch['bfloat16'].mean()):.1e}",
            f"{float((mismatch['bfloat16'] > clip).float().mean()):.0%}",
        )
    Console(width=120).print(table)


@torch.no_grad()
def log_probs(policy: DiffusionPolicy, tails: Trajectories, step: int, size: int, config: Config) -> Tensor:
    """Of every sample's transition at one step, in calls of `size`: [B]."""
    pairs = tails.pairs(torch.arange(len(tails.start_steps)))
    index = pairs.state_index[pairs.step == step]
    parts = []
    for chosen in index.split(size):
        mean, std = policy.transition(tails.states[chosen], torch.full_like(chosen, step), call_size=size)
        parts.append(gaussian_log_prob(tails.states[chosen + 1], mean, std, config.update.log_prob_reduction))
    return torch.cat(parts)


def print_times(policy: DiffusionPolicy, sizes: list[int], repeats: int = 5) -> None:
    """A row a call size: milliseconds per sample, and how many times as fast bfloat16 is."""
    table = Table("samples in a call", "forward, ms", "bf16 is", "forward and backward, ms", "bf16 is")
    for size in sizes:
        cells = []
        for run in (forwards, forwards_and_backwards):
            seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
            for _ in range(repeats):
                for name, dtype in PRECISIONS.items():
                    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                        seconds[name].append(timed(lambda run=run, size=size: run(policy, size, size))[0])
            ratios = [a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True)]
            cells.append(f"{statistics.median(seconds['float32']) / size * 1e3:.1f}")
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        table.add_row(str(size), *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
