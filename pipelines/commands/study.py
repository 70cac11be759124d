"""`hrf study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hrf.errors import ConfigError, HrfError
from pipelines.commands.console import DEFAULT_WORK_DIR, Bucket, Traceback, WorkDir, console, error_console
from pipelines.commands.run import this_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hrf.study.definition import Study
    from hrf.study.folder import StudyFolder
    from hrf.study.plan import StudyRun
    from hrf.study.workers import Machine


class RunsFailedError(HrfError):
    """Runs of a study failed; the others are in its table.

    Args:
        failed: Their messages, by name.
    """

    def __init__(self, failed: Mapping[str, str]) -> None:
        self.failed = dict(failed)
        told = "\n".join(f"{name}: {message}" for name, message in failed.items())
        super().__init__(f"{len(failed)} runs failed, and are tried again by the same command.\n{told}")


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="What to compare; see the README.")],
    budget: Annotated[str, typer.Option(metavar="NAME", help="A smaller form of it, from the file's `budgets`.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the table and the report.", show_default=False)
    ] = None,
    arm: Annotated[list[str], typer.Option(help="Only this arm's runs; may be given several times.")] = [],  # noqa: B006
    reward: Annotated[list[str], typer.Option(help="Only this reward's runs; likewise.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Only this seed's runs; likewise.")] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop rows of runs that were changed since.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Runs at once; 0 is one for each core or GPU.")] = 0,
    bucket: Bucket = "",
    work_dir: WorkDir = DEFAULT_WORK_DIR,
    _traceback: Traceback = False,
) -> None:
    """Train and measure arms x rewards x seeds, and compare them. Given again after a kill, it goes on where it was."""
    from hrf.study.definition import Study
    from hrf.study.folder import StudyFolder
    from hrf.study.table import TABLE_CSV
    from hrf.study.workers import machine_for
    from pipelines.local import check_devices
    from pipelines.object_storage import make_work_dir

    asked = Study.read(file).reduced(budget)
    make_work_dir(work_dir)
    runs = plan(asked)
    chosen = select_runs(asked, runs, arm, reward, seed)
    check_devices([run.config for run in chosen])
    machine = machine_for(chosen[0].config.model.device, workers)
    name = f"{file.stem}-{budget}" if budget else file.stem
    folder = StudyFolder(output or work_dir / "studies" / name)
    with folder.locked():
        folder.begin(asked, runs, fresh=fresh)
        failed = run_here(chosen, folder, machine, work_dir, bucket)
        page = folder.write_report()
        if not failed and len(chosen) == len(runs):
            folder.clear()
    console().print(f"Table:     {folder.path / TABLE_CSV}", soft_wrap=True, highlight=False)
    console().print(f"Report:    {page}", soft_wrap=True, highlight=False)
    if failed:
        raise RunsFailedError(failed)


def run_here(
    runs: Sequence[StudyRun], folder: StudyFolder, machine: Machine, work_dir: Path, bucket: str
) -> Mapping[str, str]:
    """Do the runs that are missing in a folder's table, and show the progress; returns the messages of failed ones."""
    from hrf.study.execute import Places
    from hrf.study.workers import run_all
    from pipelines.object_storage import object_storage
    from pipelines.study_view import StudyView

    screen = error_console()
    with object_storage(work_dir, bucket) as location, StudyView(screen) as view:
        places = Places(storage=f"{location.uri}/studies", scratch=folder.scratch, pictures=folder.pictures)
        try:
            progress = run_all(runs, folder.path, places, machine, environment=location.environment, show=view.show)
        except KeyboardInterrupt:
            screen.print(f"Stopped. The same command goes on:\n  {escape(this_command())}", highlight=False)
            raise
    return progress.failed


def plan(study: Study) -> list[StudyRun]:
    """The study's runs, with the lengths that its budget buys on its base model."""
    import tempfile

    from hrf.policies.sources import fetch_model
    from hrf.study.plan import plan_runs
    from pipelines.compare import evaluations_by_epoch

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
