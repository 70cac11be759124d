"""The step that each root starts at: any of its window (HRF), or the most promising one (HRF-D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hrf.config import Config
from hrf.core.selection import best_pair, coarse_candidates, refined_candidates
from hrf.core.window import Window
from hrf.images import to_images
from hrf.networks.features import pixel_features
from hrf.networks.visits import staying
from hrf.planning.cost import call_size
from hrf.policies.diffusion import DiffusionPolicy
from hrf.rewards import Reward
from hrf.seeds import Purpose, stream
from hrf.trainer.rollout import Batch, OnAdvance, denoise


@dataclass(frozen=True, kw_only=True)
class Roots:
    """N finished samples of the current policy, which wait for a start step."""

    samples: Tensor
    """[N, C, H, W]."""
    numbers: range
    """Their numbers in the epoch."""
    prompts: Tensor | None = None
    """[N] int64; None for an unconditional model."""

    def __len__(self) -> int:
        return len(self.samples)


ChooseSteps = Callable[[DiffusionPolicy, Roots, Window, int, int, OnAdvance], Tensor]
"""(policy, roots, window, run_seed, epoch, counter) -> start steps [N]."""


def uniform_steps(
    policy: DiffusionPolicy, roots: Roots, window: Window, run_seed: int, epoch: int, count: OnAdvance
) -> Tensor:
    """HRF: each root's start step is uniform in the window. [N] int64."""
    del policy, count
    draws = [
        torch.randint(window.start, window.stop, (1,), generator=stream(run_seed, Purpose.START, epoch, root))
        for root in roots.numbers
    ]
    return torch.cat(draws)


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
        prompts = None if roots.prompts is None else roots.prompts[root_index]
        previews = Batch.from_samples(policy, roots.samples[root_index], steps, streams, prompts)
        most = max(map(len, candidates)) if most_candidates is None else most_candidates
        finished = self._finish(
            policy.with_schedule(policy.schedule.with_eta(0.0)),
            previews,
            total=self.num_roots * self.num_branches * most,
            count=count,
        )
        pictures = policy.decode(finished)
        # Root by root: a scorer's rounding may depend on how many images it is given, and not on other roots.
        of_roots = pictures.split([self.num_branches * len(steps) for steps in candidates])
        with staying():
            rewards = torch.cat(
                [
                    self.score(part, self._texts(roots, root, len(part)))
                    for root, part in enumerate(of_roots)
                    if len(part)
                ]
            )
        root_features = self.embed(policy.decode(roots.samples))[root_index]
        similarity = torch.cosine_similarity(self.embed(pictures), root_features, dim=1)
        results: list[dict[int, tuple[float, float]]] = []
        for root, tried in enumerate(candidates):
            means = {}
            for step in tried:
                members = (root_index == root) & (steps == step)
                means[step] = (float(rewards[members].mean()), float(1 - similarity[members].mean()))
            results.append(means)
        return results

    def _texts(self, roots: Roots, root: int, count: int) -> list[str] | None:
        return None if roots.prompts is None else [self.texts[int(roots.prompts[root])]] * count

    @torch.no_grad()
    def _finish(self, policy: DiffusionPolicy, batch: Batch, *, total: int, count: OnAdvance) -> Tensor:
        if not self.preview_steps:
            return denoise(policy, batch, batch_size=self.batch_size, total=total, on_advance=count)
        size = call_size(total, self.batch_size)
        states, steps = batch.states.clone(), batch.steps.clone()
        for calls_left in range(self.preview_steps, 0, -1):
            left = policy.schedule.num_steps - steps
            # A tail of fewer steps than there are calls sits the first ones out, and then goes step by step.
            for index in (left >= calls_left).nonzero().flatten().split(size):
                targets = steps[index] + left[index].add(calls_left - 1).div(calls_left, rounding_mode="floor")
                prompts = None if batch.prompts is None else batch.prompts[index]
                states[index] = policy.skip(states[index], steps[index], targets, prompts=prompts, call_size=size)
                steps[index] = targets
                count(len(index) * policy.forwards)
        return states


def build_selection(config: Config, reward: Reward, texts: Sequence[str] = ()) -> SelectedSteps:
    """HRF-D's choice of start steps, as `starts.selection` describes it."""
    selection = config.starts.selection
    exhaustive = selection.rule == "exhaustive"
    return SelectedSteps(
        score=lambda samples, prompts: torch.as_tensor(reward.of_samples(samples.cpu().numpy(), prompts)),
        embed=lambda samples: pixel_features(to_images(samples.cpu().numpy())),
        num_branches=selection.branches,
        stride=selection.stride,
        beta=selection.beta,
        coarse_stride=1 if exhaustive else selection.coarse_stride // selection.stride,
        preview_steps=selection.preview_steps,
        batch_size=config.model.batch_size,
        num_roots=config.rollout.roots,
        texts=texts,
    )
