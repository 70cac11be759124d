"""Where a package's tasks run on a cluster: image, resources, nodes, secrets, time-outs and retries, step by step.

A placement changes where and how fast a run is, and nothing that it computes. The local runner takes no notice of it,
but for the shards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from hrf import __version__
from hrf.config.overrides import deep_merge
from hrf.errors import ConfigError
from hrf.storage.schema import Count, Section
from hrf.storage.secrets import HUB_TOKEN, REWARD_TOKEN
from hrf.storage.validation import from_validation_error, suggest
from hrf.storage.yaml_text import parse_yaml
from hrf_pipelines.forecasting import settle_epochs_per_step
from hrf_pipelines.scorers import hub_steps, scorers_of

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

    from hrf.config import Config

Role = Literal["control", "worker", "reward"]
#: Which image a step needs: without torch, with the model, or with scorer libraries too.
ROLES: Mapping[str, Role] = {
    "check": "control",
    "fetch": "worker",
    "prepare": "reward",
    "baseline": "reward",
    "sample": "worker",
    "gather": "worker",
    "score": "reward",
    "update": "worker",
    "train": "reward",
    "merge": "worker",
    "evaluate": "reward",
    "steer": "worker",
    "summarize": "control",
    "report_status": "control",
}
#: Steps that run the model, and so need the accelerator if there is one.
_MODEL_STEPS = ("baseline", "sample", "update", "train", "evaluate")
#: Steps that Kubeflow's cache never answers.
_COMPUTED_BY_EACH_ATTEMPT = ("check", "report_status")
#: Steps that run in `model.num_processes` processes, each with a GPU of its own.
_SHARED_STEPS = ("sample", "score", "update", "train")
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
S3_ADDRESS = ("AWS_ENDPOINT_URL_S3", "AWS_REGION")
HUB_CACHE_PATH = "/cache/huggingface"
#: Of the images, as user and as group.
USER = 10001
#: Argo counts it from the start of the first attempt, and makes its end the deadline of all later ones. Kubeflow takes
#: a missing one for 0, which allows no second attempt at all, and its SDK writes an hour. So: what no step reaches.
_NO_END_OF_RETRIES = "52w"

Quantity = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(m|[KMGTPE]i?)?)?$")]
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]


class Toleration(Section):
    """A taint that a step's pod puts up with, as Kubernetes has it."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str = ""
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] = "NoSchedule"


class Resources(Section):
    """What a step's pod asks for. An empty value asks for nothing."""

    cpu: Quantity = ""
    """Cores, such as `2` or `500m`: request and limit."""
    memory: Quantity = ""
    """Such as `8Gi`: request and limit."""
    accelerator: str = ""
    """Resource name of the accelerator, such as `nvidia.com/gpu`."""
    accelerators: Annotated[int, Field(ge=0)] = 0
    """How many of them; of a step that `model.num_processes` processes share, for each of those."""
    shared_memory: Quantity = ""
    """Size of /dev/shm, where processes of one step exchange tensors; a container has 64 MiB otherwise."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that keep others off the node."""
    timeout_seconds: Annotated[int, Field(ge=0)] = 0
    """After which the pod is ended; 0 = never."""
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    """How often a failed step is tried again; its outputs are the same bytes whichever attempt succeeds."""


class Steps(Section):
    """What single steps ask for, over what their role does; only the fields that are given."""

    check: Resources = Resources()
    fetch: Resources = Resources()
    prepare: Resources = Resources()
    baseline: Resources = Resources()
    sample: Resources = Resources()
    gather: Resources = Resources()
    score: Resources = Resources()
    update: Resources = Resources()
    train: Resources = Resources()
    merge: Resources = Resources()
    evaluate: Resources = Resources()
    steer: Resources = Resources()
    summarize: Resources = Resources()
    report_status: Resources = Resources()


class Placement(Section):
    """Everything about a package that belongs to the cluster."""

    description: str = ""
    """What the placement is for, in one sentence."""
    shards: Count = 1
    """How many pods share an epoch's sampling; the result is the same bits."""
    control: Resources = Resources()
    """Steps that move records."""
    worker: Resources = Resources()
    """Steps that run the model."""
    reward: Resources = Resources()
    """Steps that run rewards, and those that run both."""
    steps: Steps = Steps()
    storage_secret: Name = "hrf-s3"
    """Secret with the S3 keys; a pod without it takes what else it finds, such as a role of its service account."""
    storage_config: Name = "hrf-storage"
    """ConfigMap with the address of the S3 server; AWS itself needs none."""
    hub_secret: Name = ""
    """Secret with a Hugging Face token, for gated models."""
    reward_secret: Name = ""
    """Secret with the token of a remote reward's server."""
    hub_cache: Name = ""
    """PersistentVolumeClaim that keeps what is downloaded from the Hugging Face hub: by `fetch`, and by the steps that
    score with networks from there. Steps at the same time on different nodes need a claim that several can mount."""
    service_account: Name = "hrf-runner"
    """Whose rights the pods have; it is named when a run is submitted."""
    image_pull_secret: Name = ""
    """Secret for a private registry."""

    def resources(self, step: str, role: Role) -> Resources:
        """What a step asks for: its role's, with its own fields on top."""
        own: Resources = getattr(self.steps, step)
        shared: Resources = getattr(self, role)
        return shared.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def list_placements() -> list[str]:
    """Names of the placements that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_placement(name: str, config: Config) -> Placement:
    """Read a placement and check that it fits a configuration.

    Args:
        name: One that comes with the package, a YAML file (which may `extends:` one), or "" for the one that fits the
            configuration's device.
        config: What is to be run.

    Raises:
        ConfigError: There is no such placement, it is not valid, or it does not fit.
    """
    placement = read_placement(name or default_placement(config))
    config = settle_epochs_per_step(config, placement)
    check_accelerators(placement, config)
    check_shards(placement, config)
    return placement


def read_placement(name: str) -> Placement:
    """Read a placement, whatever is to be run; arguments and errors as of `load_placement`."""
    try:
        return Placement.model_validate(_read(name), strict=False)
    except ValidationError as error:
        raise from_validation_error(error, Placement) from error


def default_placement(config: Config) -> str:
    """Name of the placement that fits a configuration's device."""
    return "gpu" if config.model.device == "cuda" else "cpu-small"


def check_accelerators(placement: Placement, config: Config) -> None:
    """Refuse a model or a scorer on a GPU that no pod has, and a GPU that none is on.

    Raises:
        ConfigError: The placement's accelerators contradict `model.device` or a scorer's device.
    """
    roles = roles_of(config)
    on_gpu = [scorer for scorer in scorers_of(config) if scorer.device == "cuda"]
    for scorer in on_gpu:
        for step in scorer.steps:
            given = placement.resources(step, roles[step])
            if not (given.accelerator and given.accelerators):
                raise ConfigError(
                    f"placement.steps.{step}.accelerators",
                    expected=f"an accelerator, as {scorer.path}.device is cuda",
                    got=given.accelerators,
                    fix=f"give {step} one in a placement of yours, or set {scorer.path}.device=cpu",
                )
    for_scorers = {step for scorer in on_gpu for step in scorer.steps}
    for step in _MODEL_STEPS:
        given = placement.resources(step, roles[step])
        if config.model.device == "cuda" and not (given.accelerator and given.accelerators):
            raise ConfigError(
                f"placement.steps.{step}.accelerators",
                expected="an accelerator, as model.device is cuda",
                got=given.accelerators,
                fix="use the placement gpu, set accelerator and accelerators, or set model.device=cpu",
            )
        if config.model.device == "cpu" and given.accelerators and step not in for_scorers:
            raise ConfigError(
                "model.device",
                expected=f"cuda, as the placement gives {step} {given.accelerators} {given.accelerator}",
                got="cpu",
                fix="--set model.device=cuda, or use the placement cpu-small",
            )


def check_shards(placement: Placement, config: Config) -> None:
    """Refuse shards that would have nothing to do.

    Raises:
        ConfigError: More shards than roots, or shards where one task trains whole epochs.
    """
    if placement.shards == 1:
        return
    noise, processes = config.starts.kind == "noise", config.model.num_processes
    total = config.rollout.roots * (config.rollout.branches if noise else 1)
    if placement.shards * processes > total:
        each = f", over the {processes} processes of each" if processes > 1 else ""
        raise ConfigError(
            "placement.shards",
            expected=f"at most {total // processes}, the {'episodes' if noise else 'roots'} of an epoch{each}",
            got=placement.shards,
            fix="lower it",
        )
    if config.run.epochs_per_step not in (1, "auto"):
        raise ConfigError(
            "placement.shards",
            expected="1, as run.epochs_per_step lets one task train several epochs",
            got=placement.shards,
            fix="set run.epochs_per_step to 1, or shards to 1",
        )


def roles_of(config: Config) -> dict[str, Role]:
    """Which image each step of a configuration needs: HRF-D asks the reward where to start, so `sample` needs it."""
    return {**ROLES, "sample": "reward"} if config.starts.kind == "selected" else dict(ROLES)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Image references of a package, one per role: by default those of this version, as `make images` names them."""

    control: str = f"hrf-control:{__version__}"
    """For steps that move records and need no torch."""
    worker: str = f"hrf-worker:{__version__}"
    """For steps that run the model."""
    reward: str = f"hrf-reward:{__version__}"
    """For steps that run rewards, with the scorer libraries that they need."""

    @classmethod
    def from_environment(cls) -> Images:
        """The references in HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD, where they are set."""
        named = {role: os.environ.get(f"HRF_IMAGE_{role.upper()}", "") for role in ("control", "worker", "reward")}
        return cls(**{role: image for role, image in named.items() if image})


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the tasks of one configuration run."""

    images: Images
    placement: Placement
    roles: Mapping[str, Role]
    hub_steps: frozenset[str]
    """The steps that may have to download from the Hugging Face hub."""
    num_processes: int = 1
    """How many processes share a step that samples, scores or updates."""
    on_cluster: bool = False
    """Whether tasks that don't depend on each other can run at the same time."""

    @classmethod
    def of(cls, config: Config, placement: Placement | None = None) -> Site:
        """The site of a configuration, with the environment's images; by default without any demands."""
        return cls(
            images=Images.from_environment(),
            placement=placement or Placement(),
            roles=roles_of(config),
            hub_steps=hub_steps(config),
            num_processes=config.model.num_processes,
            on_cluster=placement is not None,
        )

    def place(self, task: PipelineTask, step: str, *, prefix: str = "") -> PipelineTask:
        """Settle everything about a task but what it computes.

        Kubeflow's cache is on, which is how a run is resumed: every step is a function of its parameters and inputs,
        and the run's id is among them, so that another attempt at the same run finds what it has finished, and no
        other run ever does. Only `fetch`, which has no run's id, is shared by all. `check`, which reads what was
        promoted, and the status are computed by each attempt.
        """
        role = self.roles[step]
        task.set_container_image(getattr(self.images, role))
        task.set_caching_options(enable_caching=step not in _COMPUTED_BY_EACH_ATTEMPT)
        task.set_display_name(f"{prefix}{step.replace('_', ' ')}")
        _demand(task, self.placement.resources(step, role), self.num_processes if step in _SHARED_STEPS else 1)
        _connect(task, self.placement)
        _admit(task)
        if step in self.hub_steps:
            _reach_hub(task, self.placement)
        if role == "reward" and self.placement.reward_secret:
            _reach_reward_server(task, self.placement)
        return task


def _demand(task: PipelineTask, wanted: Resources, num_processes: int) -> None:
    """Resources, nodes, time-out and retries of a task that so many processes share."""
    from kfp import kubernetes

    if wanted.cpu:
        task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
    if wanted.memory:
        task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if wanted.accelerators:
        task.set_accelerator_type(wanted.accelerator).set_accelerator_limit(num_processes * wanted.accelerators)
    if wanted.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=wanted.shared_memory)
    for label, value in wanted.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in wanted.tolerations:
        given = {name: value for name, value in toleration.model_dump().items() if value}
        kubernetes.add_toleration(task, **given)
    if wanted.timeout_seconds:
        kubernetes.set_timeout(task, wanted.timeout_seconds)
    if wanted.retries:
        # A node that was lost or a server that restarts needs a moment.
        waits = {"backoff_duration": "30s", "backoff_factor": 2.0, "backoff_max_duration": _NO_END_OF_RETRIES}
        task.set_retry(wanted.retries, **waits)


def _connect(task: PipelineTask, placement: Placement) -> None:
    """Object storage for a task's own code, and the registry that its image comes from."""
    from kfp import kubernetes

    if placement.storage_secret:
        keys = {key: key for key in S3_KEYS}
        kubernetes.use_secret_as_env(task, placement.storage_secret, keys, optional=True)
    if placement.storage_config:
        address = {key: key for key in S3_ADDRESS}
        kubernetes.use_config_map_as_env(task, placement.storage_config, address, optional=True)
    if placement.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [placement.image_pull_secret])


def _admit(task: PipelineTask) -> None:
    """What lets a task's pod in where Pod Security is "restricted", and where images were loaded into the nodes."""
    from kfp import kubernetes

    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    # Kubernetes would ask the registry each time for an image that is named without a tag, or with `latest`.
    kubernetes.set_image_pull_policy(task, "IfNotPresent")


def _reach_hub(task: PipelineTask, placement: Placement) -> None:
    """A token for gated models, and a volume that keeps what was downloaded."""
    from kfp import kubernetes

    if placement.hub_secret:
        kubernetes.use_secret_as_env(task, placement.hub_secret, {HUB_TOKEN: HUB_TOKEN})
    if placement.hub_cache:
        kubernetes.mount_pvc(task, placement.hub_cache, HUB_CACHE_PATH)
        # Nowhere else: of a task that sets a variable itself, Kubeflow's Docker runner hides all others.
        task.set_env_variable("HF_HOME", HUB_CACHE_PATH)


def _reach_reward_server(task: PipelineTask, placement: Placement) -> None:
    """The token of a remote reward."""
    from kfp import kubernetes

    kubernetes.use_secret_as_env(task, placement.reward_secret, {REWARD_TOKEN: REWARD_TOKEN})


def _read(name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """A placement's values over those of the one that it extends."""
    known = list_placements()
    if name in below:
        raise ConfigError("extends", expected="placements that do not extend each other", got=name, fix="break it")
    if name in known:
        text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "placement",
                expected=f"one of {', '.join(known)}, or a readable YAML file",
                got=name,
                fix=f"choose one of them{suggest(name, known)}, or check the file ({error})",
            ) from error
    values = parse_yaml(text, origin=f"placement {name}")
    extended = values.pop("extends", None)
    return deep_merge(_read(str(extended), (*below, name)), values) if extended else values


def _folder() -> Any:
    return resources.files("hrf_pipelines").joinpath("placements")
