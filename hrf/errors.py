"""The errors a user can meet. Each names what is wrong and how to put it right."""

from __future__ import annotations

from typing import Any, Self

LONGEST_VALUE = 200
"""Characters of a value, or of a field's name, that a message shows: a line, and not the whole of a wrong file."""


def cut_short(text: str) -> str:
    """The beginning of a text, on one line of a message."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


class HrfError(Exception):
    """Base of all errors that the library raises on purpose.

    Attributes:
        exit_code: What the command `hrf` exits with; docs/exit-codes.md lists the codes.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call the class with the message alone, and processes hand errors to each other.
        return type(self)._restored, (str(self), self.__dict__)

    @classmethod
    def _restored(cls, message: str, fields: dict[str, Any]) -> Self:
        error = cls.__new__(cls, message)
        error.__dict__.update(fields)
        return error


class ConfigError(HrfError):
    """A configuration that cannot be run.

    Args:
        field: Dotted path of the field, such as `update.learning_rate`.
        expected: The rule, in words.
        got: The value that breaks it; a message shows no more than the beginning of a long one.
        fix: What to write instead.
    """

    exit_code = 3

    def __init__(self, field: str, *, expected: str, got: object, fix: str) -> None:
        self.field, self.expected, self.got, self.fix = field, expected, got, fix
        super().__init__(f"{cut_short(field)}: expected {expected}, got {cut_short(repr(got))}. Fix: {fix}")


class PlacedError(HrfError):
    """Base of errors that tell where something is wrong, what, and what to do about it.

    Args:
        where: What is concerned: a file or folder, an address, a process.
        problem: What was seen there, or that there was no answer.
        fix: What to do about it.
        producer: Which step, run and version wrote it, as far as it says so itself; "" where nothing does.
    """

    def __init__(self, where: object, *, problem: str, fix: str, producer: str = "") -> None:
        self.where, self.problem, self.fix, self.producer = str(where), problem, fix, producer
        written = f" (written by {producer})" if producer else ""
        super().__init__(f"{where}: {problem}{written}. Fix: {fix}")


class ArtifactError(PlacedError):
    """A file or folder that a step was given is not what its producer wrote."""

    exit_code = 4


class NumericalError(HrfError):
    """A number that is not finite or out of its range, where going on would train on nonsense.

    Args:
        problem: What was seen.
        where: The coordinates that find it again, such as `epoch=3, root=5, branch=1, seed=...`.
        fix: What to try.
    """

    exit_code = 5

    def __init__(self, problem: str, *, where: str, fix: str) -> None:
        self.problem, self.where, self.fix = problem, where, fix
        super().__init__(f"{problem} ({where}). Fix: {fix}")


class StorageError(PlacedError):
    """Object storage that cannot be reached, refuses, or has lost something."""

    exit_code = 6


class ClusterError(PlacedError):
    """A cluster that cannot be reached, refuses, or does not have what was asked for.

    Args:
        where: The address of its API.
        problem: What the server, or the lack of one, said.
        fix: What to do about it.
        status: The HTTP status, or None where there was no answer.
    """

    exit_code = 7

    def __init__(self, where: object, *, problem: str, fix: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(where, problem=problem, fix=fix)


class RemoteError(PlacedError):
    """A remote reward that can't be reached, refuses, or gives an answer that is none."""

    exit_code = 8


class ProcessError(PlacedError):
    """One of the processes that share a step's work was ended, or failed in a way that no other error stands for."""

    exit_code = 9
