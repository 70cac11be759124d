"""A study on a cluster: each of its runs is one of Kubeflow's, several at once; the table is collected from the bucket.

Nothing is remembered here but the table. What is finished stands in the bucket, and what is at work or has failed is
found in the study's experiment by the tag of its run, so that the same command goes on from anywhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrf.errors import ArtifactError, ClusterError
from hrf.promotion.runs import BASE_GRID, LAST_GRID, RunRecords
from hrf.storage.folders import writing_file
from hrf.storage.objects import Storage
from hrf.study.folder import StudyFolder
from hrf.study.plan import StudyRun, run_name
from hrf.study.rows import ArmHistory, keep_decisions, rows_of
from hrf.study.table import read_table
from hrf.study.workers import Progress, add_rows, missing_runs
from hrf_pipelines.cluster.causes import find_causes
from hrf_pipelines.cluster.connection import Cluster, is_passing
from hrf_pipelines.cluster.records import end_of, fetch_records
from hrf_pipelines.cluster.resuming import resume_run
from hrf_pipelines.cluster.runs import (
    FINAL,
    count_tasks,
    get_run,
    list_runs,
    package_of,
    parameters_of,
    state_of,
    tasks_of,
)
from hrf_pipelines.cluster.submitting import put_version, start_run
from hrf_pipelines.cluster.watching import GRACE_SECONDS, PATIENCE_SECONDS
from hrf_pipelines.study_run import arguments_of, experiment_of, tag_of


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a run of a study is a run of."""

    text: str
    about: str
    """See `hrf_pipelines.versions.about_package`."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where and how the runs of a study run."""

    cluster: Cluster
    experiment_id: str
    """Kubeflow's, of the study."""
    storage: str
    """`s3://bucket/prefix`, where they keep what they make."""
    service_account: str
    """What their pods run as."""
    parallel: int
    """How many are started at once."""
    resumes: int
    """How often one that failed is gone on with, where what it failed from may have passed."""
    poll_seconds: float


class RunsOnCluster:
    """The runs of a study that are missing in its table, done on a cluster.

    `tell` is told, in a line, what `show` does not show.
    """

    def __init__(
        self,
        runs: Sequence[StudyRun],
        folder: StudyFolder,
        site: Site,
        *,
        package: Callable[[StudyRun], Package],
        show: Callable[[Progress], None],
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._site, self._package = folder, site, package
        self._show, self._tell = show, tell
        self._total = len(runs)
        self._missing = missing_runs(runs, read_table(folder.path))
        self._storage = Storage.open(site.storage)
        self._finished = 0
        self._failed: dict[str, str] = {}
        self._waiting: list[StudyRun] = []
        self._at_work: dict[str, tuple[StudyRun, Any]] = {}
        self._resumed: Counter[str] = Counter()
        self._causes: dict[str, str] = {}
        self._fractions: dict[str, float] = {}
        self._specs: dict[str, Mapping[str, Any] | None] = {}
        self._heard = time.monotonic()

    def do(self) -> Progress:
        """Collect what is finished, follow what is at work, go on with what failed, and start what is not there.

        A run that fails leaves the others alone.

        Returns:
            How far the study is at the end.

        Raises:
            StorageError: The bucket can't be read.
        """
        self._waiting = self._find_attempts([run for run in self._missing if not self._collect(run)])
        while self._waiting or self._at_work:
            for run, attempt in list(self._at_work.values()):
                self._patiently(self._look, run, attempt)
            while self._waiting and len(self._at_work) < self._site.parallel:
                if not self._patiently(self._begin, self._waiting[0]):
                    break
                self._waiting.pop(0)
            self._show(self._progress())
            if self._waiting or self._at_work:
                time.sleep(self._site.poll_seconds)
        return self._progress()

    def _find_attempts(self, runs: Sequence[StudyRun]) -> list[StudyRun]:
        """Follow what is at work already, however many that are; returns the others."""
        latest = self._latest_attempts()
        for run in runs:
            attempt = latest.get(tag_of(run))
            if attempt is not None and _end_of(attempt) is None:
                self._at_work[run.name] = run, attempt
                self._tell(f"at work  {run.name}: {attempt.run_id}")
        return [run for run in runs if run.name not in self._at_work]

    def _latest_attempts(self) -> dict[str, Any]:
        """The last Kubeflow run of each run, by its tag."""
        runs = list(list_runs(self._site.cluster, experiment_id=self._site.experiment_id))
        return {str(parameters_of(run).get("run_tag", "")): run for run in reversed(runs)}

    def _begin(self, run: StudyRun) -> None:
        """Go on with a run that did not end well, or start it."""
        site = self._site
        # Asked each time: an answer to a start can be lost, and somebody else can do another part of the study.
        attempt = self._latest_attempts().get(tag_of(run))
        if attempt is None:
            package = self._package(run)
            started = start_run(
                site.cluster,
                version=put_version(site.cluster, package.text, package.about),
                experiment_id=site.experiment_id,
                name=tag_of(run),
                parameters=arguments_of(run, storage=site.storage),
                service_account=site.service_account,
            )
            self._at_work[run.name] = run, started
            self._tell(f"started  {run.name}: {started.run_id}")
        elif (ended := _end_of(attempt)) is None:
            self._at_work[run.name] = run, attempt
        elif ended == "SUCCEEDED":
            self._failed[run.name] = self._lost(run)
        else:
            self._resume(run, get_run(site.cluster, attempt.run_id), ended)

    def _look(self, run: StudyRun, attempt: Any) -> None:
        """See how a run at work stands, and what follows from that."""
        attempt = get_run(self._site.cluster, attempt.run_id)
        spec = self._spec_of(attempt)
        if self._collect(run):
            del self._at_work[run.name]
            return
        tasks = tasks_of(attempt, spec)
        ended = _end_of(attempt)
        if ended is None:
            done = sum(task.state in FINAL for task in tasks)
            self._fractions[run.name] = done / max(count_tasks(spec), len(tasks), 1)
            return
        del self._at_work[run.name]
        if ended == "SUCCEEDED":
            self._failed[run.name] = self._lost(run)
            return
        causes = find_causes(self._site.cluster, attempt, tasks, fetch_records(attempt, spec))
        told = "; ".join(cause.line for cause in causes)
        if self._resumed[run.name] < self._site.resumes and all(cause.may_pass for cause in causes):
            self._resumed[run.name] += 1
            self._causes[run.name] = told
            self._waiting.insert(0, run)
        else:
            self._failed[run.name] = f"{told} (run {attempt.run_id})"

    def _resume(self, run: StudyRun, attempt: Any, ended: str) -> None:
        why = self._causes.get(run.name, f"it was {ended.lower()}")
        try:
            resumed = resume_run(self._site.cluster, attempt)
        except ClusterError as error:
            # What Kubeflow itself refuses concerns all runs; what is wrong with this one, this one.
            if error.status is not None or is_passing(error):
                raise
            self._failed[run.name] = str(error)
            return
        self._at_work[run.name] = run, resumed
        self._tell(f"resumed  {run.name}: {why}. It goes on as {resumed.run_id}")

    def _collect(self, run: StudyRun) -> bool:
        """Put a run into the table if the bucket has all of it; returns whether that is settled."""
        records = {arm: self._records(run, arm) for arm in run.configs}
        try:
            summaries = {arm: found.summary() for arm, found in records.items()}
        except ArtifactError as error:
            self._failed[run.name] = str(error)
            return True
        measured = {
            arm: ArmHistory(base=summary.base, epochs=summary.epochs)
            for arm, summary in summaries.items()
            if summary is not None
        }
        if len(measured) < len(summaries):
            return False
        keep_decisions(run, measured[run.arm], self._folder.decisions)
        self._folder.pictures.mkdir(parents=True, exist_ok=True)
        for arm, found in records.items():
            self._keep_picture(f"{found.prefix}/{LAST_GRID}", run_name(arm, run.reward, run.seed))
        self._keep_picture(f"{records[run.arm].prefix}/{BASE_GRID}", "base")
        add_rows(self._folder.path, rows_of(run, measured), run)
        self._finished += 1
        return True

    def _keep_picture(self, key: str, name: str) -> None:
        if (found := self._storage.read_bytes(key)) is not None:
            with writing_file(self._folder.pictures / f"{name}.png") as file:
                file.write_bytes(found[0])

    def _records(self, run: StudyRun, arm: str) -> RunRecords:
        tag = tag_of(run)
        return RunRecords(storage=self._storage, experiment=experiment_of(run, arm, tag), run_id=tag)

    def _lost(self, run: StudyRun) -> str:
        where = self._storage.url(self._records(run, run.arm).prefix)
        return (
            f"Kubeflow says that it has succeeded, and {where} has not all of its summaries. Fix: restore them, or give"
            " another --storage to do it again"
        )

    def _spec_of(self, attempt: Any) -> Mapping[str, Any] | None:
        reference = attempt.pipeline_version_reference
        key = reference.pipeline_version_id if reference else attempt.run_id
        if key not in self._specs:
            self._specs[key] = package_of(self._site.cluster, attempt)
        return self._specs[key]

    def _patiently(self, ask: Callable[..., None], *about: Any) -> bool:
        """Ask the cluster something; returns whether it answered."""
        try:
            ask(*about)
        except ClusterError as error:
            if not is_passing(error) or time.monotonic() - self._heard > PATIENCE_SECONDS:
                raise
            return False
        self._heard = time.monotonic()
        return True

    def _progress(self) -> Progress:
        running = {name: self._fractions.get(name, 0.0) for name in self._at_work}
        missing = len(self._missing)
        there = self._total - missing + self._finished
        return Progress(finished=there, total=self._total, failed=self._failed, running=running, missing=missing)


def _end_of(attempt: Any) -> str | None:
    """What an attempt ended as; None while it has not."""
    if attempt.state in FINAL:
        return state_of(attempt)
    # Kubeflow can miss an end, and then says for ever that a run is at work: its exit step has said how it ended.
    status = end_of(attempt, fetch_records(attempt))
    if status is not None and time.time() - status.time > GRACE_SECONDS:
        return status.outcome.upper()
    return None
