"""Several commands in one work directory at the same time, each a process of its own, with its embedded server."""

import os
import subprocess
import sys

import pytest

from hrf_pipelines.local.object_storage import object_storage
from hrf_pipelines.local.run_state import RunFolder, all_runs
from tests.e2e.commands import environment, processes_that_mention, wait_for
from tests.pipelines import tiny

pytestmark = pytest.mark.e2e
COMMAND = """
import sys
from pathlib import Path
from hrf.config import resolve
from hrf_pipelines.local.runner import Request, execute, open_run
from hrf_pipelines.local.object_storage import object_storage
from hrf_pipelines.local.run_state import RunBusyError

root, name = Path(sys.argv[1]), sys.argv[2]
request = Request(
    title=name, experiment="tests",
    arguments={"notes": str(root / f"{name}-notes"), "gate": str(root / f"{name}-gate")},
    config=resolve("avatars-smoke", f"description: {name}"),
    build=(root / "package.yaml").read_text,
)
with object_storage(root / "work") as location:
    try:
        folder, _ = open_run(request, root / "work" / "runs", location, fresh=False, tell=print)
    except RunBusyError:
        sys.exit(42)
    execute(folder, location, lambda event: None)
    folder.unlock()
"""


class Commands:
    """Commands that are given in one work directory, and what each one's second step is told to do."""

    def __init__(self, root) -> None:
        self.root, self.runs = root, root / "work" / "runs"
        (root / "package.yaml").write_text(tiny.package())

    def tell(self, name, order):
        # Whole at any time: the step may be reading it.
        (self.root / "order").write_text(order)
        os.replace(self.root / "order", self.root / f"{name}-gate")

    def give(self, name):
        arguments = [sys.executable, "-c", COMMAND, str(self.root), name]
        return subprocess.Popen(arguments, env=environment(OMP_NUM_THREADS="1"))

    def is_in_second_step(self, name):
        notes = self.root / f"{name}-notes"
        return notes.exists() and "second" in notes.read_text()


def test_runs_at_the_same_time_share_a_server_and_none_takes_it_from_another(tmp_path):
    commands = Commands(tmp_path)
    for name in ("long", "short"):
        commands.tell(name, "hang" if name == "long" else "finish")
    long = commands.give("long")
    short = commands.give("short")
    assert short.wait(300) == 0
    wait_for(lambda: commands.is_in_second_step("long"), 300)
    # Its server outlives the command that ended, and a second command for the same run is turned away.
    assert commands.give("long").wait(300) == 42
    commands.tell("long", "finish")
    assert long.wait(300) == 0

    found = {state.title: (folder, state) for folder, state in all_runs(commands.runs, tell=pytest.fail)}
    assert {name: (state.status, state.attempts) for name, (_, state) in found.items()} == {
        "long": ("finished", 1),
        "short": ("finished", 1),
    }
    with object_storage(tmp_path / "work") as location:
        for folder, _ in found.values():
            assert (folder.summary / "summary.json").is_file()
            stored = location.open().list(f"tests/runs/{folder.path.name}/")
            assert any(key.endswith("second/summary/manifest.json") for key in stored)
    wait_for(lambda: not list(processes_that_mention(str(tmp_path))), 20)


def test_killed_commands_leave_the_server_to_the_one_that_is_left_and_then_to_nobody(tmp_path):
    commands = Commands(tmp_path)
    names = ("one", "two")
    for name in names:
        commands.tell(name, "hang")
    one, two = (commands.give(name) for name in names)
    wait_for(lambda: all(map(commands.is_in_second_step, names)), 300)
    one.kill()
    one.wait()
    commands.tell("two", "finish")
    assert two.wait(300) == 0
    wait_for(lambda: not list(processes_that_mention(str(tmp_path))), 20)

    commands.tell("one", "finish")
    assert commands.give("one").wait(300) == 0
    states = [folder.read() for folder in map(RunFolder, commands.runs.iterdir())]
    assert sorted((state.title, state.status, state.attempts) for state in states) == [
        ("one", "finished", 2),
        ("two", "finished", 1),
    ]
