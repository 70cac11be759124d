"""Score: the reward of every branch's finished image."""

from __future__ import annotations

from typing import Any

from hrf.distributed.ranks import this_rank
from hrf.networks.classifier import ImageClassifier
from hrf.networks.features import Embedder, build_embedder
from hrf.rewards import Reward, build_reward
from hrf.steps.context import RunContext, step
from hrf.steps.processes import in_processes
from hrf.storage.folders import writing_folder
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.state import load_finished, save_scores
from hrf.trainer.trainer import score_episodes


@step("score", when_stopped={"scores": ""}, secrets=SCORING_SECRETS)
@in_processes
def score(*, run: str, samples: str, epoch: int, replica: int, scores: str) -> dict[str, Any]:
    """Reward an epoch's samples.

    Returns:
        Mean, spread and extremes of the rewards; the mean of what shapes them.

    Raises:
        NumericalError: If a reward is not finite; it names epoch, root and branch. Or if a picture has no features.
    """
    context, ranks = RunContext.read(run, replica=replica), this_rank()
    reward = build_reward(context.config.reward, context.classifier("reward"))
    scored = score_episodes(
        load_finished(samples),
        reward,
        epoch=epoch,
        shaping=shaping_reward(context),
        embed=sibling_embedder(context),
        ranks=ranks,
    )
    ranks.wait_for_all()
    if ranks.is_first:
        with writing_folder(scores, producer=context.producer("score", epoch)) as folder:
            save_scores(scored, reward.name, folder)
    rewards, shaping = scored.rewards, scored.shaping
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_min": float(rewards.min()),
        "reward_max": float(rewards.max()),
        **({} if shaping is None else {"shaping_mean": float(shaping.mean())}),
        "seconds": scored.seconds,
    }


def shaping_reward(context: RunContext) -> Reward | None:
    """The second reward that training is on; None without one."""
    shaping = context.config.shaping
    return build_reward(shaping.reward, context.classifier("shaping"), field="shaping.reward") if shaping else None


def sibling_embedder(context: RunContext) -> Embedder | None:
    """What makes the features by which siblings are compared; None where advantages don't ask for their distances."""
    if not context.config.update.sibling_distance_weight:
        return None
    folder = context.classifier("evaluation")
    return build_embedder(context.config.evaluation, ImageClassifier.from_pretrained(folder) if folder else None)
