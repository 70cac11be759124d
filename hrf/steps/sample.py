"""Sample: draw an epoch's starts and denoise its branches, recording the trained tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hrf.distributed.ranks import this_rank
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy
from hrf.rewards import Reward, build_reward
from hrf.steps.context import RunContext, step
from hrf.steps.processes import in_processes
from hrf.storage.folders import read_folder
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.episodes import Episodes
from hrf.trainer.starts import Shard, StartDistribution, build_starts
from hrf.trainer.state import load_prefix_pool, save_episodes
from hrf.trainer.trainer import sample_episodes


@step("sample", when_stopped={"trajectories": "", "samples": ""}, secrets=SCORING_SECRETS)
@in_processes
def sample(
    *,
    run: str,
    base: str,
    policy: str,
    baseline: str,
    epoch: int,
    replica: int,
    shard: int,
    num_shards: int,
    trajectories: str,
    samples: str,
) -> dict[str, Any]:
    """Roll out the current policy for one epoch, or for a shard of it.

    What `gather` joins does not depend on the number of shards.

    Returns:
        Window, mean start step and denoiser evaluations.
    """
    context, ranks = RunContext.read(run, replica=replica), this_rank()
    config = context.config
    current = load_policy(config, read_folder(base), read_folder(policy), prompts=context.prompts_folder)
    episodes = sample_episodes(
        current,
        start_distribution(
            context, current, baseline, lambda: build_reward(config.reward, context.classifier("reward"))
        ),
        config,
        run_seed=context.run_seed,
        epoch=epoch,
        texts=context.texts,
        shard=Shard(index=shard, count=num_shards),
        ranks=ranks,
    )
    ranks.wait_for_all()
    if ranks.is_first:
        producer = context.producer("sample", epoch, shard=shard, num_shards=num_shards)
        save_episodes(episodes, trajectories, samples, producer)
    return sampling_metrics(episodes)


def start_distribution(
    context: RunContext, policy: DiffusionPolicy, baseline: str, reward: Callable[[], Reward]
) -> StartDistribution:
    """Where the run's episodes start; `baseline` is the folder that may have a prefix pool."""
    pool = load_prefix_pool(read_folder(baseline), context.config.switch_step)
    return build_starts(context.config, policy, reward=reward, pool=pool, prompts=context.prompts)


def sampling_metrics(episodes: Episodes) -> dict[str, Any]:
    """An epoch's sampling in flat numbers."""
    start_steps, numbers = episodes.trajectories.start_steps, episodes.sampling.as_json()
    # Starts from noise all are at the first step that is trained.
    first = int(start_steps[0])
    start, stop = numbers.pop("window") or (first, first + 1)
    return {"window_start": start, "window_stop": stop, "num_branches": len(start_steps), **numbers}
