"""`hrf study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hrf.errors import ConfigError, HrfError
from hrf_pipelines.cli.cluster_options import (
    Host,
    Namespace,
    ServiceAccount,
    StorageUri,
    check_only_here,
    check_only_on_cluster,
    checked_storage,
    reach,
)
from hrf_pipelines.cli.compiling import Placement
from hrf_pipelines.cli.configuring import Settings
from hrf_pipelines.cli.console import DEFAULT_WORK_DIR, Bucket, Traceback, WorkDir, console, error_console
from hrf_pipelines.cli.run import this_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hrf.study.definition import Study
    from hrf.study.folder import StudyFolder
    from hrf.study.plan import StudyRun
    from hrf.study.workers import Machine
    from hrf_pipelines.cluster.studying import Package, Site


class RunsFailedError(HrfError):
    """Runs of a study failed, by name with their messages; the others are in its table."""

    def __init__(self, failed: Mapping[str, str]) -> None:
        self.failed = dict(failed)
        told = "\n".join(f"{name}: {message}" for name, message in failed.items())
        super().__init__(f"{len(failed)} runs failed, and are tried again by the same command.\n{told}")


def study(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY.yaml]", help="What to compare: a file, or --preset.", show_default=False),
    ] = None,
    presets: Annotated[
        list[str],
        typer.Option("--preset", help="In place of a file: an arm; given several times, the reference first."),
    ] = [],  # noqa: B006 - typer reads it, nobody changes it.
    budget: Annotated[
        str,
        typer.Option(
            metavar="NAME|N",
            help="Of a file: a smaller form of it, from its `budgets`. With --preset: denoiser evaluations per run.",
        ),
    ] = "",
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --preset: seeds 1 to N.", show_default="2")
    ] = None,
    settings: Settings = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the table and the report.", show_default=False)
    ] = None,
    arm: Annotated[list[str], typer.Option(help="Only this arm's runs; may be given several times.")] = [],  # noqa: B006
    reward: Annotated[
        list[str], typer.Option(help="Only this reward's runs; likewise. With --preset: instead of the presets' own.")
    ] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Only this seed's runs; likewise.")] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop rows of runs that were changed since.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Runs at once; 0 is one for each core or GPU.")] = 0,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="On a Kubeflow cluster: every run is one of its runs, in one experiment.")
    ] = False,
    parallel: Annotated[int | None, typer.Option(min=1, help="With --cluster: runs at once.", show_default="4")] = None,
    resumes: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="With --cluster: go on so often with a run that failed from its surroundings.",
            show_default="2",
        ),
    ] = None,
    storage: StorageUri = "",
    placement: Placement = "",
    service_account: ServiceAccount = "",
    host: Host = "",
    namespace: Namespace = "",
    poll: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="With --cluster: how often to look.", show_default="15"),
    ] = None,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Train and measure arms x rewards x seeds, and compare them. Given again after a kill, it goes on where it was."""
    from hrf.study.folder import StudyFolder
    from hrf.study.table import TABLE_CSV
    from hrf.study.workers import machine_for
    from hrf_pipelines.local.object_storage import make_work_dir
    from hrf_pipelines.local.runner import check_devices

    there = {"parallel": parallel, "resumes": resumes, "storage": storage, "placement": placement, "poll": poll}
    there |= {"service-account": service_account, "host": host, "namespace": namespace}
    given = {name: str(value) for name, value in there.items() if value not in ("", None)}
    check_only_on_cluster(cluster, **given)
    if cluster:
        check_only_here(workers=str(workers or ""), bucket=bucket)
    name, definition = define(file, presets, budget=budget, seeds=seeds, rewards=reward, settings=settings)
    make_work_dir(work_dir)
    runs = plan(definition)
    chosen = select_runs(definition, runs, arm, reward if file else [], seed)
    folder = StudyFolder(output or work_dir / "studies" / name)
    if cluster:
        site = reach_site(
            name,
            chosen,
            storage=storage,
            placement=placement,
            service_account=service_account,
            host=host,
            namespace=namespace,
            parallel=4 if parallel is None else parallel,
            resumes=2 if resumes is None else resumes,
            poll_seconds=15.0 if poll is None else poll,
        )
    else:
        check_devices([run.config for run in chosen])
        machine = machine_for(chosen[0].config.model.device, workers)
    with folder.locked():
        folder.begin(definition, runs, fresh=fresh)
        if cluster:
            failed = run_there(chosen, folder, site, placement)
        else:
            failed = run_here(chosen, folder, machine, work_dir, bucket)
        page = folder.write_report()
        if not failed and len(chosen) == len(runs):
            folder.clear()
    console().say(f"Table:     {folder.path / TABLE_CSV}")
    console().say(f"Report:    {page}")
    if failed:
        raise RunsFailedError(failed)


def define(
    file: Path | None,
    presets: Sequence[str],
    *,
    budget: str,
    seeds: int | None,
    rewards: Sequence[str],
    settings: Sequence[str],
) -> tuple[str, Study]:
    """The study that is asked for, and its name.

    Raises:
        ConfigError: Neither a file nor presets are given, or both, or options of the other; or it can't be run.
    """
    from hrf.config.overrides import from_settings
    from hrf.storage.yaml_text import parse_yaml
    from hrf.study.definition import Study

    if file:
        for option, given in (("--preset", presets), ("--seeds", seeds), ("--set", settings)):
            if given:
                raise ConfigError(
                    option,
                    expected="a study file or presets, not both",
                    got=given,
                    fix=f"leave out {file}, or {option}",
                )
        return f"{file.stem}-{budget}" if budget else file.stem, Study.read(file).reduced(budget)
    if not presets:
        raise ConfigError(
            "STUDY.yaml", expected="a study file, or presets", got="neither", fix="name a file, or give --preset"
        )
    if not budget.isdecimal():
        raise ConfigError(
            "--budget", expected="denoiser evaluations per run", got=budget, fix="give a number, such as --budget 20000"
        )
    definition = Study.of_presets(
        presets,
        budget=int(budget),
        num_seeds=2 if seeds is None else seeds,
        # A name says enough of most rewards; YAML says all of any.
        rewards=[parse_yaml(text, origin="--reward") if "{" in text else {"name": text} for text in rewards],
        overrides=from_settings(settings),
    )
    return "-and-".join(presets), definition


def run_here(
    runs: Sequence[StudyRun], folder: StudyFolder, machine: Machine, work_dir: Path, bucket: str
) -> Mapping[str, str]:
    """Do the runs that are missing in a folder's table, and show the progress; returns the messages of failed ones."""
    from hrf.study.workers import run_all
    from hrf_pipelines.cli.study_view import StudyView
    from hrf_pipelines.local.object_storage import object_storage

    screen = error_console()
    with object_storage(work_dir, bucket) as location, StudyView(screen) as view:
        storage = f"{location.uri}/studies"
        try:
            progress = run_all(runs, folder, storage, machine, environment=location.environment, show=view.show)
        except KeyboardInterrupt:
            screen.print(f"Stopped. The same command goes on:\n  {escape(this_command())}")
            raise
    return progress.failed


def reach_site(
    name: str,
    runs: Sequence[StudyRun],
    *,
    storage: str,
    placement: str,
    service_account: str,
    host: str,
    namespace: str,
    **how: Any,
) -> Site:
    """Reach the cluster and the bucket of a study, and check there what can be checked before its runs begin.

    Raises:
        HrfError: Something that its runs need is not there, or the bucket can't be reached from here.
    """
    from hrf.promotion.pointer import check_name
    from hrf.storage.objects import Storage
    from hrf_pipelines.cluster.studying import Site
    from hrf_pipelines.cluster.submitting import put_experiment
    from hrf_pipelines.placement import load_placement

    check_name(name, "STUDY")
    uri = f"{checked_storage(storage)}/studies/{name}"
    placements = [load_placement(placement, config) for run in runs for config in run.configs.values()]
    # The table is made here from what the bucket has.
    Storage.open(uri).check()
    cluster, account = reach(host, namespace, placements[0], service_account, uri)
    experiment = put_experiment(cluster, f"study-{name}")
    return Site(cluster=cluster, experiment_id=experiment, storage=uri, service_account=account, **how)


def run_there(runs: Sequence[StudyRun], folder: StudyFolder, site: Site, placement: str) -> Mapping[str, str]:
    """Do on a cluster the runs that are missing in a folder's table, as `run_here` does it here."""
    from hrf_pipelines.cli.study_view import StudyView
    from hrf_pipelines.cluster.studying import RunsOnCluster

    screen = error_console()

    def tell(line: str) -> None:
        screen.say(escape(line))

    tell(f"Experiment: {site.cluster.link(f'experiments/details/{site.experiment_id}')}")
    tell(f"Records:    {site.storage}")
    with StudyView(screen) as view:
        work = RunsOnCluster(runs, folder, site, package=packages(placement), show=view.show, tell=tell)
        try:
            return work.do().failed
        except (KeyboardInterrupt, HrfError):
            tell(f"Runs that were started go on in the cluster. The same command follows them:\n  {this_command()}")
            raise


def packages(placement: str) -> Callable[[StudyRun], Package]:
    """What compiles the package of a run: once for all its seeds."""
    from hrf_pipelines.cluster.studying import Package
    from hrf_pipelines.package import compile_package
    from hrf_pipelines.placement import default_placement, load_placement
    from hrf_pipelines.study_run import build
    from hrf_pipelines.versions import about_package
    from hrf_pipelines.workflow.size import check_size, estimate

    compiled: dict[tuple[str, str], Package] = {}

    def compile_once(run: StudyRun) -> Package:
        key = (run.arm, run.reward)
        if key not in compiled:
            text = compile_package(build(run, placement=load_placement(placement, run.config)))
            check_size(estimate(text))
            where = placement or default_placement(run.config)
            compiled[key] = Package(text=text, about=about_package("study", run.config.run.epochs, where))
        return compiled[key]

    return compile_once


def plan(study: Study) -> list[StudyRun]:
    """The study's runs, with the lengths that its budget buys on its base model."""
    import tempfile

    from hrf.policies.sources import fetch_model
    from hrf.study.plan import plan_runs
    from hrf_pipelines.forecasting import evaluations_by_epoch

    model = study.config(study.reference, next(iter(study.rewards)), study.seeds[0]).model
    with tempfile.TemporaryDirectory() as scratch:
        base = fetch_model(model, Path(scratch))
        return plan_runs(study, lambda config: evaluations_by_epoch(config, base))


def select_runs(
    study: Study, runs: Sequence[StudyRun], arms: Sequence[str], rewards: Sequence[str], seeds: Sequence[int]
) -> list[StudyRun]:
    """The runs that are asked for; of an arm that samples another's weights, that other's.

    Raises:
        ConfigError: A name is not in the study.
    """
    for option, names, known in (
        ("--arm", arms, list(study.arms)),
        ("--reward", rewards, list(study.rewards)),
        ("--seed", seeds, list(study.seeds)),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(
                    option, expected=f"one of {', '.join(map(str, known))}", got=name, fix="choose one of them"
                )
    return [
        run
        for run in runs
        if (not arms or set(arms) & set(run.configs))
        and (not rewards or run.reward in rewards)
        and (not seeds or run.seed in seeds)
    ]
