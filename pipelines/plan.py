"""What a run's pipeline consists of, epoch by epoch, before anything is compiled.

Kubeflow has no loop over a run-time number, so epochs are unrolled when a package is compiled. The plan says into what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hrf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hrf.config import Config

#: A cluster keeps the state of all of a run's tasks in one object, which can't hold many more. How large it becomes,
#: and what no longer works long before that, `hrf_pipelines.workflow.size` tells from the compiled package.
MOST_TASKS = 150
#: check, fetch, prepare, baseline, summarize; the group that holds them and its exit task.
TASKS_AROUND_EPOCHS = 7


@dataclass(frozen=True, kw_only=True)
class EpochStep:
    """One entry of a plan: one epoch, or several that are trained in one task; and what follows them."""

    first_epoch: int
    """Its first epoch, counted from 0."""
    num_epochs: int
    """How many epochs it trains."""
    in_one_task: bool
    """Whether one task samples, scores and updates; always so for several epochs."""
    evaluated: bool
    """Whether the policy is evaluated, and offered for promotion, at its end."""
    steered: bool
    """Whether the run is then held above its diversity floor."""
    label: str
    """What the UI shows."""
    num_shards: int = 1
    """How many tasks share an epoch's sampling."""
    num_replicas: int = 1
    """How many chains of epochs are trained side by side."""

    @property
    def last_epoch(self) -> int:
        """The epoch that its evaluation belongs to."""
        return self.first_epoch + self.num_epochs - 1

    @property
    def num_tasks(self) -> int:
        """Tasks on a cluster: of each replica the sub-pipeline of an epoch with its tasks, or `train`; what follows."""
        # Sampling in shards is the loop, an iteration with its task for each, and the task that joins them.
        sampling = 1 if self.num_shards == 1 else 2 + 2 * self.num_shards
        training = self.num_replicas * (1 if self.in_one_task else 1 + sampling + 2)
        merged = self.evaluated and self.num_replicas > 1
        return training + merged + self.evaluated + self.steered

    def label_of(self, replica: int) -> str:
        """What the UI shows of a replica's training."""
        return self.label.replace(":", f", replica {replica}:", 1) if self.num_replicas > 1 else self.label


def plan_epochs(config: Config, *, num_shards: int = 1) -> tuple[EpochStep, ...]:
    """Split a run's epochs into the entries of a plan.

    Args:
        config: A configuration; `run.epochs_per_step: auto` counts as 1 until `settle_epochs_per_step`.
        num_shards: How many tasks share an epoch's sampling.

    Returns:
        The entries, evaluated after every `evaluation.every` epochs and at the end.
    """
    num_epochs, every = config.run.epochs, config.evaluation.every
    per_step = 1 if config.run.epochs_per_step == "auto" else config.run.epochs_per_step
    steps = []
    for first in range(0, num_epochs, per_step):
        last = first + per_step - 1
        due = (last + 1) % every == 0 or last == num_epochs - 1
        steps.append(
            EpochStep(
                first_epoch=first,
                num_epochs=per_step,
                in_one_task=per_step > 1,
                evaluated=due,
                steered=due and config.diversity_floor is not None,
                label=_label(config, first, last),
                num_shards=num_shards,
                num_replicas=config.run.replicas,
            )
        )
    return tuple(steps)


def plan_points(config: Config, measured_after: Sequence[int]) -> tuple[EpochStep, ...]:
    """Split a run's epochs at the points at which a study measures it: one task trains from each to the next.

    Args:
        config: A configuration.
        measured_after: Numbers of trained epochs, rising; the last one is the run's length.
    """
    parts = zip((0, *measured_after), measured_after, strict=False)
    return tuple(
        EpochStep(
            first_epoch=first,
            num_epochs=stop - first,
            in_one_task=True,
            evaluated=True,
            steered=config.diversity_floor is not None,
            label=_label(config, first, stop - 1),
            num_replicas=config.run.replicas,
        )
        for first, stop in parts
    )


def count_tasks(steps: Sequence[EpochStep]) -> int:
    """How many tasks a run of this plan has on a cluster, with those before and after the epochs."""
    return TASKS_AROUND_EPOCHS + sum(step.num_tasks for step in steps)


def check_task_budget(num_tasks: int) -> None:
    """Refuse a run that a cluster could not hold, before it is compiled.

    Args:
        num_tasks: As counted by `count_tasks`.

    Raises:
        ConfigError: More than 150 tasks.
    """
    if num_tasks > MOST_TASKS:
        raise ConfigError(
            "run.epochs",
            expected=f"a pipeline of at most {MOST_TASKS} tasks",
            got=f"{num_tasks} tasks",
            fix="train several epochs per step (run.epochs_per_step) or fewer replicas (run.replicas), evaluate less "
            "often, or chain shorter runs",
        )


def _label(config: Config, first: int, last: int) -> str:
    epochs = f"epoch {first}" if first == last else f"epochs {first}-{last}"
    windows = dict.fromkeys((_window(config, first), _window(config, last)))
    return f"{epochs}: {' to '.join(windows)}"


def _window(config: Config, epoch: int) -> str:
    """The start steps of an epoch, in words.

    Which of the last steps are trained depends on the model, which isn't loaded here; such a window ends in "last".
    """
    # The very last step is deterministic, and never trained, with any model.
    num_trained_steps = config.sampler.steps - 1
    if config.starts.kind == "noise":
        return "starts from noise"
    if not config.is_in_steps:
        # Which steps have such noise depends on the model, too.
        return "window by sigma"
    schedule = config.window_schedule(num_trained_steps)
    assert schedule is not None
    window = schedule.window(epoch)
    return f"window {window.start}-{'last' if window.stop == num_trained_steps else window.stop - 1}"
