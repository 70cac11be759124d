"""How a run of a pipeline goes by, look by look."""

from __future__ import annotations

import copy
import datetime
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.kfp_api.state import NEVER, Frame, Resource

START = datetime.datetime(2026, 11, 24, 4, 0, tzinfo=datetime.UTC)


def run_to_end(spec: Mapping[str, Any]) -> list[Frame]:
    """Pending, then one task after the other, then succeeded."""
    return list(_frames(spec))


def failing(task: str) -> Callable[[Mapping[str, Any]], list[Frame]]:
    """A play in which a task fails, of which Kubeflow never says why."""
    return lambda spec: list(_frames(spec, fail_at=task))


def terminated(spec: Mapping[str, Any]) -> list[Frame]:
    """A play that somebody ends in the UI while a task is at work: it is FAILED then, and CANCELING before that."""
    frames = list(_frames(spec))[:4]
    ended = copy.deepcopy(frames[-1].tasks)
    for entry in ended:
        if entry["state"] == "RUNNING":
            end = _text(START + datetime.timedelta(hours=1))
            history = [*entry["state_history"], {"update_time": end, "state": "FAILED"}]
            entry.update(state="FAILED", end_time=end, state_history=history)
    return [*frames, Frame("CANCELING", frames[-1].tasks), Frame("FAILED", ended)]


def for_ever(spec: Mapping[str, Any]) -> list[Frame]:
    """A play that stays with its first task."""
    frames = list(_frames(spec))
    return [frames[0], *[frames[1]] * 10_000]


def _frames(spec: Mapping[str, Any], *, fail_at: str | None = None) -> Iterator[Frame]:
    """The frames of a run, in all of which Kubeflow's own machinery stands among the tasks, as in the recordings."""
    entries: list[Resource] = []
    minutes = itertools.count()

    def begin(name: str, minute: int | None = None) -> Resource:
        begun = _text(START + datetime.timedelta(minutes=next(minutes) if minute is None else minute))
        entry = {
            "task_id": str(uuid.uuid4()),
            "display_name": name,
            "create_time": _text(START),
            "start_time": begun,
            "end_time": NEVER,
            "state": "RUNNING",
            "state_history": [{"update_time": begun, "state": "RUNNING"}],
            "child_tasks": [{"pod_name": f"hrf-finetune-x7k2p-{len(entries) + 1000000000}"}],
        }
        entries.append(entry)
        return entry

    def end(entry: Resource, state: str) -> None:
        last = max(datetime.datetime.fromisoformat(each["start_time"]) for each in entries)
        entry["end_time"] = _text(last + datetime.timedelta(seconds=42))
        entry["state"] = state
        entry["state_history"] = [*entry["state_history"], {"update_time": entry["end_time"], "state": state}]

    def omit(name: str) -> None:
        """What was left out has no state, and the moment at which it was for its start and its end."""
        entry = begin(name)
        entry.update(end_time=entry["start_time"], state_history=[{"update_time": entry["start_time"]}])
        del entry["state"]

    def frame(state: str) -> Frame:
        return Frame(state, copy.deepcopy(entries))

    def run(dag: Mapping[str, Any]) -> Iterator[Frame]:
        """Go through a group; its last frame says whether it failed."""
        failed = False
        for key in _in_order(dag):
            task = dag["tasks"][key]
            if failed and task.get("triggerPolicy", {}).get("strategy") != "ALL_UPSTREAM_TASKS_COMPLETED":
                omit(key)
                continue
            for name in (f"{key}-driver", f"{key}-driver(0)"):
                end(begin(name), "SUCCEEDED")
            inner = spec["components"][task["componentRef"]["name"]].get("dag")
            together = next(minutes)
            names = (key,) if inner else (key, f"{key}(0)", "executor", "executor(0)")
            own = [begin(name, together) for name in names]
            yield frame("RUNNING")
            broken = key == fail_at
            for below in run(inner) if inner else ():
                broken = below.state == "FAILED"
                yield frame("RUNNING")
            for entry in own:
                end(entry, "FAILED" if broken else "SUCCEEDED")
            failed = failed or broken
        yield frame("FAILED" if failed else "RUNNING")

    yield Frame("PENDING")
    outcome = "SUCCEEDED"
    for each in run(spec["root"]["dag"]):
        outcome = "FAILED" if each.state == "FAILED" else "SUCCEEDED"
        yield frame("RUNNING")
    yield frame(outcome)


def _in_order(dag: Mapping[str, Any]) -> Iterator[str]:
    left = dict(dag["tasks"])
    while left:
        for key in sorted(key for key, task in left.items() if not set(task.get("dependentTasks", [])) & set(left)):
            yield key
            del left[key]


def _text(time: datetime.datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
