"""From rewards to advantages: within each root's branches, or against the latest rewards of the same prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrf.config import Config
from hrf.core.objective import Spread, group_advantages, standardised
from hrf.trainer.rollout import Trajectories
from hrf.trainer.starts import has_roots


def advantages_of(
    rewards: NDArray[np.float64],
    trajectories: Trajectories,
    config: Config,
    *,
    shaping: NDArray[np.float64] | None = None,
    distances: NDArray[np.float64] | None = None,
    statistics: PromptStatistics | None = None,
    texts: Sequence[str] = (),
) -> Tensor:
    """Advantages of the branches, [B] float32: within groups, or by `statistics` of each prompt where there are some.

    Within groups A = s(r) + w s(d), with s for standardised, r for rewards, d for distances to siblings. Where a second
    reward shapes the first, r is their weighted sum, here and in the statistics.

    Args:
        rewards: [B].
        trajectories: Their groups and prompts.
        config: Its `update` part, with the weight w, and `shaping`.
        shaping: [B] of the second reward; needed where `shaping` is configured.
        distances: [B], as of `hrf.core.diversity.sibling_distances`; needed where w is above 0.
        statistics: As `build_statistics` made them; takes the rewards in.
        texts: Of the prompts, by index.
    """
    values = torch.as_tensor(rewards, dtype=torch.float64)
    if config.shaping:
        if shaping is None:
            raise ValueError("advantages of a shaped reward need scores with what shapes it")
        # Not standardised by itself, which would make differences of a millionth as large as any.
        values = values + config.shaping.weight * torch.as_tensor(shaping, dtype=torch.float64)
    if statistics is not None and trajectories.prompts is not None:
        return statistics.advantages(values, [texts[prompt] for prompt in trajectories.prompts.tolist()]).float()
    update = config.update

    def within_groups(numbers: Tensor) -> Tensor:
        return group_advantages(
            numbers, trajectories.groups, delta=update.advantage_delta, spread=update.advantage_spread
        )

    advantages = within_groups(values)
    if update.sibling_distance_weight:
        if distances is None:
            raise ValueError("advantages of distances to siblings need scores with their distances")
        advantages += update.sibling_distance_weight * within_groups(torch.as_tensor(distances, dtype=torch.float64))
    return advantages.float()


def build_statistics(config: Config) -> PromptStatistics | None:
    """Statistics of each prompt, for episodes that are no branches of a root; None for all others."""
    prompts = config.prompts
    if prompts is None or has_roots(config):
        return None
    return PromptStatistics(
        buffer=prompts.statistics_buffer,
        min_count=prompts.statistics_min_count,
        delta=config.update.advantage_delta,
        spread=config.update.advantage_spread,
    )


class PromptStatistics:
    """Running mean and spread of the reward of each prompt.

        A_i = (r_i - m_p) / (s_p + delta),     p the prompt of episode i

    m_p and s_p are those of the last `buffer` rewards of the prompt, this epoch's included; of a prompt with
    fewer than `min_count` of them, those of the whole epoch. Source: DDPO (arXiv 2305.13301, section 4.2), with the
    buffer and the fallback of its public PyTorch code. Among equal rewards the advantage is exactly 0.

    It is part of the training state: a run that goes on from a saved one goes on with the same numbers.

    Args:
        buffer: Rewards kept of each prompt.
        min_count: At least 1 and at most `buffer`.
        delta: > 0, keeps a nearly constant prompt from blowing up.
        spread: Which standard deviation.
    """

    def __init__(
        self,
        *,
        buffer: int,
        min_count: int,
        delta: float,
        spread: Spread = "population",
    ) -> None:
        if not 1 <= min_count <= buffer or delta <= 0:
            raise ValueError(f"expected 1 <= min_count <= buffer and delta > 0, got {min_count}, {buffer}, {delta}")
        self._min_count, self._delta, self._buffer, self._spread = min_count, delta, buffer, spread
        self._latest: dict[str, deque[float]] = {}

    def state(self) -> dict[str, list[float]]:
        """The rewards that are remembered, oldest first, by prompt in the order of their first appearance."""
        return {prompt: list(rewards) for prompt, rewards in self._latest.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with what `state` returned."""
        self._latest = {prompt: deque(rewards, maxlen=self._buffer) for prompt, rewards in state.items()}

    def advantages(self, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Take an epoch's rewards in and standardise them.

        Args:
            rewards: [B] float64, finite.
            prompts: [B], the prompt of each.

        Returns:
            [B] float64.

        Raises:
            ValueError: If the lengths differ, or a reward is not finite.
        """
        if rewards.shape != (len(prompts),) or not torch.isfinite(rewards).all():
            raise ValueError(f"expected a finite reward for each of {len(prompts)} prompts, got {tuple(rewards.shape)}")
        advantages = torch.zeros_like(rewards)
        for prompt in dict.fromkeys(prompts):
            members = torch.tensor([each == prompt for each in prompts])
            latest = self._latest.setdefault(prompt, deque(maxlen=self._buffer))
            latest.extend(rewards[members].tolist())
            known = torch.tensor(list(latest), dtype=rewards.dtype) if len(latest) >= self._min_count else rewards
            advantages[members] = standardised(rewards[members], known, delta=self._delta, spread=self._spread)
        return advantages
