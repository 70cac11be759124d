"""DDPO's advantages of text-to-image models: a reward against the latest rewards of the same prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hrf.core.objective import Spread, standardised


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
        kept: Rewards by prompt, oldest first, as `state` returns them.
    """

    def __init__(
        self,
        *,
        buffer: int,
        min_count: int,
        delta: float,
        spread: Spread = "population",
        kept: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not 1 <= min_count <= buffer or delta <= 0:
            raise ValueError(f"expected 1 <= min_count <= buffer and delta > 0, got {min_count}, {buffer}, {delta}")
        self._min_count, self._delta, self._buffer, self._spread = min_count, delta, buffer, spread
        self._kept = {prompt: deque(rewards, maxlen=buffer) for prompt, rewards in (kept or {}).items()}

    def state(self) -> dict[str, list[float]]:
        """The rewards that are kept, by prompt, in the order of their first appearance."""
        return {prompt: list(rewards) for prompt, rewards in self._kept.items()}

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
            members = torch.tensor([own == prompt for own in prompts])
            kept = self._kept.setdefault(prompt, deque(maxlen=self._buffer))
            kept.extend(rewards[members].tolist())
            known = torch.tensor(list(kept), dtype=rewards.dtype) if len(kept) >= self._min_count else rewards
            advantages[members] = standardised(rewards[members], known, delta=self._delta, spread=self._spread)
        return advantages
