"""HRF-D: the start step of each root is the candidate whose branches gain most and stay near the root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hrf.core.schedule import renoise
from hrf.core.selection import best_pair, coarse_candidates, refined_candidates
from hrf.core.window import Window
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import OnAdvance, call_size, denoise, draw_noise
from hrf.trainer.starts import Roots


@dataclass(frozen=True, kw_only=True)
class SelectedSteps:
    """HRF-D: each root's start step is the best-scoring candidate of the window (hrf.core.selection).

    Every candidate is tried with a few branches, denoised deterministically (eta 0) on noise that no episode uses:
    training on the noise that won the selection would overestimate its reward. All candidates of all roots run
    together.
    """

    score: Callable[[Tensor, Sequence[str] | None], Tensor]
    """Pictures [M, 3, H, W] in [-1, 1] and their prompts, None for an unconditional model -> rewards [M]."""
    embed: Callable[[Tensor], Tensor]
    """Pictures [M, 3, H, W] in [-1, 1] -> features [M, D], whose cosine distance to the root's is the distance."""
    num_branches: int
    stride: int
    """Candidates are every stride-th step of the window."""
    beta: float
    coarse_stride: int = 1
    """Look at every coarse_stride-th candidate first, then refine around the winner; 1 tries all (published)."""
    preview_steps: int = 0
    """Judge a candidate by as many long steps, evenly over its tail; 0 denoises it step by step (published)."""
    batch_size: int
    """The most previews in a denoiser call."""
    num_roots: int
    """Of the epoch, in all its shards: the size of the calls must not depend on the shard."""
    texts: Sequence[str] = ()
    """The prompts' texts; none for an unconditional model."""

    def __call__(
        self,
        policy: DiffusionPolicy,
        roots: Roots,
        window: Window,
        run_seed: int,
        epoch: int,
        count: OnAdvance,
    ) -> Tensor:
        """Choose a start step per root: [N] int64."""
        candidates = list(range(window.start, window.stop, self.stride))
        if len(candidates) < 2:
            raise ValueError(f"window {window} with stride {self.stride} leaves fewer than two candidates")
        coarse = coarse_candidates(candidates, self.coarse_stride)
        tried = self.measure(policy, roots, [coarse] * len(roots), run_seed, epoch, count)
        winners = [self._winner(coarse, measured) for measured in tried]
        if self.coarse_stride == 1:
            return torch.tensor([coarse[winner] for winner in winners])
        refinements = [refined_candidates(candidates, coarse, winner) for winner in range(len(coarse) - 1)]
        fine = [refinements[winner] for winner in winners]
        unseen = [[step for step in steps if step not in coarse] for steps in fine]
        # Of any root of the epoch: which refinement a shard's own roots have must not show.
        most = max(len({*steps} - {*coarse}) for steps in refinements)
        refined = self.measure(policy, roots, unseen, run_seed, epoch, count, most_candidates=most)
        for measured, more in zip(tried, refined, strict=True):
            measured.update(more)
        return torch.tensor([steps[self._winner(steps, measured)] for steps, measured in zip(fine, tried, strict=True)])

    def _winner(self, steps: Sequence[int], measured: dict[int, tuple[float, float]]) -> int:
        rewards = [measured[step][0] for step in steps]
        distances = [measured[step][1] for step in steps]
        return best_pair(rewards, distances, self.beta)

    def measure(
        self,
        policy: DiffusionPolicy,
        roots: Roots,
        candidates: Sequence[Sequence[int]],
        run_seed: int,
        epoch: int,
        count: OnAdvance,
        *,
        most_candidates: int | None = None,
    ) -> list[dict[int, tuple[float, float]]]:
        """Mean reward and mean distance of each root's candidate steps: one {step: (reward, distance)} per root.

        Where roots have different numbers of candidates, `most_candidates` is the most that any root can have.
        """
        trials = [
            (root, step, branch)
            for root, steps in enumerate(candidates)
            for step in steps
            for branch in range(self.num_branches)
        ]
        if not trials:
            return [{} for _ in roots.numbers]
        root_index = torch.tensor([root for root, _, _ in trials])
        steps = torch.tensor([step for _, step, _ in trials])
        streams = [
            stream(run_seed, Purpose.SELECTION, epoch, roots.numbers[root], step, branch)
            for root, step, branch in trials
        ]
        noise = draw_noise(streams, policy.sample_shape, policy.device)
        deterministic = policy.with_schedule(policy.schedule.with_eta(0.0))
        states = renoise(policy.schedule, roots.samples[root_index], steps, noise)
        prompts = None if roots.prompts is None else roots.prompts[root_index]
        most = max(map(len, candidates)) if most_candidates is None else most_candidates
        total = self.num_roots * self.num_branches * most
        pictures = policy.decode(self._finish(deterministic, states, steps, streams, prompts, count, total))
        # Root by root: a scorer's rounding may depend on how many images it is given, and not on other roots.
        previews = pictures.split([self.num_branches * len(steps) for steps in candidates])
        rewards = torch.cat(
            [self.score(own, self._texts(roots, root, len(own))) for root, own in enumerate(previews) if len(own)]
        )
        root_features = self.embed(policy.decode(roots.samples))[root_index]
        similarity = torch.cosine_similarity(self.embed(pictures), root_features, dim=1)
        results: list[dict[int, tuple[float, float]]] = []
        for root, own in enumerate(candidates):
            means = {}
            for step in own:
                members = (root_index == root) & (steps == step)
                means[step] = (float(rewards[members].mean()), float(1 - similarity[members].mean()))
            results.append(means)
        return results

    def _texts(self, roots: Roots, root: int, count: int) -> list[str] | None:
        return None if roots.prompts is None else [self.texts[int(roots.prompts[root])]] * count

    @torch.no_grad()
    def _finish(
        self,
        policy: DiffusionPolicy,
        states: Tensor,
        steps: Tensor,
        streams: list[Generator],
        prompts: Tensor | None,
        count: OnAdvance,
        total: int,
    ) -> Tensor:
        if not self.preview_steps:
            return denoise(
                policy,
                states,
                steps,
                streams,
                batch_size=self.batch_size,
                total=total,
                prompts=prompts,
                on_advance=count,
            )
        size = call_size(total, self.batch_size)
        states, steps = states.clone(), steps.clone()
        for calls_left in range(self.preview_steps, 0, -1):
            left = policy.schedule.num_steps - steps
            # A tail of fewer steps than there are calls sits the first ones out, and then goes step by step.
            for index in (left >= calls_left).nonzero().flatten().split(size):
                targets = steps[index] + left[index].add(calls_left - 1).div(calls_left, rounding_mode="floor")
                asked = None if prompts is None else prompts[index]
                states[index] = policy.skip(states[index], steps[index], targets, prompts=asked, call_size=size)
                steps[index] = targets
                count(len(index) * policy.forwards)
        return states
