"""Train: several epochs of sample, score and update in one step, for long runs within Kubeflow's task budget."""

from __future__ import annotations

from typing import Any

from hrf.rewards import build_reward
from hrf.steps.context import TRAINED, RunContext, step
from hrf.steps.numbers import update_metrics
from hrf.steps.processes import in_processes
from hrf.steps.sample import start_distribution
from hrf.steps.score import shaping_reward, sibling_embedder
from hrf.steps.update import load_trainer, write_trained
from hrf.storage.folders import read_folder
from hrf.storage.secrets import SCORING_SECRETS


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
    replica: int,
    new_policy: str,
    new_training_state: str,
) -> dict[str, Any]:
    """Train `num_epochs` epochs from `epoch` on; bit for bit what the separate steps make of them.

    Returns:
        The last epoch's metrics.
    """
    context = RunContext.read(run, replica=replica)
    base_folder, policy_folder = read_folder(base), read_folder(policy)
    trainer = load_trainer(context, base_folder, policy_folder, training_state)
    reward = build_reward(context.config.reward, context.classifier("reward"))
    starts = start_distribution(context, trainer.policy, baseline, lambda: reward)
    shaping, embed = shaping_reward(context), sibling_embedder(context)
    records = [
        trainer.train(current, starts, reward, shaping=shaping, embed=embed)
        for current in range(epoch, epoch + num_epochs)
    ]
    write_trained(
        trainer,
        records,
        context,
        base_folder,
        policy_folder,
        step_name="train",
        new_policy=new_policy,
        new_training_state=new_training_state,
    )
    return update_metrics(records[-1])
