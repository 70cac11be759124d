"""What the bucket tells of a run, from its first second on, whatever becomes of it.

Below `EXPERIMENT/runs/RUN/`:

    run.json                     what was started, from which candidate, and when; created once
    failures/STEP-epoch-0000.json  how a step failed, the last time that it did
    status.json                  how the run ended and why, with the failures; written at each of its ends
    summary.json                 the finished run as a whole; where it is, the run is complete
    config.yaml, report.html, tensorboard/    what else `summarize` makes of a finished run
    base_grid.png, grid.png      samples of the base, and of the last candidate from the same noise
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrf.errors import ArtifactError
from hrf.promotion.records import Failure, RunStart, RunStatus, RunSummary
from hrf.storage.objects import Storage
from hrf.storage.records import Kind, read_record, read_records, settle_record
from hrf.storage.secrets import without_secrets

STARTED, STATUS, FAILURES, SUMMARY = "run.json", "status.json", "failures", "summary.json"
TENSORBOARD = "tensorboard"
BASE_GRID, LAST_GRID = "base_grid.png", "grid.png"
#: What two starts of one run have to agree on: everything else is settled by whoever was first.
_SAME = {
    "run_id": "id",
    "experiment": "experiment",
    "config_digest": "configuration",
    "noise_tag": "noise_tag",
    "code": "version of hrf, or image,",
}


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """The records of one run.

    What reads them raises an ArtifactError where one is damaged or of another version, and all a StorageError where the
    storage fails.
    """

    storage: Storage
    experiment: str
    run_id: str

    @property
    def prefix(self) -> str:
        """Where they lie."""
        return f"{self.experiment}/runs/{self.run_id}"

    def begin(self, start: RunStart) -> RunStart:
        """Write down that a run begins, or read what its first beginning was.

        A first step that is run again must not start from another candidate because one was promoted meanwhile.

        Returns:
            The record that holds.

        Raises:
            ArtifactError: A run with another configuration has this id.
        """
        key = f"{self.prefix}/{STARTED}"
        first = settle_record(self.storage, key, start)
        for field, words in _SAME.items():
            before, now = getattr(first, field), getattr(start, field)
            if before != now:
                raise ArtifactError(
                    self.storage.url(key),
                    problem=f"a run with another {words} ({before!r}, not {now!r}) has the id {self.run_id}",
                    producer=f"run {self.run_id}, started {first.created}",
                    fix="to resume it, use what it was started with; else give each run an id (run_tag) of its own, as"
                    " a schedule does by adding its time to it",
                )
        return first

    def started(self) -> RunStart | None:
        """What the run began with; None if it is not on record."""
        return self._read(STARTED, RunStart)

    def settled(self, config_digest: str) -> RunStart:
        """What the run began with, for a step that goes on from there with a configuration of this digest.

        Raises:
            ArtifactError: It is not on record, or of another configuration.
        """
        record = self.started()
        if record is None or record.config_digest != config_digest:
            raise ArtifactError(
                self.storage.url(f"{self.prefix}/{STARTED}"),
                problem="it is gone" if record is None else "it is of another configuration",
                producer="check",
                fix="leave a run's records alone while it lasts; start the run anew",
            )
        return record

    def add_failure(self, failure: Failure) -> None:
        """Keep how a step failed, without the values of secret variables."""
        place = "" if failure.epoch is None else f"-epoch-{failure.epoch:04d}"
        place += f"-replica-{failure.replica}" if failure.replica else ""
        told = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in failure.as_json().items()
        }
        self.storage.write_json(f"{self.prefix}/{FAILURES}/{failure.step}{place}.json", told)

    def failures(self) -> list[Failure]:
        """How each step that ever failed did so the last time."""
        return read_records(self.storage, f"{self.prefix}/{FAILURES}", Failure)

    def write_status(self, status: RunStatus) -> None:
        """Write how the run ended, over what was written at an earlier end."""
        self.storage.write_json(f"{self.prefix}/{STATUS}", status.as_json())

    def status(self) -> RunStatus | None:
        """How the run ended; None while it has not, or where nobody could write it down."""
        return self._read(STATUS, RunStatus)

    def add_pictures(self, *, base: Path, last: Path) -> None:
        """Store the sample grids of the base and of the last candidate."""
        self.storage.upload_file(base, f"{self.prefix}/{BASE_GRID}")
        self.storage.upload_file(last, f"{self.prefix}/{LAST_GRID}")

    def write_summary(self, summary: RunSummary) -> None:
        """Write the finished run as a whole. It comes last of all that a run stores."""
        self.storage.write_json(f"{self.prefix}/{SUMMARY}", summary.as_json())

    def summary(self) -> RunSummary | None:
        """The finished run as a whole; None if it is not finished."""
        return self._read(SUMMARY, RunSummary)

    def _read(self, name: str, kind: type[Kind]) -> Kind | None:
        return read_record(self.storage, f"{self.prefix}/{name}", kind)
