"""Sample: draw an epoch's starts and denoise its branches, recording the trained tails."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from hrf.distributed.ranks import this_rank
from hrf.planning.cost import expected_sampling_evaluations
from hrf.policies.folders import load_policy
from hrf.policies.prompts import PromptTable
from hrf.rewards import build_reward
from hrf.steps.context import RunContext, advance_reporter, step
from hrf.steps.processes import in_processes
from hrf.steps.score import write_prompts
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.rollout import Trajectories
from hrf.trainer.starts import Shard
from hrf.trainer.state import load_prefix_pool, save_trajectories
from hrf.trainer.trainer import build_starts, sample_episodes


@step("sample", when_stopped={"trajectories": "", "samples": ""}, secrets=SCORING_SECRETS)
@in_processes
def sample(
    *,
    run: str,
    base: str,
    policy: str,
    baseline: str,
    epoch: int,
    shard: int,
    num_shards: int,
    trajectories: str,
    samples: str,
) -> dict[str, Any]:
    """Roll out the current policy for one epoch, or for a shard of it.

    Args:
        run: Folder of the run.
        base: Folder of the base model.
        policy: Folder of the current policy.
        baseline: Folder of the baseline, which holds the prefix pool.
        epoch: From 0.
        shard: Which part of the epoch's roots, from 0. What `gather` joins does not depend on their number.
        num_shards: How many parts there are.
        trajectories: Output folder: states and log-probabilities of the trained tails.
        samples: Output folder: the finished samples.

    Returns:
        Window, mean start step and denoiser evaluations.
    """
    context = RunContext.read(run)
    config, ranks = context.config, this_rank()
    table = context.prompts
    current = load_policy(config, read_folder(base), read_folder(policy), prompts=context.prompts_folder)
    pool = load_prefix_pool(read_folder(baseline), config.switch_step)
    distribution = build_starts(
        config,
        current,
        reward=lambda: build_reward(config.reward, context.classifier("reward")),
        pool=pool,
        prompts=table,
    )
    expected = expected_sampling_evaluations(config, current.schedule, epoch, switch_step=current.switch_step)
    episodes = sample_episodes(
        current,
        distribution,
        config,
        run_seed=context.run_seed,
        epoch=epoch,
        shard=Shard(index=shard, count=num_shards),
        ranks=ranks,
        on_advance=advance_reporter("sample", epoch, round(expected / num_shards)),
    )
    producer = {**context.producer("sample", epoch), "shard": shard, "num_shards": num_shards}
    record = episodes.record()
    ranks.wait_for_all()
    if ranks.is_first:
        with writing_folder(trajectories, producer=producer) as folder:
            save_trajectories(episodes.trajectories, record, folder)
        with writing_folder(samples, producer=producer) as folder:
            tensors = {"samples": episodes.samples, "groups": episodes.trajectories.groups}
            save_file(tensors, folder / "samples.safetensors")
            if (texts := prompt_texts(episodes.trajectories, table)) is not None:
                write_prompts(texts, folder)
    return sampling_metrics(record, episodes.trajectories.start_steps)


def prompt_texts(trajectories: Trajectories, table: PromptTable | None) -> list[str] | None:
    """The prompt of each branch, as rewards are told; None for an unconditional model."""
    if table is None or trajectories.prompts is None:
        return None
    return table.texts_of(trajectories.prompts.tolist())


def sampling_metrics(record: dict[str, Any], start_steps: Tensor) -> dict[str, Any]:
    """An epoch's sampling in flat numbers."""
    # Starts from noise all are at the first step that is trained.
    first = int(start_steps[0])
    start, stop = record["window"] or (first, first + 1)
    numbers = {name: value for name, value in record.items() if name != "window"}
    return {"window_start": start, "window_stop": stop, "num_branches": len(start_steps), **numbers}
