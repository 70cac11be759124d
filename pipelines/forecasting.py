"""What a configuration's run will take, before anything of its model but configuration files is here."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from hrf.errors import HrfError
from hrf_pipelines.plan import count_tasks, plan_epochs

if TYPE_CHECKING:
    from hrf.config import Config
    from hrf.planning.forecast import Forecast
    from hrf_pipelines.placement import Placement

#: How long a task that trains should last at most: long beside what a pod costs, short enough to lose at a failure.
STEP_SECONDS = 600.0
#: What training the shipped model reaches on two cores (ours: its epoch of 520 GFLOPs takes some 15 seconds).
CPU_FLOPS = 35e9
#: What a task costs a cluster beside its work: the pods of Kubeflow's driver and of the step (seen: 35 tasks with three
#: minutes of work took 17:43).
TASK_SECONDS = 25.0


@dataclass(frozen=True, kw_only=True)
class ClusterShare:
    """What a run on a cluster takes beside its work."""

    epochs_per_step: int
    tasks: int
    overhead_seconds: float
    """At most: some of its tasks run beside others."""


def compute(config: Config, gpu: str, utilisation: float) -> Forecast:
    """Forecast a configuration's run; of its base model only the configuration files are read.

    Raises:
        HrfError: If they can't be had, or there is no such GPU.
    """
    from hrf.planning.architectures import fetch_architecture
    from hrf.planning.footprint import decoder_footprint, denoiser_footprint
    from hrf.planning.forecast import forecast
    from hrf.policies.folders import evaluated_from, schedule_of
    from hrf.policies.kinds import kind_of_denoiser

    with tempfile.TemporaryDirectory() as scratch:
        model = fetch_architecture(config.model, Path(scratch))
    shape = kind_of_denoiser(model.denoiser).sample_shape(model, config.model.picture_size)
    denoiser = denoiser_footprint(model.denoiser, config.policy.lora, shape)
    decoder = decoder_footprint(model.decoder, shape) if model.decoder else None
    schedule = schedule_of(model, config)
    config = config.in_steps(schedule.sigmas, schedule.num_trained_steps)
    return forecast(
        config,
        schedule,
        denoiser,
        decoder,
        evaluated_from=evaluated_from(model, config),
        gpu=gpu,
        utilisation=utilisation,
    )


def evaluations_by_epoch(config: Config, model_folder: Path) -> list[float]:
    """Expected denoiser evaluations of a run after each of its epochs, its prefix pool included.

    The noise schedule of its base model says which steps are trained.
    """
    from hrf.planning.cost import expected_epoch_evaluations, pool_evaluations
    from hrf.policies.architecture import Architecture
    from hrf.policies.folders import schedule_of

    schedule = schedule_of(Architecture.of(model_folder), config)
    config = config.in_steps(schedule.sigmas, schedule.num_trained_steps)
    replicas, epochs = config.run.replicas, range(config.run.epochs)
    spent = (replicas * expected_epoch_evaluations(config, schedule, epoch) for epoch in epochs)
    return list(accumulate(spent, initial=pool_evaluations(config)))[1:]


def cluster_share(config: Config, placement: Placement) -> ClusterShare:
    """How many tasks a configuration's run has on a cluster, and what these cost beside its work."""
    settled = settle_epochs_per_step(config, placement)
    tasks = count_tasks(plan_epochs(settled, num_shards=placement.shards))
    number = settled.run.epochs_per_step
    assert isinstance(number, int)
    return ClusterShare(epochs_per_step=number, tasks=tasks, overhead_seconds=tasks * TASK_SECONDS)


def epoch_seconds(config: Config) -> float:
    """How long the longest of a run's epochs will train, in one replica: on one A100 or, without a GPU, on two cores.

    Raises:
        HrfError: If the model's configuration files can't be had.
    """
    from hrf.planning.forecast import DEFAULT_UTILISATION

    epochs = [epoch.sample + epoch.update for epoch in compute(config, "a100", DEFAULT_UTILISATION).epochs]
    if config.model.device == "cuda":
        return max(epoch.seconds for epoch in epochs)
    return max(epoch.flops for epoch in epochs) / config.run.replicas / CPU_FLOPS


def settle_epochs_per_step(config: Config, placement: Placement | None) -> Config:
    """Put a number in the place of `run.epochs_per_step: auto`.

    On a cluster a task costs half a minute whatever it does, so that short epochs share one: as many as lie between two
    evaluations and last no more than ten minutes. On this machine, without a GPU, a task costs nothing, and each epoch
    has its own.

    A placement is of a package for a cluster; None is this machine.

    Returns:
        The same configuration with a number, which divides `run.epochs` and `evaluation.every`.
    """
    if config.run.epochs_per_step != "auto":
        return config
    number = 1
    # With a GPU, loading the model is worth saving here, too.
    if (placement is not None or config.model.device == "cuda") and not (placement and placement.shards > 1):
        try:
            most = STEP_SECONDS / epoch_seconds(config)
        except HrfError:
            # Of a model that is not within reach from here, every epoch may be long.
            most = 1.0
        common = math.gcd(config.run.epochs, config.evaluation.every)
        number = max(count for count in range(1, common + 1) if common % count == 0 and (count == 1 or count <= most))
    return config.model_copy(update={"run": config.run.model_copy(update={"epochs_per_step": number})})
