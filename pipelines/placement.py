"""Where a task runs: which image it takes, and that Kubeflow never answers it from its cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

Role = Literal["control", "worker", "reward"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Image references of a package, one per role."""

    control: str = "hrf-control:latest"
    """For steps that move records and need no torch."""
    worker: str = "hrf-worker:latest"
    """For steps that run the model."""
    reward: str = "hrf-reward:latest"
    """For the step that runs the reward, and the scorer libraries that it needs."""

    @classmethod
    def from_environment(cls) -> Images:
        """The references in HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD, where they are set."""
        named = {role: os.environ.get(f"HRF_IMAGE_{role.upper()}", "") for role in ("control", "worker", "reward")}
        return cls(**{role: image for role, image in named.items() if image})


def place(task: PipelineTask, role: Role, images: Images) -> PipelineTask:
    """Give a task its image and switch Kubeflow's cache off for it.

    Everything descends from `prepare`, which reads the promoted pointer: a cached answer would be about another moment.
    On this machine a cache of one run's own is what resumes it: `pipelines.package` switches it on for that.

    Args:
        task: A task, while its pipeline is being built.
        role: What the task needs.
        images: The image of each role.

    Returns:
        The same task.
    """
    return task.set_container_image(getattr(images, role)).set_caching_options(enable_caching=False)
