"""What a run on a cluster left in its bucket, as far as the bucket can be reached from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hrf.errors import ArtifactError, HrfError
from hrf.run_records import RunRecords
from hrf.storage import Storage
from pipelines.cluster.runs import names_in_bucket, parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Records:
    """A run's records."""

    where: str
    """The `s3://` address of its folder."""
    summary: dict[str, Any] | None = None
    """`summary.json`; a run has it once it is complete."""
    status: dict[str, Any] | None = None
    """`status.json`: how it ended."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """What its failing steps said themselves."""
    error: HrfError | None = None
    """Why they could not be read; None if they could."""


def fetch_records(run: Any) -> Records:
    """Read a run's records.

    Args:
        run: A run, as the API describes it.

    Returns:
        What there is. A bucket that can't be read is no error: it often can't be from outside the cluster.
    """
    parameters = parameters_of(run)
    storage_uri, experiment = str(parameters.get("storage") or ""), str(parameters.get("experiment") or "")
    names = names_in_bucket(run)
    where = f"{storage_uri}/{experiment}/runs/{names[0]}"
    if not storage_uri or not experiment:
        problem = "it has no parameters storage and experiment"
        return Records(
            where="", error=ArtifactError(f"run {run.run_id}", problem=problem, fix="name a run of hrf's pipelines")
        )
    try:
        storage = Storage.open(storage_uri, attempts=1)
        for name in names:
            records = _read(RunRecords(storage=storage, experiment=experiment, run_id=name))
            if records.summary or records.status or records.failures:
                return records
    except HrfError as error:
        return Records(where=where, error=error)
    return Records(where=where)


def told_failures(records: Records) -> list[dict[str, Any]]:
    """The failures of a run: those of its status, else those that steps wrote themselves."""
    listed = (records.status or {}).get("failures") or records.failures
    return [entry for entry in listed if isinstance(entry, dict)]


def failure_line(failure: Mapping[str, Any]) -> str:
    """A failure in one line, such as `ConfigError in prepare: ...`."""
    epoch = failure.get("epoch")
    where = f"{failure.get('step') or 'a step'}" + ("" if epoch is None else f", epoch {epoch}")
    return f"{failure.get('error_type') or 'Error'} in {where}: {failure.get('message') or 'no message'}"


def _read(records: RunRecords) -> Records:
    summary, status = records.summary(), records.status()
    return Records(
        where=records.storage.url(records.prefix),
        summary=summary.as_json() if summary else None,
        status=status.as_json() if status else None,
        failures=[failure.as_json() for failure in records.failures()],
    )
