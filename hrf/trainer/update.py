"""The policy update: inner epochs over minibatches of branches, one optimizer step each.

The gradient of a minibatch is the sum over steps of the mean over its branches, gathered in microbatches of
(branch, step) pairs: memory depends on the microbatch, not on the length of the tails. Ranks share the pairs and add up
their gradients, so that each of them makes the same update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hrf.config import Update
from hrf.distributed.ranks import ALONE, Ranks
from hrf.distributed.sharding import is_sharded, whole
from hrf.errors import NumericalError
from hrf.policies.diffusion import DiffusionPolicy
from hrf.seeds import Purpose, stream
from hrf.trainer.objectives import Objective, build_objective
from hrf.trainer.record import UpdateMetrics
from hrf.trainer.rollout import Pairs, Trajectories

STEPS_MEASURED_EVERY = 10
"""Epochs from one whose first update measures the gradient of each step to the next such one, from 0 on."""


def learning_rate(settings: Update, update: int, *, scale: float = 1.0) -> float:
    """The rate of an update: constant, or a linear warm-up followed by a cosine to zero at `total_updates`.

    A warm-up of W updates goes in equal parts: its first update has 1/W of the peak (none is spent on a rate of 0), its
    last one all of it. The peak is the configured rate times `scale`.
    """
    peak = settings.learning_rate * scale
    if settings.rate_schedule == "constant":
        return peak
    if update < settings.warmup_updates:
        return peak * (update + 1) / settings.warmup_updates
    done = (update - settings.warmup_updates) / max(1, settings.total_updates - settings.warmup_updates)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def weight_sums(denoiser: nn.Module) -> Tensor:
    """Sum and sum of sizes of every weight tensor that is tuned, [2 P] float64: equal ones mean that none has moved."""
    tuned = [parameter.detach().double() for parameter in denoiser.parameters() if parameter.requires_grad]
    return torch.stack([whole(total) for values in tuned for total in (values.sum(), values.abs().sum())])


class Updater:
    """Updates a policy from trajectories; its state is the weights', the optimizer's, a counter and a factor.

    Args:
        policy: Its denoiser's weights change in place: those that it samples with, and no others.
        settings: The `update` part of the configuration.
        average: Moving average of the weights, by parameter name, on their device, updated in place; None for none.
        ranks: The processes that make the updates together: each has the same policy, optimizer and trajectories.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        settings: Update,
        *,
        average: Mapping[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if settings.uses_reference and policy.reference is None:
            raise ValueError("a pull to the reference needs its weights")
        self.policy = policy
        # Every update sets its rate (`learning_rate`).
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in policy.denoiser.parameters() if parameter.requires_grad],
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.settings = settings
        self.num_updates = 0
        """Optimizer steps taken so far, in this run."""
        self.rate_scale = 1.0
        """Factor of the configured learning rate, which a diversity floor may lower."""
        self.average = average
        self.ranks = ranks
        self._together = is_sharded(policy.denoiser)
        """Whether a rank's backward pass is one of all ranks."""
        stds = policy.schedule.stds[: policy.schedule.num_trained_steps].float()
        self._step_weights = stds / stds.mean() if settings.step_weighting == "std" else torch.ones_like(stds)

    def run(
        self,
        trajectories: Trajectories,
        advantages: Tensor,
        *,
        run_seed: int,
        epoch: int,
        on_advance: Callable[[int], None] | None = None,
    ) -> tuple[list[UpdateMetrics], dict[int, float]]:
        """Make one epoch's updates.

        Args:
            trajectories: Of the policy as it is now.
            advantages: [B] float32.
            run_seed: Shuffles branches into minibatches across groups, and draws levels.
            epoch: Of the run.
            on_advance: Called with the number of pairs done by each forward and backward pass of this rank.

        Returns:
            (metrics, one entry per update; gradient norm of each trained step, measured in the first update of every
            `STEPS_MEASURED_EVERY`-th epoch and empty in others).

        Raises:
            NumericalError: If a loss or gradient is not finite; the weights are those before that update.
        """
        metrics: list[UpdateMetrics] = []
        norms: dict[int, float] = {}
        objective = build_objective(
            self.policy, self.settings, trajectories, advantages, run_seed=run_seed, epoch=epoch, ranks=self.ranks
        )
        for inner_epoch in range(self.settings.inner_epochs):
            shuffle = stream(run_seed, Purpose.MINIBATCH, epoch, inner_epoch)
            order = torch.randperm(len(advantages), generator=shuffle)
            for branches in order.split(self.settings.minibatch):
                # The first one goes step by step in every epoch: measuring must not move a bit of the weights.
                by_step = not metrics
                measured = norms if by_step and epoch % STEPS_MEASURED_EVERY == 0 else None
                pairs = objective.pairs(branches)
                metrics.append(
                    self._update(objective, pairs, len(branches), epoch, on_advance, by_step=by_step, norms=measured)
                )
        return metrics, norms

    def check_learning(self, before: Tensor, updates: Sequence[UpdateMetrics], epoch: int) -> None:
        """Refuse to go on where gradients leave the weights that sample as they were.

        Args:
            before: `weight_sums` before the updates.
            updates: Their metrics.
            epoch: Of the run.

        Raises:
            NumericalError: If they do, or if the weights of several ranks have parted.
        """
        after = weight_sums(self.policy.denoiser)
        if not self.ranks.all_have(after):
            raise NumericalError(
                "the processes of this step have come to different weights",
                where=f"epoch={epoch}",
                fix="run them on GPUs of one kind, or set model.num_processes to 1",
            )
        largest = max(metrics.grad_norm for metrics in updates)
        if largest > 0 and torch.equal(before, after):
            raise NumericalError(
                f"gradients of norm {largest:g} did not change a single weight",
                where=f"epoch={epoch}",
                fix="raise update.learning_rate: its steps are lost in the weights' own rounding",
            )

    def _update(
        self,
        objective: Objective,
        pairs: Pairs,
        num_branches: int,
        epoch: int,
        on_advance: Callable[[int], None] | None,
        *,
        by_step: bool,
        norms: dict[int, float] | None,
    ) -> UpdateMetrics:
        """One optimizer step on branches' pairs; `norms`, where it goes by step, takes each one's gradient norm."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad(set_to_none=False)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        seen = [torch.empty(0, 1 + objective.num_readings)]
        before = [p.grad.clone() for p in parameters] if norms is not None else []
        for microbatch, ended_step in self._microbatches(pairs, by_step=by_step):
            # A rank has nothing to do at a step that fewer branches are at than there are ranks.
            if len(microbatch):
                seen.append(self._backward(objective, microbatch, num_branches))
            elif self._together:
                self._accompany(objective, pairs)
            if on_advance:
                on_advance(len(microbatch))
            if norms is not None and ended_step is not None:
                norms[ended_step] = self._norm_of_change(before, [p.grad for p in parameters])
        self.ranks.add_up([p.grad for p in parameters])
        return self._apply(parameters, objective, self.ranks.concatenate(torch.cat(seen)), num_branches, epoch)

    def _norm_of_change(self, before: Sequence[Tensor], now: Sequence[Tensor]) -> float:
        """Norm of what all ranks have added to a gradient since `before`, which becomes what the gradient is now."""
        for old, new in zip(before, now, strict=True):
            old.neg_().add_(new)
        self.ranks.add_up(before)
        norm = float(whole(torch.nn.utils.get_total_norm(before)))
        for old, new in zip(before, now, strict=True):
            old.copy_(new)
        return norm

    def _microbatches(self, pairs: Pairs, *, by_step: bool) -> Iterator[tuple[Pairs, int | None]]:
        """This rank's pairs in full microbatches; or step by step, each with the step that it ends, if it ends one.

        There are as many for every rank: the last ones may be empty.
        """
        everywhere = torch.arange(len(pairs))
        steps = pairs.step.unique().tolist() if by_step else [None]
        for step in steps:
            members = everywhere if step is None else everywhere[pairs.step == step]
            chunks = self._chunks(members)
            for position, index in enumerate(chunks):
                yield pairs.select(index), step if position == len(chunks) - 1 else None

    def _chunks(self, members: Tensor) -> list[Tensor]:
        """This rank's part of them in parts of a microbatch: as many as the rank with most of them has."""
        size = self.settings.microbatch
        largest = math.ceil(len(members) / self.ranks.count)
        part = members[self.ranks.part(len(members))]
        return [part[first : first + size] for first in range(0, largest, size)]

    def _backward(self, objective: Objective, pairs: Pairs, num_branches: int) -> Tensor:
        """Add the gradient of a microbatch; returns [P, 1 + R]: its weighted losses and their readings."""
        loss, readings = objective.loss(pairs)
        weighted = self._step_weights[pairs.step].to(loss.device) * loss
        (weighted.sum() / num_branches).backward()
        return torch.cat([weighted.detach()[:, None], readings], dim=1).cpu()

    def _accompany(self, objective: Objective, pairs: Pairs) -> None:
        """Go through a pass that adds nothing, for this rank's part of the weights, which the others' passes need."""
        loss, _ = objective.loss(pairs.select(torch.tensor([0])))
        (0 * loss.sum()).backward()

    def _apply(
        self, parameters: list[nn.Parameter], objective: Objective, seen: Tensor, num_branches: int, epoch: int
    ) -> UpdateMetrics:
        """Clip the gathered gradient, step, and move the average."""
        grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)))
        loss = seen[:, 0]
        if not math.isfinite(grad_norm) or not torch.isfinite(loss).all():
            raise NumericalError(
                f"loss {float(loss.sum()):g} with gradient norm {grad_norm:g} is not finite",
                where=f"epoch={epoch}, update={self.num_updates}",
                fix="lower update.learning_rate, or use model.forward_dtype: float32",
            )
        rate = learning_rate(self.settings, self.num_updates, scale=self.rate_scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self._move_average(self.average)
        metrics = UpdateMetrics(
            update=self.num_updates,
            loss=float(loss.sum()) / num_branches,
            learning_rate=rate,
            grad_norm=grad_norm,
            **objective.metrics(seen[:, 1:]),
        )
        self.num_updates += 1
        return metrics

    @torch.no_grad()
    def _move_average(self, average: Mapping[str, Tensor]) -> None:
        decay = self.settings.ema_decay
        for name, parameter in self.policy.denoiser.named_parameters():
            if not parameter.requires_grad:
                continue
            average[name].lerp_(parameter.detach(), 1 - decay)
