"""What an epoch's updates minimise: the surrogate (DDPO, HRF), or the difference objective (after FDFO)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor

from hrf.config import Update
from hrf.core.objective import (
    approximate_kl,
    clipped_surrogate,
    difference_loss,
    divergence_surrogate,
    outside_trust_region,
    probability_ratio,
    sibling_directions,
    tail_fraction,
)
from hrf.core.schedule import gaussian_kl, gaussian_log_prob
from hrf.distributed.ranks import Ranks
from hrf.distributed.sharding import gathered
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Pairs, Trajectories


class Objective(Protocol):
    """A loss on (branch, step) pairs of an epoch's trajectories."""

    num_readings: int
    """R, how many numbers `loss` gives of a pair besides its loss."""

    def pairs(self, branches: Tensor) -> Pairs:
        """The pairs of the given branches [b] that have a loss."""
        ...

    def loss(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """([P] loss with its graph, [P, R] readings)."""
        ...

    def metrics(self, readings: Tensor) -> dict[str, float]:
        """Fields of an update's metrics, from the readings [P, R] of all of its pairs."""
        ...


def build_objective(
    policy: DiffusionPolicy,
    settings: Update,
    trajectories: Trajectories,
    advantages: Tensor,
    *,
    run_seed: int,
    epoch: int,
    ranks: Ranks,
) -> Objective:
    """The objective of an epoch that a configuration names, before the epoch's first update.

    Args:
        policy: As it sampled.
        settings: The `update` part of the configuration.
        trajectories: Of the epoch.
        advantages: [B] float32.
        run_seed: Draws levels.
        epoch: Of the run.
        ranks: The processes that make the updates together.
    """
    # Sampling and training must ask the denoiser the same question.
    acting = policy if settings.guidance else policy.unguided()
    if settings.objective == "surrogate":
        return Surrogate(acting, settings, trajectories, advantages)
    levels = draw_levels(trajectories, settings.levels_per_branch, stream(run_seed, Purpose.LEVELS, epoch))
    return Difference(acting, settings, trajectories, advantages, levels, ranks)


def num_loss_pairs(trajectories: Trajectories, settings: Update) -> int:
    """How many of an epoch's (branch, step) pairs have a loss."""
    lengths = trajectories.tail_lengths
    return int((lengths if settings.objective == "surrogate" else lengths.clamp(max=settings.levels_per_branch)).sum())


class Surrogate:
    """The surrogate in its trust region on every trained step, with an optional KL penalty to the reference.

    Args:
        policy: The one that is trained.
        settings: The `update` part of the configuration.
        trajectories: With their steps' means, where the trust region is one of divergence.
        advantages: [B] float32.
    """

    num_readings = 5

    def __init__(
        self, policy: DiffusionPolicy, settings: Update, trajectories: Trajectories, advantages: Tensor
    ) -> None:
        self._policy, self._settings = policy, settings
        self._trajectories, self._advantages = trajectories, advantages
        self._by_divergence = settings.trust_region == "divergence"
        if self._by_divergence and trajectories.means is None:
            raise ValueError("a trust region of divergence needs trajectories with their steps' means")

    def pairs(self, branches: Tensor) -> Pairs:
        """All pairs of the branches."""
        return self._trajectories.pairs(branches)

    def loss(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Readings: KL to the reference, log-ratio, whether the trust region holds it, k3 estimate, and divergence."""
        settings, policy, device = self._settings, self._policy, self._policy.device
        trajectories = self._trajectories
        states = trajectories.states[pairs.state_index].to(device)
        next_states = trajectories.states[pairs.state_index + 1].to(device)
        prompts = None if trajectories.prompts is None else trajectories.prompts[pairs.branch]
        mean, std = policy.transition(states, pairs.step, prompts=prompts)
        log_prob = gaussian_log_prob(next_states, mean, std, settings.log_prob_reduction)
        old_log_prob = trajectories.log_probs[pairs.pair_index].to(device)
        rho = torch.ones(len(pairs))
        if settings.scale_trust_region:
            rho = tail_fraction(trajectories.start_steps[pairs.branch], policy.schedule.num_steps)
        rho = rho.to(device)
        advantage, advantage_clip = self._advantages[pairs.branch].to(device), rho * settings.advantage_clip
        divergence = torch.zeros_like(rho)
        if trajectories.means is not None and self._by_divergence:
            old_mean = trajectories.means[pairs.pair_index].to(device)
            divergence = gaussian_kl(mean.detach(), old_mean, std, "mean")
            loss, held = divergence_surrogate(
                log_prob,
                old_log_prob,
                advantage,
                divergence,
                limit=rho * settings.divergence_limit,
                advantage_clip=advantage_clip,
            )
        else:
            clip_range = rho * settings.clip_range
            loss = clipped_surrogate(
                log_prob, old_log_prob, advantage, clip_range=clip_range, advantage_clip=advantage_clip
            )
            held = outside_trust_region(log_prob.detach(), old_log_prob, clip_range)
        kl_to_reference = torch.zeros_like(loss)
        if settings.kl_weight > 0:
            with torch.no_grad():
                reference_mean, _ = policy.as_reference().transition(states, pairs.step, prompts=prompts)
            kl_to_reference = gaussian_kl(mean, reference_mean, std, settings.log_prob_reduction)
        with torch.no_grad():
            kl = approximate_kl(log_prob, old_log_prob)
            readings = torch.stack((kl_to_reference, log_prob - old_log_prob, held.float(), kl, divergence), dim=1)
        return loss + settings.kl_weight * kl_to_reference, readings

    def metrics(self, readings: Tensor) -> dict[str, float]:
        """Means over the pairs, and the largest ratio."""
        kl_to_reference, log_ratio, held, kl, divergence = readings.unbind(1)
        ratio, held_fraction = probability_ratio(log_ratio), float(held.mean())
        of_region = {"clip_fraction": held_fraction}
        if self._by_divergence:
            of_region = {"dropped_fraction": held_fraction, "divergence": float(divergence.mean())}
        return {
            **of_region,
            "approx_kl": float(kl.mean()),
            "ratio_mean": float(ratio.mean()),
            "ratio_max": float(ratio.max()),
            "kl_to_reference": float(kl_to_reference.mean()),
        }


def draw_levels(trajectories: Trajectories, count: int, generator: Generator) -> Tensor:
    """Which of all (branch, trained step) pairs have a loss: `count` of each branch, or all of a shorter tail.

    They are drawn without replacement from the branch's start, which is never before the switch step, to the last
    trained step.

    Returns:
        [sum S_b] bool, by `Pairs.pair_index`.
    """
    drawn = [torch.randperm(length, generator=generator) < count for length in trajectories.tail_lengths.tolist()]
    return torch.cat(drawn)


class Difference:
    """The difference objective on some of the visited states, with optional pulls to other policies' estimates there.

    Args:
        policy: As it sampled: what it estimates now is what the proximal term pulls to. The other pull is to its
            reference.
        settings: The `update` part of the configuration.
        trajectories: With their finished samples.
        advantages: [B] float32.
        levels: As `draw_levels` gives them.
        ranks: They share the estimates between them.
    """

    num_readings = 0

    def __init__(
        self,
        policy: DiffusionPolicy,
        settings: Update,
        trajectories: Trajectories,
        advantages: Tensor,
        levels: Tensor,
        ranks: Ranks,
    ) -> None:
        if trajectories.finished is None:
            raise ValueError("the difference objective needs trajectories with their finished samples")
        self._policy, self._settings = policy, settings
        self._trajectories, self._advantages = trajectories, advantages
        self._directions = sibling_directions(trajectories.finished, trajectories.groups)
        self._levels = levels
        self._anchors: list[tuple[Tensor, float]] = []
        """Estimates [sum of levels, C, H, W], in the order of the pairs, and their weight."""
        if settings.proximal_weight > 0:
            self._anchors.append((self._estimate_all(policy, ranks), settings.proximal_weight))
        if settings.reference_weight > 0:
            self._anchors.append((self._estimate_all(policy.as_reference(), ranks), settings.reference_weight))
        self._place = levels.cumsum(0) - 1

    def pairs(self, branches: Tensor) -> Pairs:
        """Those at the levels that were drawn for the epoch: the same in every pass over it."""
        pairs = self._trajectories.pairs(branches)
        return pairs.select(self._levels[pairs.pair_index])

    def loss(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """No readings."""
        device, place = self._policy.device, self._place[pairs.pair_index]
        loss = difference_loss(
            self._estimate(self._policy, pairs),
            self._directions[pairs.branch].to(device),
            self._advantages[pairs.branch].to(device),
            advantage_clip=self._settings.advantage_clip,
            anchors=[(estimates[place].to(device), weight) for estimates, weight in self._anchors],
        )
        return loss, loss.new_empty(len(pairs), self.num_readings)

    def metrics(self, readings: Tensor) -> dict[str, float]:
        """None: there are no ratios."""
        del readings
        return {}

    def _estimate(self, policy: DiffusionPolicy, pairs: Pairs) -> Tensor:
        prompts = self._trajectories.prompts
        return policy.estimate(
            self._trajectories.states[pairs.state_index].to(policy.device),
            pairs.step,
            prompts=None if prompts is None else prompts[pairs.branch],
        )

    @torch.no_grad()
    def _estimate_all(self, policy: DiffusionPolicy, ranks: Ranks) -> Tensor:
        """A policy's estimates of all pairs that have a loss, shared out between the ranks."""
        pairs = self.pairs(torch.arange(len(self._advantages)))
        part = torch.arange(len(pairs))[ranks.part(len(pairs))]
        chunks = part.split(self._settings.microbatch)
        # Ranks have unequal parts.
        with gathered(policy.denoiser, policy.reference):
            estimates = [self._estimate(policy, pairs.select(index)).cpu() for index in chunks]
        return ranks.concatenate(torch.cat(estimates))
