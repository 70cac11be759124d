"""`hrf doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf.errors import ClusterError
from hrf_pipelines.cli.cluster_options import (
    Host,
    Namespace,
    ServiceAccount,
    StorageUri,
    check_only_on_cluster,
    checked_storage,
    connect,
)
from hrf_pipelines.cli.compiling import Placement
from hrf_pipelines.cli.console import (
    DEFAULT_WORK_DIR,
    AsJson,
    Bucket,
    Traceback,
    WorkDir,
    console,
    error_console,
    print_json,
)

if TYPE_CHECKING:
    from hrf_pipelines.doctor.checks import Finding

MARKS = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def doctor(
    image: Annotated[
        bool, typer.Option("--image", help="Check the container image that this runs in: nothing else, no network.")
    ] = False,
    pod: Annotated[
        bool, typer.Option("--pod", help="Check the pod that this runs in, as a step would find it.")
    ] = False,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Check the cluster: Kubeflow's API, and what runs need there."),
    ] = False,
    run: Annotated[
        bool, typer.Option("--run", help="With --cluster: also start one pod that checks itself, as --pod.")
    ] = False,
    placement: Placement = "",
    storage: StorageUri = "",
    service_account: ServiceAccount = "",
    host: Host = "",
    namespace: Namespace = "",
    as_json: AsJson = False,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Check that this machine can do what `hrf` does, and say how to put right what it can't. Exits with 1 then."""
    from hrf_pipelines.doctor.checks import examine
    from hrf_pipelines.doctor.image import examine_image
    from hrf_pipelines.doctor.pod import examine_pod

    options = {"placement": placement, "storage": storage, "service-account": service_account}
    check_only_on_cluster(cluster, host=host, namespace=namespace, run="yes" if run else "", **options)
    if sum((image, pod, cluster)) > 1:
        raise typer.BadParameter("give one of --image, --pod and --cluster")
    if cluster:
        findings = _examine_cluster(host, namespace, placement, storage, service_account, run=run)
    else:
        findings = examine_image() if image else examine_pod() if pod else examine(work_dir, bucket)
    if as_json:
        print_json([finding.to_mapping() for finding in findings])
    else:
        screen = console()
        for finding in findings:
            screen.say(f"{MARKS[finding.level]}  {finding.name:<16} {escape(finding.detail)}")
            if finding.fix:
                screen.say(f"      {'':<16} Fix: {escape(finding.fix)}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def _examine_cluster(
    host: str, namespace: str, placement_name: str, storage: str, service_account: str, *, run: bool
) -> list[Finding]:
    from hrf_pipelines.doctor.checks import Finding
    from hrf_pipelines.doctor.cluster import check_cluster
    from hrf_pipelines.doctor.cluster_pod import run_doctor_pod
    from hrf_pipelines.placement import Images, read_placement

    chosen = read_placement(placement_name or "cpu-small")
    account = service_account or chosen.service_account
    uri = checked_storage(storage)
    reached = connect(host, namespace)
    about = f"{reached.host}, runs in the namespace {reached.run_namespace}"
    findings = [Finding(name="kubeflow", level="ok", detail=about)]
    findings += check_cluster(reached, chosen, service_account=account, storage=uri)
    if not run:
        return findings
    screen = error_console()
    screen.print(f"Starting a pod in {escape(reached.run_namespace)}")
    try:
        found = run_doctor_pod(
            reached,
            chosen,
            Images.from_environment(),
            service_account=account,
            storage=uri,
            tell=lambda line: screen.say(escape(line)),
        )
    except ClusterError as error:
        return [*findings, Finding(name="pod", level="fail", detail=error.problem, fix=error.fix)]
    return [*findings, *found]
