"""How often HRF-D's cheap rule picks the step that the published, exhaustive rule picks, and what either costs.

    python -m benchmarks.selection [PRESET] [--roots N]

Both rules choose a start step for the same roots. A second run of the exhaustive rule, on noise of its own, says how
often that rule agrees with itself: more can't be asked of a cheaper one. The regret is the exhaustive score of its own
choice less that of the other's; scores lie in [-0.5, 1].
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hrf.config import Config, resolve
from hrf.core.selection import pair_scores
from hrf.core.window import Window
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import build_reward
from hrf.rollout import denoise, draw_noise
from hrf.seeds import Purpose, stream
from hrf.starts import Roots, SelectedSteps
from hrf.training import build_selection


class Count:
    """Counts denoiser evaluations."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, count: int) -> None:
        """Add to the total."""
        self.total += count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="avatars-hrf-d")
    parser.add_argument("--roots", type=int, default=32)
    arguments = parser.parse_args()
    cheap = resolve(arguments.preset)
    published = {"rule": "exhaustive", "branches": 5, "preview_steps": 0, "coarse_stride": 4}
    exhaustive = cheap.with_changes({"starts": {"selection": published}})
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        fetch_base(cheap.model, base, {"step": "benchmark"})
        policy = load_policy(cheap, base, base)
    compare(cheap, exhaustive, policy, arguments.roots)


def compare(cheap: Config, exhaustive: Config, policy: DiffusionPolicy, num_roots: int) -> None:
    """Let the rules choose for the same roots, and print agreement and cost."""
    reward = build_reward(cheap.reward)
    streams = [stream(0, Purpose.ROOT, 0, root) for root in range(num_roots)]
    noise = draw_noise(streams, policy.sample_shape, policy.device)
    starts = torch.zeros(num_roots, dtype=torch.int64)
    samples = denoise(policy, noise, starts, streams, batch_size=cheap.model.batch_size)
    roots = Roots(samples=samples, numbers=range(num_roots))
    windows = cheap.window_schedule(policy.schedule.num_trained_steps)
    assert windows is not None, "the preset selects no starts"
    window = windows.window(0)
    rule = build_selection(exhaustive, reward)
    count = Count()
    steps = list(window.steps)[:: rule.stride]
    measured = rule.measure(policy, roots, [steps] * num_roots, 0, 0, count)
    scores = [
        dict(zip(steps, pair_scores([m[k][0] for k in steps], [m[k][1] for k in steps], rule.beta), strict=False))
        for m in measured
    ]
    best = [max(own, key=own.__getitem__) for own in scores]
    table = Table("rule", "same step", "regret (mean)", "evaluations per root", "share", title=f"{num_roots} roots")
    table.add_row("exhaustive", "", "", f"{count.total / num_roots:.0f}", "1.00")
    for name, other, seed in (("exhaustive, other noise", rule, 1), ("cheap", build_selection(cheap, reward), 0)):
        chosen, spent = choose(other, policy, roots, window, seed)
        same = statistics.mean(step == mine for step, mine in zip(chosen, best, strict=True))
        regret = statistics.mean(
            own[mine] - own.get(step, min(own.values())) for own, step, mine in zip(scores, chosen, best, strict=True)
        )
        share = spent / count.total
        table.add_row(name, f"{same:.0%}", f"{regret:.3f}", f"{spent / num_roots:.0f}", f"{share:.2f}")
    Console().print(table)


def choose(
    rule: SelectedSteps, policy: DiffusionPolicy, roots: Roots, window: Window, seed: int
) -> tuple[list[int], int]:
    """The steps that a rule chooses, and the denoiser evaluations it took."""
    count = Count()
    return rule(policy, roots, window, seed, 0, count).tolist(), count.total


if __name__ == "__main__":
    main()
