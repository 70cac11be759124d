"""What a run's pipeline consists of, epoch by epoch, before anything is compiled.

Kubeflow has no loop over a run-time number, so epochs are unrolled when a package is compiled. The plan says into what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hrf.config import Config
from hrf.errors import ConfigError
from hrf.steps.sequence import Leg, legs_between, legs_of

#: A cluster keeps the state of all of a run's tasks in one object, which can't hold many more. How large it becomes,
#: and what no longer works long before that, `hrf_pipelines.workflow.size` tells from the compiled package.
MOST_TASKS = 150
#: check, fetch, prepare, baseline, summarize; the group that holds them and its exit task.
TASKS_AROUND_EPOCHS = 7


@dataclass(frozen=True, kw_only=True)
class EpochStep(Leg):
    """One entry of a plan: a leg of the run, and what a pipeline makes of it."""

    label: str
    """What the UI shows."""
    num_shards: int = 1
    """How many tasks share an epoch's sampling."""
    num_replicas: int = 1
    """How many chains of epochs are trained side by side."""

    @property
    def num_tasks(self) -> int:
        """Tasks on a cluster: of each replica the sub-pipeline of an epoch with its tasks, or `train`; what follows."""
        # Sampling in shards is the loop, an iteration with its task for each, and the task that joins them.
        sampling = 1 if self.num_shards == 1 else 2 + 2 * self.num_shards
        training = self.num_replicas * (1 if self.in_one_step else 1 + sampling + 2)
        merged = self.evaluated and self.num_replicas > 1
        return training + merged + self.evaluated + self.steered

    def label_of(self, replica: int) -> str:
        """What the UI shows of a replica's training."""
        return self.label.replace(":", f", replica {replica}:", 1) if self.num_replicas > 1 else self.label


def plan_epochs(config: Config, *, num_shards: int = 1) -> tuple[EpochStep, ...]:
    """The legs of a run as entries of a plan, with so many tasks to share an epoch's sampling."""
    return _planned(config, legs_of(config), num_shards)


def plan_points(config: Config, measured_after: Sequence[int]) -> tuple[EpochStep, ...]:
    """The legs between the points, numbers of trained epochs, at which a study measures a run."""
    return _planned(config, legs_between(measured_after, steered=config.diversity_floor is not None), 1)


def _planned(config: Config, legs: Sequence[Leg], num_shards: int) -> tuple[EpochStep, ...]:
    replicas = config.run.replicas
    return tuple(
        EpochStep(**vars(leg), label=_label(config, leg), num_shards=num_shards, num_replicas=replicas) for leg in legs
    )


def count_tasks(steps: Sequence[EpochStep]) -> int:
    """How many tasks a run of this plan has on a cluster, with those before and after the epochs."""
    return TASKS_AROUND_EPOCHS + sum(step.num_tasks for step in steps)


def check_task_budget(num_tasks: int) -> None:
    """Refuse a run that a cluster could not hold, before it is compiled.

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


def _label(config: Config, leg: Leg) -> str:
    first, last = leg.first_epoch, leg.last_epoch
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
