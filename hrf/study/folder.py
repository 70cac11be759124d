"""A study's folder: its definition, its table, the pictures and the report. One process works on it at a time.

study.yaml                 the definition, as it is run
table.csv, table.parquet   one row per run and point
pictures/                  the last sample grid of each run, and the base's
decisions/                 what held each run above its diversity floor, where it has one
report.html                the comparison
scratch/                   folders of unfinished runs; goes when the study is complete
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hrf.errors import ConfigError, HrfError
from hrf.storage.folders import writing_file
from hrf.study.definition import Study
from hrf.study.plan import StudyRun
from hrf.study.report import PICTURES, STUDY_FILE, render_study
from hrf.study.table import KEY, read_table, short_digest, write_table

REPORT_FILE = "report.html"


class StudyBusyError(HrfError):
    """Another process is working on the study."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is being worked on by another process. Fix: wait for it, or give another --output")


class StudyFolder:
    """The folder of a study.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def scratch(self) -> Path:
        """Where unfinished runs work."""
        return self.path / "scratch"

    @property
    def pictures(self) -> Path:
        """Where sample grids go."""
        return self.path / PICTURES

    @property
    def decisions(self) -> Path:
        """Where the decisions of runs with a diversity floor go."""
        return self.path / "decisions"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the folder is made if absent.

        Raises:
            StudyBusyError: One is at work.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StudyBusyError(self.path) from error
            yield

    def begin(self, study: Study, runs: Sequence[StudyRun], *, fresh: bool) -> None:
        """Write the definition down; with `fresh`, drop rows of other runs than these.

        Raises:
            ConfigError: The table holds such rows, and they are not to be dropped.
        """
        own = {(arm, run.reward, run.seed, short_digest(config)) for run in runs for arm, config in run.configs.items()}
        table = read_table(self.path)
        is_own = [key in own for key in table[[*KEY, "config_digest"]].itertuples(index=False, name=None)]
        if not all(is_own) and not fresh:
            others = table[[not known for known in is_own]]
            raise ConfigError(
                "--output",
                expected="the folder of this study",
                got=f"{self.path}, which holds rows of other runs, or of runs under another configuration, such as"
                f" {others.iloc[0]['arm']} on {others.iloc[0]['reward_name']}",
                fix="give another folder, or --fresh to drop those rows",
            )
        if not all(is_own):
            write_table(table[is_own], self.path)
        with writing_file(self.path / STUDY_FILE) as file:
            file.write_text(study.to_yaml(), encoding="utf-8")

    def write_report(self) -> Path:
        """Render the comparison of what is in the table; returns its file."""
        page = self.path / REPORT_FILE
        with writing_file(page) as file:
            file.write_text(render_study(self.path), encoding="utf-8")
        return page

    def clear(self) -> None:
        """Remove what only unfinished runs need."""
        shutil.rmtree(self.scratch, ignore_errors=True)
