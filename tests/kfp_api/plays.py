"""How a run of a pipeline goes by, look by look."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.kfp_api.state import NEVER, Frame, Resource

START = datetime.datetime(2026, 11, 24, 4, 0, tzinfo=datetime.UTC)


def run_to_end(spec: Mapping[str, Any]) -> list[Frame]:
    """Pending, then one task after the other, then succeeded."""
    return list(_frames(spec, fail_at=None, message=""))


def failing(task: str, message: str) -> Callable[[Mapping[str, Any]], list[Frame]]:
    """A play in which a task fails with a message."""
    return lambda spec: list(_frames(spec, fail_at=task, message=message))


def cancelled(spec: Mapping[str, Any]) -> list[Frame]:
    """A play that somebody ends in the UI."""
    frames = list(_frames(spec, fail_at=None, message=""))[:3]
    return [*frames, Frame("CANCELING", frames[-1].tasks), Frame("CANCELED", frames[-1].tasks)]


def for_ever(spec: Mapping[str, Any]) -> list[Frame]:
    """A play that stays with its first task."""
    frames = list(_frames(spec, fail_at=None, message=""))
    return [frames[0], *[frames[1]] * 10_000]


def task_order(spec: Mapping[str, Any]) -> list[str]:
    """The tasks by the names that Kubeflow runs them under: a sub-pipeline before what it consists of."""

    def walk(dag: Mapping[str, Any]) -> Iterator[str]:
        left = dict(dag["tasks"])
        while left:
            ready = [key for key, task in left.items() if not set(task.get("dependentTasks", [])) & set(left)]
            for key in sorted(ready):
                yield key
                inner = spec["components"][left[key]["componentRef"]["name"]].get("dag")
                if inner:
                    yield from walk(inner)
                del left[key]

    return list(walk(spec["root"]["dag"]))


def _frames(spec: Mapping[str, Any], *, fail_at: str | None, message: str) -> Iterator[Frame]:
    yield Frame("PENDING")
    details: list[Resource] = []
    for number, key in enumerate(task_order(spec)):
        begun = START + datetime.timedelta(minutes=number)
        # Kubeflow shows its own machinery among the tasks.
        details = [*details, _detail(f"{key}-driver", number, begun, "SUCCEEDED")]
        yield Frame("RUNNING", [*details, _detail(key, number, begun, "RUNNING")])
        if key == fail_at:
            failed = _detail(key, number, begun, "FAILED", message)
            yield Frame("FAILED", [*details, failed], "one of the tasks has failed")
            return
        details = [*details, _detail(key, number, begun, "SUCCEEDED"), _detail("executor", number, begun, "SUCCEEDED")]
    yield Frame("SUCCEEDED", details)


def _detail(name: str, number: int, begun: datetime.datetime, state: str, message: str = "") -> Resource:
    ended = (begun + datetime.timedelta(seconds=42)).isoformat() if state in ("SUCCEEDED", "FAILED") else NEVER
    return {
        "task_id": f"{name}-{number}",
        "display_name": name,
        "create_time": begun.isoformat(),
        "start_time": begun.isoformat(),
        "end_time": ended,
        "state": state,
        "execution_id": str(number),
        **({"error": {"code": 13, "message": message}} if message else {}),
    }
