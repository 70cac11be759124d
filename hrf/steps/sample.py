"""Sample: draw an epoch's starts and denoise its branches, recording the trained tails."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save_file

from hrf.checkpoint import read_folder, writing_folder
from hrf.cost import expected_sampling_evaluations
from hrf.policies.folders import load_policy
from hrf.rewards import build_reward
from hrf.steps.artifacts import load_prefix_pool, save_episodes
from hrf.steps.context import Run, advance_reporter, step
from hrf.training import Episodes, build_starts, sample_episodes


@step("sample")
def sample(
    *, run: str, base: str, policy: str, baseline: str, epoch: int, trajectories: str, samples: str
) -> dict[str, Any]:
    """Roll out the current policy for one epoch.

    Args:
        run: Folder of the run.
        base: Folder of the base model.
        policy: Folder of the current policy.
        baseline: Folder of the baseline, which holds the prefix pool.
        epoch: From 0.
        trajectories: Output folder: states and log-probabilities of the trained tails.
        samples: Output folder: the finished samples.

    Returns:
        Window, mean start step and denoiser evaluations.
    """
    context = Run.read(run)
    config = context.config
    current = load_policy(config, read_folder(base), read_folder(policy))
    pool = load_prefix_pool(read_folder(baseline), current.switch_step)
    distribution = build_starts(
        config, current, reward=lambda: build_reward(config.reward, context.classifier("reward")), pool=pool
    )
    report = advance_reporter("sample", epoch, round(expected_sampling_evaluations(config, current.schedule, epoch)))
    episodes = sample_episodes(current, distribution, config, run_seed=context.run_seed, epoch=epoch, on_advance=report)
    producer = context.producer("sample", epoch)
    with writing_folder(trajectories, producer=producer) as folder:
        save_episodes(episodes, folder)
    with writing_folder(samples, producer=producer) as folder:
        save_file({"samples": episodes.samples, "groups": episodes.trajectories.groups}, folder / "samples.safetensors")
    return sampling_metrics(episodes)


def sampling_metrics(episodes: Episodes) -> dict[str, Any]:
    """An epoch's sampling in flat numbers."""
    record = episodes.record()
    # Starts from noise all are at the first step that is trained.
    first = int(episodes.starts.steps[0])
    start, stop = record.pop("window") or (first, first + 1)
    return {"window_start": start, "window_stop": stop, "num_branches": len(episodes.samples), **record}
