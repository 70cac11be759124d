"""What the bucket tells of a run, from its first second on, whatever becomes of it.

Below `EXPERIMENT/runs/RUN/`:

    run.json                     what was started, from which candidate, and when; created once
    failures/STEP-epoch-0000.json  how a step failed, the last time that it did
    status.json                  how the run ended, with the failures; written at its end, and again after a retry
    config.yaml, report.html, summary.json    what `summarize` makes of a finished run
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrf.errors import ArtifactError
from hrf.secrets import without_secrets
from hrf.storage import Conflict, Storage

STARTED, STATUS, FAILURES = "run.json", "status.json", "failures"
#: What two starts of one run have to agree on: everything else is settled by whoever was first.
_SAME = ("run_id", "experiment", "config_digest", "noise_tag")


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """The records of one run."""

    storage: Storage
    experiment: str
    run_id: str

    @property
    def prefix(self) -> str:
        """Where they lie."""
        return f"{self.experiment}/runs/{self.run_id}"

    def start(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write down that a run begins, or read what its first beginning was.

        A first step that is run again must not start from another candidate because one was promoted meanwhile.

        Args:
            record: `run_id`, `experiment`, `config_digest`, `noise_tag`, and what else belongs to the start.

        Returns:
            The record that holds.

        Raises:
            ArtifactError: A run with another configuration has this id.
            StorageError: If the storage fails.
        """
        key = f"{self.prefix}/{STARTED}"
        try:
            self.storage.create_json(key, record)
        except Conflict:
            found = self.storage.read_json(key)
            if found is None:
                raise
            first: dict[str, Any] = found[0]
            if any(first.get(field) != record[field] for field in _SAME):
                raise ArtifactError(
                    self.storage.url(key),
                    problem=f"a run with another configuration has the id {self.run_id}",
                    producer=f"run {self.run_id}, started {first.get('created', 'before')}",
                    fix="give each run an id (run_tag) of its own; a schedule adds its time to it",
                ) from None
            return first
        return dict(record)

    def add_failure(self, failure: Mapping[str, Any]) -> None:
        """Keep how a step failed, without the values of secret variables.

        Args:
            failure: `step`, `epoch` (or None), `error_type`, `message`, `exit_code`, `traceback`, `time`.

        Raises:
            StorageError: If the storage fails.
        """
        epoch = "" if failure["epoch"] is None else f"-epoch-{failure['epoch']:04d}"
        told = {name: without_secrets(value) if isinstance(value, str) else value for name, value in failure.items()}
        self.storage.write_json(f"{self.prefix}/{FAILURES}/{failure['step']}{epoch}.json", told)

    def failures(self) -> list[dict[str, Any]]:
        """How each step that ever failed did so the last time."""
        keys = self.storage.list(f"{self.prefix}/{FAILURES}/")
        return [record[0] for key in keys if (record := self.storage.read_json(key)) is not None]

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Write how the run ended, over what was written at an earlier end."""
        self.storage.write_json(f"{self.prefix}/{STATUS}", status)
