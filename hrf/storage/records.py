"""Records: JSON whose fields are typed, in files and in object storage; one schema for each kind.

A record is held to its schema when it is read, so one of another version of hrf is refused by name, and not where a
field of it turns out to be missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ValidationError

from hrf.errors import ArtifactError
from hrf.storage.objects import RESTORE, Conflict, Storage
from hrf.storage.schema import Strict


class Record(Strict):
    """Base of all kinds."""

    IF_DAMAGED: ClassVar[str] = RESTORE
    """What a user does about one in object storage that is not what was written."""

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return self.model_dump(mode="json")

    def write(self, file: Path, *, indent: int | None = None) -> None:
        """Write it into a file."""
        file.write_text(json.dumps(self.as_json(), indent=indent, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ArtifactError: There is no such file, or it holds none of this kind.
        """
        fix = "run the step that writes it again"
        try:
            return cls.parse(json.loads(file.read_text(encoding="utf-8")), str(file))
        except FileNotFoundError as error:
            raise ArtifactError(file, problem="there is no such file", fix=fix) from error
        except ValueError as error:
            raise ArtifactError(file, problem=f"it is not JSON: {error}", fix=fix) from error

    @classmethod
    def parse(cls, value: object, origin: str) -> Self:
        """Hold JSON values to this schema.

        Raises:
            ArtifactError: They are none of this kind. It names the first field that is not as it must be.
        """
        try:
            # JSON mode is strict about types, yet takes a list for a tuple, and a text for a key that is a number.
            return cls.model_validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "it"
            raise ArtifactError(
                origin,
                problem=f"no {cls.__name__} of this version of hrf: {field}: {first['msg']}",
                fix="read it with the hrf that wrote it, or give the new version an experiment of its own",
            ) from error


Kind = TypeVar("Kind", bound=Record)


def read_record(storage: Storage, key: str, kind: type[Kind]) -> Kind | None:
    """A record in object storage, or None where there is none; as `read_versioned`."""
    found = read_versioned(storage, key, kind)
    return None if found is None else found[0]


def read_records(storage: Storage, folder: str, kind: type[Kind]) -> list[Kind]:
    """The records below a folder, in the order of their names, without those that go meanwhile."""
    return [found for key in storage.list(f"{folder}/") if (found := read_record(storage, key, kind)) is not None]


def settle_record(storage: Storage, key: str, record: Kind) -> Kind:
    """Create a record; of several who do so at the same place, the first one settles it for all.

    Returns:
        The record that holds.
    """
    try:
        storage.create_json(key, record.as_json())
    except Conflict:
        if (first := read_record(storage, key, type(record))) is None:
            raise
        return first
    return record


def read_versioned(
    storage: Storage, key: str, kind: type[Kind], *, if_damaged: str | None = None
) -> tuple[Kind, str] | None:
    """A record in object storage and its ETag, or None where there is none.

    Each is sealed there (`hrf.storage.folders.seal`), so a changed byte is noticed.

    Raises:
        ArtifactError: It was damaged, or is of another kind or version.
        StorageError: If the storage fails.
    """
    found = storage.read_json(key, if_damaged=if_damaged or kind.IF_DAMAGED)
    return None if found is None else (kind.parse(found[0], storage.url(key)), found[1])
