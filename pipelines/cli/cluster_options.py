"""Options of the commands that talk to a cluster, and what they are checked for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf.errors import ConfigError
from hrf_pipelines.cli.compiling import compile_chosen
from hrf_pipelines.cli.configuring import Chosen, choose
from hrf_pipelines.cli.console import error_console, note

if TYPE_CHECKING:
    from hrf_pipelines.cluster.connection import Cluster
    from hrf_pipelines.placement import Placement

Host = Annotated[
    str, typer.Option("--host", metavar="URL", help="Address of the Kubeflow Pipelines API. [env: HRF_KFP_HOST]")
]
Namespace = Annotated[
    str,
    typer.Option("--namespace", help="Your namespace, on a cluster of several users. [env: HRF_KFP_NAMESPACE]"),
]
OnCluster = Annotated[bool, typer.Option("--cluster", help="Of the cluster, not of this machine.")]
StorageUri = Annotated[
    str,
    typer.Option(
        "--storage", metavar="s3://BUCKET/PREFIX", help="Where the cluster keeps models and records. [env: HRF_BUCKET]"
    ),
]
ServiceAccount = Annotated[
    str, typer.Option("--service-account", help="What the run's pods run as, instead of what the placement says.")
]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What is sent to a cluster: a compiled package and the parameters of its runs."""

    chosen: Chosen
    package: str
    about: str
    """What the package is about, for its version's name."""
    parameters: dict[str, str]
    """All but the run's tag."""
    placement: Placement
    """What the run's pods ask for, and what they run as."""

    @property
    def stem(self) -> str:
        """The preset's or file's name without its ending, fit for a name."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"\.ya?ml$", "", self.chosen.title)).strip("-._") or "run"


def pack(
    preset: str,
    settings: list[str],
    *,
    epochs: int,
    start_from: str,
    experiment: str,
    storage: str,
    placement: str,
) -> Packed:
    """Compile what a user asked for, and check what can be checked here.

    Raises:
        ConfigError: Anything in it is wrong.
        StorageError: The storage is no `s3://` address.
    """
    from hrf.promotion.pointer import check_name
    from hrf.steps.check import AS_CONFIGURED
    from hrf_pipelines.placement import Images, default_placement
    from hrf_pipelines.versions import about_package

    check_name(experiment, "--experiment")
    chosen = choose(preset, settings, epochs=epochs, start_from=start_from)
    uri = checked_storage(storage)
    compiled = compile_chosen(chosen, placement)
    if not compiled.size.is_shown:
        note(f"The run's Workflow: {compiled.size.in_words()}.")
    images = Images.from_environment()
    if images == Images():
        note(
            f"The images are {images.control}, {images.worker} and {images.reward}, which only a cluster has that they"
            " were loaded into. HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD name those of a registry."
        )
    parameters = {
        "preset": chosen.preset,
        "overrides": chosen.overrides,
        "start_from": start_from or AS_CONFIGURED,
        "experiment": experiment,
        "storage": uri,
    }
    return Packed(
        chosen=chosen,
        package=compiled.package,
        about=about_package(chosen.title, chosen.config.run.epochs, placement or default_placement(chosen.config)),
        parameters=parameters,
        placement=compiled.placement,
    )


def connect(host: str, namespace: str) -> Cluster:
    """Reach Kubeflow's API, having said so: an address that does not answer takes its time."""
    from hrf_pipelines.cluster.connection import HOST, Cluster

    address = host or os.environ.get(HOST, "")
    if address and "@" not in address:
        error_console().say(f"[dim]Asking {escape(address)}[/]")
    return Cluster.connect(host, namespace)


def reach(host: str, namespace: str, placement: Placement, service_account: str, storage: str) -> tuple[Cluster, str]:
    """Reach the cluster that a run is for; refuse one that is bound to fail, as far as the user's kubeconfig shows.

    Returns:
        The cluster, and what the pods run as.

    Raises:
        ClusterError: As `Cluster.connect`, or something that the run needs is not there.
    """
    from hrf_pipelines.doctor.cluster import NOT_LOOKED, UNSEEN, check_cluster, refuse_unprepared

    cluster, account = connect(host, namespace), service_account or placement.service_account
    findings = check_cluster(cluster, placement, service_account=account, storage=storage)
    refuse_unprepared(findings, cluster.host)
    for finding in findings:
        if finding.level == "warn" and finding.name != NOT_LOOKED and UNSEEN not in finding.detail:
            note(f"{finding.detail}. {finding.fix}" if finding.fix else f"{finding.detail}.")
    return cluster, account


def checked_storage(given: str) -> str:
    """The storage that is to be used, as `s3://bucket/prefix`.

    Raises:
        ConfigError: None is named.
        StorageError: It is none.
    """
    from hrf.storage.objects import split_uri
    from hrf_pipelines.local.object_storage import BUCKET

    name = (given or os.environ.get(BUCKET, "")).rstrip("/")
    if not name:
        raise ConfigError(
            "--storage",
            expected="the bucket that the cluster keeps models and records in",
            got="",
            fix=f"give --storage s3://BUCKET/PREFIX, or set {BUCKET}",
        )
    uri = name if name.startswith("s3://") or given else f"s3://{name}"
    bucket, prefix = split_uri(uri)
    return f"s3://{bucket}/{prefix}".rstrip("/")


def check_only_here(**options: str) -> None:
    """Refuse options that would have no effect with `--cluster`."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name}", expected="no --cluster beside it", got=value, fix="leave out one of them")


def check_only_on_cluster(cluster: bool, **options: str) -> None:
    """Refuse options that would have no effect without `--cluster`."""
    for name, value in options.items():
        if value and not cluster:
            raise ConfigError(
                f"--{name}", expected="--cluster beside it", got=value, fix="add --cluster, or leave it out"
            )
