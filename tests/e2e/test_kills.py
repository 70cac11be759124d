"""A run that is killed again and again ends as one that nobody disturbed, bit for bit."""

from __future__ import annotations

import itertools
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hrf.promotion.protocol import fetch_incumbent, history, read_pointer
from tests.e2e.commands import (
    descendants,
    events,
    hrf,
    kill,
    only_run,
    processes_that_mention,
    start,
    state,
    wait_for,
)
from tests.e2e.conftest import EXPERIMENT, Undisturbed, removed_at_the_end, run_command
from tests.e2e.objects import records, storage_of, without_run

pytestmark = pytest.mark.e2e
SEED = 20261123
VICTIMS = (*["command"] * 3, *["group"] * 2, "machine")


@dataclass(frozen=True)
class Kill:
    """When, and how much at once.

    Attributes:
        after: How many steps have started, by then, in the whole run; 0 is before the first.
        wait: How long after that, in seconds.
        victims: `command`; `group`: its process group, its worker and the step at work; `machine`: also the S3 server.
    """

    after: int
    wait: float
    victims: str


def draw_kills(timeline: list[float]) -> list[Kill]:
    """Moments that are spread evenly over the steps of a run, at random within their share."""
    draw = random.Random(SEED)
    victims = draw.sample(VICTIMS, len(VICTIMS))
    gaps = [end - begin for begin, end in itertools.pairwise(timeline)]
    # After the last step only its first half: a run that has already ended can't be killed.
    moments = [(number + draw.random()) / len(victims) * (len(gaps) - 0.5) for number in range(len(victims))]
    return [Kill(int(at), (at % 1) * gaps[int(at)], victim) for at, victim in zip(moments, victims, strict=True)]


def strike(process, work_dir: Path, victims: str) -> None:
    """SIGKILL, all at once."""
    if victims == "command":
        kill(process.pid)
    else:
        pids = [process.pid, *descendants(process.pid)]
        server = work_dir / "s3" / "s3.pid"
        known = int(server.read_text()) if victims == "machine" and server.is_file() else None
        # The file outlives the server, so its number may be another's by now.
        kill(*pids, *([known] if known and is_server(known) else []))
    process.wait()


def is_server(pid: int) -> bool:
    """Whether a process is an S3 server."""
    try:
        return b"weed" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def has_come_to(attempt: Kill, work_dir: Path, begun: int) -> bool:
    """Whether a step has started in this attempt, whose events begin at `begun`, and as many as planned in all."""
    starts = [
        (number, (event["step"], event["epoch"]))
        for number, event in enumerate(events(work_dir))
        if event["event"] == "step-started"
    ]
    # A step that starts again after a kill counts once.
    in_all = len({step for _, step in starts})
    return attempt.after == 0 or (in_all >= attempt.after and starts[-1][0] >= begun)


@pytest.fixture(scope="module")
def killed(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory):
    """The work directory of a run that was killed some times, each time followed by the same command."""
    with removed_at_the_end(tmp_path_factory.mktemp("killed")) as work_dir:
        kill_and_go_on(work_dir, undisturbed.timeline)
        yield work_dir


def kill_and_go_on(work_dir: Path, timeline: list[float]) -> None:
    """Kill a run, and give the same command, for each of the moments; then to its end."""
    log = work_dir / "output.txt"
    for attempt in draw_kills(timeline):
        begun = len(events(work_dir))
        process = start(*run_command(work_dir), output=log)
        while process.poll() is None and not has_come_to(attempt, work_dir, begun):
            time.sleep(0.02)
        time.sleep(attempt.wait)
        assert process.poll() is None, f"it ended before it was killed ({attempt}):\n{log.read_text()}"
        strike(process, work_dir, attempt.victims)
    said = hrf(*run_command(work_dir))
    assert said.exit_code == 0, said.output


def test_the_undisturbed_run_promotes(undisturbed):
    """Otherwise the comparison below would compare nothing."""
    assert undisturbed.records["pointer"]["decision"]["outcome"] == "promoted"


def test_kills_end_in_one_run_of_one_attempt_more(killed):
    told = state(only_run(killed))
    assert told["status"] == "finished"
    assert told["attempts"] in (len(VICTIMS), len(VICTIMS) + 1), "a kill may come before an attempt has noted itself"


def test_the_promoted_weights_the_decisions_and_the_history_are_those_of_the_undisturbed_run(killed, undisturbed):
    run_id = only_run(killed).name
    assert run_id != undisturbed.run_id
    with storage_of(killed) as storage:
        found = records(storage, EXPERIMENT, run_id)
    assert found["pointer"] == undisturbed.records["pointer"]
    assert found == undisturbed.records


def test_what_is_stored_is_what_the_records_say(killed, tmp_path):
    with storage_of(killed) as storage:
        pointer = read_pointer(storage, EXPERIMENT)
        fetch_incumbent(storage, pointer, tmp_path / "promoted")
        assert history(storage, EXPERIMENT)[-1] == pointer


def test_every_number_of_the_summary_is_that_of_the_undisturbed_run(killed, undisturbed):
    summaries = []
    for folder in (only_run(killed), undisturbed.folder):
        summary = json.loads((folder / "summary" / "summary.json").read_text())
        summaries.append(without_run(summary, folder.name))
    assert summaries[0] == summaries[1]


def test_the_killed_attempts_leave_neither_processes_nor_half_written_folders(killed):
    run = only_run(killed)
    wait_for(lambda: not list(processes_that_mention(str(killed))), seconds=10)
    assert [path for path in run.rglob("*") if ".partial" in path.name] == []
