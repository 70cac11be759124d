"""How often HRF-D's cheap rule picks the step that the published, exhaustive rule picks, and what either costs.

    python -m benchmarks.selection [PRESET] [--roots N]

Both rules choose a start step for the same roots. A second run of the exhaustive rule, on noise of its own, says how
often that rule agrees with itself: more can't be asked of a cheaper one. The regret is the exhaustive score of its own
choice less that of the other's; scores lie in [-0.5, 1]. Choices are as good within noise where the regret is at most
the root mean square by which the two exhaustive runs differ in a candidate's score. The share of the epoch counts
denoiser evaluations: roots, branches and updates from the steps that were chosen (hrf.cost's unit).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hrf.config import Config, resolve
from hrf.core.selection import pair_scores
from hrf.core.window import Window
from hrf.planning.cost import update_evaluations
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.policies.sources import fetch_base
from hrf.rewards import build_reward
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, denoise
from hrf.trainer.selection import Roots, SelectedSteps, build_selection


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
    samples = denoise(policy, Batch.from_noise(policy, streams), batch_size=cheap.model.batch_size)
    roots = Roots(samples=samples, numbers=range(num_roots))
    windows = cheap.window_schedule(policy.schedule.num_trained_steps)
    assert windows is not None, "the preset selects no starts"
    window = windows.window(0)
    rule = build_selection(exhaustive, reward)
    count = Count()
    scores = exhaustive_scores(rule, policy, roots, window, 0, count)
    again = exhaustive_scores(rule, policy, roots, window, 1, Count())
    noise = statistics.mean((a[k] - b[k]) ** 2 for a, b in zip(scores, again, strict=True) for k in a) ** 0.5
    chosen, spent = choose(build_selection(cheap, reward), policy, roots, window)
    table = Table(
        "rule",
        "same step",
        "as good within noise",
        "regret (mean)",
        "evaluations per root",
        "share of the epoch",
        title=f"{num_roots} roots, noise of a score {noise:.2f}",
    )
    choices = {
        "exhaustive": ([best(own) for own in scores], count.total),
        "exhaustive, other noise": ([best(own) for own in again], count.total),
        "cheap": (chosen, spent),
    }
    for name, (steps, evaluations) in choices.items():
        regrets = [max(own.values()) - own.get(k, min(own.values())) for own, k in zip(scores, steps, strict=True)]
        same = statistics.mean(best(own) == k for own, k in zip(scores, steps, strict=True))
        close = statistics.mean(regret <= noise for regret in regrets)
        share = evaluations / (evaluations + rest_of_epoch(cheap, policy, steps))
        table.add_row(
            name,
            f"{same:.0%}",
            f"{close:.0%}",
            f"{statistics.mean(regrets):.3f}",
            f"{evaluations / num_roots:.0f}",
            f"{share:.0%}",
        )
    values = [value - max(own.values()) for own in scores for value in own.values()]
    close = statistics.mean(value >= -noise for value in values)
    table.add_row(
        "by chance", f"{1 / len(scores[0]):.0%}", f"{close:.0%}", f"{-statistics.mean(values):.3f}", "0", "0%"
    )
    Console(width=120).print(table)


def exhaustive_scores(
    rule: SelectedSteps, policy: DiffusionPolicy, roots: Roots, window: Window, seed: int, count: Count
) -> list[dict[int, float]]:
    """Each root's score of every candidate that can win."""
    steps = list(window.steps)[:: rule.stride]
    measured = rule.measure(policy, roots, [steps] * len(roots), seed, 0, count)
    return [
        dict(zip(steps, pair_scores([m[k][0] for k in steps], [m[k][1] for k in steps], rule.beta), strict=False))
        for m in measured
    ]


def best(scores: dict[int, float]) -> int:
    """The step that wins."""
    return max(scores, key=scores.__getitem__)


def rest_of_epoch(config: Config, policy: DiffusionPolicy, starts: list[int]) -> int:
    """Evaluations of an epoch's roots, branches and updates from given start steps."""
    schedule, branches = policy.schedule, config.rollout.branches
    pairs = sum(schedule.num_trained_steps - start for start in starts) * branches
    tails = sum(schedule.num_steps - start for start in starts) * branches
    return len(starts) * schedule.num_steps + tails + update_evaluations(pairs, config)


def choose(rule: SelectedSteps, policy: DiffusionPolicy, roots: Roots, window: Window) -> tuple[list[int], int]:
    """The steps that a rule chooses, and the denoiser evaluations it took; on noise that no exhaustive run has seen."""
    count = Count()
    return rule(policy, roots, window, 2, 0, count).tolist(), count.total


if __name__ == "__main__":
    main()
