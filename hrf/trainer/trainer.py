"""Training on objects: sample episodes, score them, learn from them. No files, no names of algorithms."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.config import Config
from hrf.core.diversity import sibling_distances
from hrf.distributed.progress import advance_reporter, emit
from hrf.distributed.ranks import ALONE, Ranks
from hrf.distributed.sharding import gathered
from hrf.errors import NumericalError
from hrf.images import to_images
from hrf.networks.features import Embedder
from hrf.planning.cost import expected_sampling_evaluations, pool_evaluations, update_evaluations
from hrf.policies.diffusion import DiffusionPolicy
from hrf.rewards import ImageError, Reward
from hrf.trainer.advantages import advantages_of, build_statistics
from hrf.trainer.episodes import Episodes, Finished, Scores
from hrf.trainer.objectives import num_loss_pairs
from hrf.trainer.record import EpochRecord, Sampling
from hrf.trainer.rollout import Trajectories, rollout
from hrf.trainer.starts import WHOLE, Shard, StartDistribution
from hrf.trainer.update import Updater, weight_sums


def sample_episodes(
    policy: DiffusionPolicy,
    starts: StartDistribution,
    config: Config,
    *,
    run_seed: int,
    epoch: int,
    texts: Sequence[str] = (),
    shard: Shard = WHOLE,
    ranks: Ranks = ALONE,
) -> Episodes:
    """Draw the starts of an epoch, or of a shard of it, and denoise every branch to the end.

    Ranks share the roots (or episodes) between them, and all get what one process would have made, bit for bit.
    """
    began = time.perf_counter()
    expected = expected_sampling_evaluations(config, policy.schedule, epoch, switch_step=policy.switch_step)
    report = advance_reporter("sample", epoch, round(expected / shard.count))
    drawn = starts.draw(policy, run_seed=run_seed, epoch=epoch, shard=shard.divided(ranks), on_advance=report)
    # Sampling and training must ask the denoiser the same question.
    acting = policy if config.update.guidance else policy.unguided()
    recorded, samples = rollout(
        acting,
        drawn.batch,
        drawn.groups,
        batch_size=config.model.batch_size,
        total=config.rollout.roots * config.rollout.branches,
        reduction=config.update.log_prob_reduction,
        keep_means=config.update.trust_region == "divergence",
        on_advance=report,
    )
    if config.update.objective == "difference":
        recorded = replace(recorded, finished=samples.cpu())
    tails = int((policy.schedule.num_steps - drawn.batch.steps).sum()) * acting.forwards
    tensors: dict[str, Any] = {
        name: ranks.concatenate(value) for name, value in vars(recorded).items() if isinstance(value, Tensor)
    }
    trajectories = replace(recorded, **tensors)
    prompts = trajectories.prompts
    return Episodes(
        trajectories=trajectories,
        finished=Finished(
            samples=ranks.concatenate(policy.decode(samples).cpu()),
            groups=trajectories.groups,
            prompts=None if prompts is None else [texts[prompt] for prompt in prompts.tolist()],
        ),
        sampling=Sampling(
            window=(drawn.window.start, drawn.window.stop) if drawn.window else None,
            mean_start_step=float(trajectories.start_steps.float().mean()),
            num_evaluations=int(ranks.concatenate(torch.tensor([drawn.num_evaluations + tails])).sum()),
            seconds=time.perf_counter() - began,
        ),
    )


def score_episodes(
    finished: Finished,
    reward: Reward,
    *,
    epoch: int,
    shaping: Reward | None = None,
    embed: Embedder | None = None,
    ranks: Ranks = ALONE,
) -> Scores:
    """Reward an epoch's episodes. Ranks share them between them, and all get all rewards.

    Args:
        finished: The episodes of a whole epoch.
        reward: What scores them.
        epoch: From 0.
        shaping: The second reward that training is on; None without one.
        embed: Makes the features by which siblings are compared; None leaves their distances out.
        ranks: The processes that share the work.

    Raises:
        NumericalError: If an image or a reward of it is out of range, where it names the branch, whose seed finds it
            again; or if an image has features without a direction.
    """
    began = time.perf_counter()
    part = ranks.part(len(finished.samples))
    prompts = None if finished.prompts is None else finished.prompts[part]

    def scored(by: Reward, field: str = "") -> NDArray[np.float64]:
        try:
            return ranks.concatenate_array(by.of_samples(finished.samples[part].numpy(), prompts))
        except ImageError as error:
            where = branch_name(finished.groups, part.start + error.image, epoch) + field
            raise NumericalError(error.problem, where=where, fix=error.fix) from error

    rewards = scored(reward)
    shaped = None if shaping is None else scored(shaping, ", shaping.reward")
    distances = None
    if embed is not None:
        features = ranks.concatenate(embed(to_images(finished.samples[part].numpy())))
        try:
            distances = sibling_distances(features, finished.groups).numpy()
        except ValueError as error:
            fix = "measure by other features (evaluation.features), or set update.sibling_distance_weight to 0"
            raise NumericalError(f"distances to siblings: {error}", where=f"epoch={epoch}", fix=fix) from error
    return Scores(rewards=rewards, shaping=shaped, distances=distances, seconds=time.perf_counter() - began)


def branch_name(groups: Tensor, index: int, epoch: int) -> str:
    """The coordinates of a branch's seed: epoch, root, and its number among the root's branches."""
    root = int(groups[index])
    return f"epoch={epoch}, root={root}, branch={int((groups[:index] == root).sum())}"


class Trainer:
    """Trains a policy epoch by epoch: sample -> score -> learn.

    Its state, beside the policy's weights, is the updater's, the statistics' and the count of evaluations; whoever goes
    on from a saved one (`hrf.trainer.state`) makes the same epochs, bit for bit.

    Args:
        policy: Its denoiser's weights change in place.
        config: Of the run.
        run_seed: Seed of all training noise.
        texts: Of all prompts, by index; none for an unconditional model.
        average: Moving average of the weights, by parameter name, on their device; None for none.
        ranks: The processes that share the work.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        config: Config,
        *,
        run_seed: int,
        texts: Sequence[str] = (),
        average: Mapping[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.policy, self.config, self.run_seed, self.texts, self.ranks = policy, config, run_seed, texts, ranks
        self.updater = Updater(policy, config.update, average=average, ranks=ranks)
        self.statistics = build_statistics(config)
        self.num_evaluations = 0
        """Denoiser evaluations that the run has spent so far."""

    def train(
        self,
        epoch: int,
        starts: StartDistribution,
        reward: Reward,
        *,
        shaping: Reward | None = None,
        embed: Embedder | None = None,
    ) -> EpochRecord:
        """One whole epoch; what scores it as for `score_episodes`."""
        with gathered(self.policy.denoiser, self.policy.reference):
            episodes = sample_episodes(
                self.policy,
                starts,
                self.config,
                run_seed=self.run_seed,
                epoch=epoch,
                texts=self.texts,
                ranks=self.ranks,
            )
        scores = score_episodes(episodes.finished, reward, epoch=epoch, shaping=shaping, embed=embed, ranks=self.ranks)
        return self.learn(episodes.trajectories, episodes.sampling, scores, epoch=epoch)

    def learn(self, trajectories: Trajectories, sampling: Sampling, scores: Scores, *, epoch: int) -> EpochRecord:
        """Make an epoch's updates.

        Raises:
            NumericalError: If a loss or gradient is not finite, or the updates did not move the weights.
        """
        began = time.perf_counter()
        config, rewards = self.config, scores.rewards
        num_pairs = num_loss_pairs(trajectories, config.update)
        before = weight_sums(self.policy.denoiser)
        updates, norms = self.updater.run(
            trajectories,
            advantages_of(
                rewards,
                trajectories,
                config,
                shaping=scores.shaping,
                distances=scores.distances,
                statistics=self.statistics,
                texts=self.texts,
            ),
            run_seed=self.run_seed,
            epoch=epoch,
            on_advance=advance_reporter("update", epoch, num_pairs * config.update.inner_epochs),
        )
        self.updater.check_learning(before, updates, epoch)
        seconds = time.perf_counter() - began
        once = pool_evaluations(config) if epoch == 0 else 0
        self.num_evaluations += once + sampling.num_evaluations + update_evaluations(num_pairs, config)
        record = EpochRecord(
            epoch=epoch,
            window=sampling.window,
            mean_start_step=sampling.mean_start_step,
            num_evaluations=self.num_evaluations,
            reward_mean=float(rewards.mean()),
            reward_std=float(rewards.std()),
            shaping_mean=None if scores.shaping is None else float(scores.shaping.mean()),
            seconds={"sample": sampling.seconds, "score": scores.seconds, "update": seconds},
            updates=tuple(updates),
            grad_norm_by_step=norms,
        )
        emit("epoch-trained", epoch=epoch, reward_mean=record.reward_mean, window=record.window)
        return record
