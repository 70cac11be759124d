"""Train: several epochs of sample, score and update in one step, for long runs within Kubeflow's task budget."""

from __future__ import annotations

import time
from typing import Any

from hrf.distributed.ranks import this_rank
from hrf.planning.cost import expected_sampling_evaluations
from hrf.rewards import build_reward
from hrf.steps.context import TRAINED, RunContext, advance_reporter, step
from hrf.steps.numbers import update_metrics
from hrf.steps.processes import in_processes
from hrf.steps.sample import prompt_texts
from hrf.steps.score import reward_samples
from hrf.steps.tracking import track
from hrf.steps.update import TrainingSession
from hrf.storage.folders import read_folder
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.state import load_prefix_pool
from hrf.trainer.trainer import build_starts, sample_episodes


@step("train", when_stopped=TRAINED, secrets=SCORING_SECRETS)
@in_processes
def train(
    *,
    run: str,
    base: str,
    policy: str,
    training_state: str,
    baseline: str,
    epoch: int,
    num_epochs: int,
    new_policy: str,
    new_training_state: str,
) -> dict[str, Any]:
    """Train `num_epochs` epochs from `epoch` on; bit for bit what the separate steps make of them.

    Args:
        run: Folder of the run.
        base: Folder of the base model.
        policy: Folder of the current policy.
        training_state: Folder of the optimizer's state and the counters.
        baseline: Folder of the baseline, which holds the prefix pool.
        epoch: The first one, from 0.
        num_epochs: How many.
        new_policy: Output folder: the updated policy, with the records of these epochs.
        new_training_state: Output folder.

    Returns:
        The last epoch's metrics.
    """
    context = RunContext.read(run)
    config, ranks = context.config, this_rank()
    session = TrainingSession(context, base, policy, training_state)
    reward = build_reward(config.reward, context.classifier("reward"))
    pool = load_prefix_pool(read_folder(baseline), config.switch_step)
    table = context.prompts
    distribution = build_starts(config, session.policy, reward=lambda: reward, pool=pool, prompts=table)
    records: dict[int, dict[str, Any]] = {}
    for current in range(epoch, epoch + num_epochs):
        expected = expected_sampling_evaluations(
            config, session.policy.schedule, current, switch_step=session.policy.switch_step
        )
        episodes = sample_episodes(
            session.policy,
            distribution,
            config,
            run_seed=context.run_seed,
            epoch=current,
            ranks=ranks,
            on_advance=advance_reporter("sample", current, round(expected)),
        )
        began = time.perf_counter()
        groups = episodes.trajectories.groups
        texts = prompt_texts(episodes.trajectories, table)
        rewards = reward_samples(reward, episodes.samples.numpy(), groups.numpy(), current, texts, ranks)
        score_seconds = time.perf_counter() - began
        records[current] = session.learn(episodes.trajectories, rewards, episodes.record(), score_seconds, current)
    last = epoch + num_epochs - 1
    ranks.wait_for_all()
    if ranks.is_first:
        session.save(new_policy, new_training_state, "train", records)
        track(context, policy=new_policy)
    return update_metrics(records[last])
