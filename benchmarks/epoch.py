"""Time and bytes of one epoch, next to the least possible.

    python -m benchmarks.epoch [PRESET] [--batch-size N] [--repeats N]

Time: sample, score and update of one epoch against a floor of as many raw denoiser evaluations in full batches,
forward for the sampling, forward and backward for the update. Times are processor seconds of one thread, so that what
else the machine does does not count, and the two are measured in turn, so that a machine whose speed drifts slows both.
Bytes: what an epoch's steps hand on through artifacts, against tail states, log-probabilities
and weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hrf.config import Config, resolve
from hrf.networks.classifier import classifier_folder
from hrf.planning.cost import pool_evaluations
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import Reward, RewardSettings, build_reward
from hrf.trainer.episodes import Episodes, Scores
from hrf.trainer.starts import build_starts, draw_prefix_pool
from hrf.trainer.state import moments_of, save_episodes, save_scores, save_training_state
from hrf.trainer.trainer import Trainer, sample_episodes, score_episodes

#: Samples in a call of the floor's forward passes, whatever the run's own calls hold.
FLOOR_BATCH = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="avatars-compressibility")
    parser.add_argument("--batch-size", type=int, help="samples in a call of the rollout; the preset's")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(arguments.preset)
    if arguments.batch_size:
        config = config.with_changes({"model": {"batch_size": arguments.batch_size}})
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        fetch_base(config.model, base, {"step": "benchmark"})
        policy = load_policy(config, base, base)
        measure(config, policy, arguments.repeats, Path(scratch))


def measure(config: Config, policy: DiffusionPolicy, repeats: int, scratch: Path) -> None:
    """Time epochs and their floors in turn, and print the tables."""
    pool = None
    if config.policy.prefix_pool:
        pool = draw_prefix_pool(policy, config, run_seed=config.run.seed, on_advance=None)

    def built(settings: RewardSettings) -> Reward:
        shipped = classifier_folder("shipped", "classifier") if settings.name == "classifier" else None
        return build_reward(settings, shipped)

    reward, shaping = built(config.reward), built(config.shaping.reward) if config.shaping else None
    starts = build_starts(config, policy, reward=lambda: reward, pool=pool)
    trainer = Trainer(policy, config, run_seed=config.run.seed)
    rows: list[dict[str, float]] = []
    for repeat in range(repeats + 1):
        epoch = repeat % config.run.epochs
        sampling, episodes = timed(
            lambda epoch=epoch: sample_episodes(policy, starts, config, run_seed=config.run.seed, epoch=epoch)
        )
        scoring, scores = timed(
            lambda episodes=episodes, epoch=epoch: score_episodes(
                episodes.finished, reward, epoch=epoch, shaping=shaping
            )
        )
        updating, _ = timed(
            lambda episodes=episodes, scores=scores, epoch=epoch: trainer.learn(
                episodes.trajectories, episodes.sampling, scores, epoch=epoch
            )
        )
        pairs = int(episodes.trajectories.tail_lengths.sum()) * config.update.inner_epochs
        forward, _ = timed(lambda count=episodes.sampling.num_evaluations: forwards(policy, count, FLOOR_BATCH))
        both, _ = timed(lambda pairs=pairs: forwards_and_backwards(policy, pairs, config.update.microbatch))
        if repeat:  # The first round warms up.
            rows.append(
                {"sample": sampling, "score": scoring, "update": updating, "forward floor": forward, "floor": both}
            )
    print_times(rows)
    print_bytes(trainer, episodes, scores, scratch)
    Console().print(f"Once per run: {pool_evaluations(config):,} evaluations for the prefix pool, in neither column.")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds and result of a call."""
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


@torch.no_grad()
def forwards(policy: DiffusionPolicy, count: int, batch_size: int) -> None:
    """`count` evaluations of the bare denoiser in full batches; the last batch holds what is left."""
    for size in batches(count, batch_size):
        policy.denoiser(torch.zeros(size, *policy.sample_shape), torch.zeros(size, dtype=torch.int64))


def forwards_and_backwards(policy: DiffusionPolicy, count: int, batch_size: int) -> None:
    """The same with gradients to all weights."""
    for size in batches(count, batch_size):
        output = policy.denoiser(torch.zeros(size, *policy.sample_shape), torch.zeros(size, dtype=torch.int64)).sample
        output.sum().backward()
    policy.denoiser.zero_grad()


def batches(count: int, size: int) -> list[int]:
    """`count` in parts of `size` and a rest."""
    return [size] * (count // size) + ([count % size] if count % size else [])


def print_times(rows: list[dict[str, float]]) -> None:
    """One column a part; medians over the repeats, and the ratio paired within each."""
    ratios = [(row["sample"] + row["score"] + row["update"]) / (row["forward floor"] + row["floor"]) for row in rows]
    table = Table("part", "processor seconds (median)", "floor", "ratio", title=f"One epoch, {len(rows)} repeats")
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    parts = [("sample", median["sample"], median["forward floor"]), ("update", median["update"], median["floor"])]
    for name, seconds, floor in parts:
        table.add_row(name, f"{seconds:.2f}", f"{floor:.2f}", f"{seconds / floor:.2f}")
    table.add_row("score", f"{median['score']:.3f}", "", "")
    table.add_row("epoch", "", "", f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    Console().print(table)


def print_bytes(trainer: Trainer, episodes: Episodes, scores: Scores, scratch: Path) -> None:
    """Bytes of an epoch's artifacts against their content."""
    denoiser, rewards, tails = trainer.policy.denoiser, scores.rewards, episodes.trajectories
    weights = sum(parameter.numel() * 4 for parameter in denoiser.parameters())
    for name in ("policy", "training state", "scores"):
        (scratch / name).mkdir()
    save_episodes(episodes, str(scratch / "trajectories"), str(scratch / "samples"), {})
    save_scores(scores, "reward", scratch / "scores")
    denoiser.save_pretrained(scratch / "policy")
    save_training_state(trainer, moments_of(trainer), scratch / "training state")
    least = {
        "trajectories": tails.states.nbytes + tails.log_probs.nbytes,
        "samples": episodes.finished.samples.nbytes,
        "policy": weights,
        "training state": 2 * weights,
        "scores": rewards.nbytes,
    }
    parts = {
        name: (sum(file.stat().st_size for file in (scratch / name).rglob("*") if file.is_file()), size)
        for name, size in least.items()
    }
    table = Table("artifact", "bytes", "least", "ratio", title=f"Artifacts of one epoch of {len(rewards)} branches")
    for name, (written, least) in parts.items():
        table.add_row(name, f"{written:,}", f"{least:,}", f"{written / least:.3f}")
    written, least = (sum(values) for values in zip(*parts.values(), strict=True))
    table.add_row("all", f"{written:,}", f"{least:,}", f"{written / least:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
