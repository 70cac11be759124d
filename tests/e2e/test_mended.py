"""One run that meets one fault after another, and goes on each time that it is mended, to the same end."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hrf.promotion.protocol import history, read_pointer
from hrf.storage.objects import Storage
from hrf.storage.s3 import connect
from tests.e2e.commands import Said, descendants, end_of, events, hrf, kill, only_run, promoting, start, state, wait_for
from tests.e2e.test_bad_inputs import CONFIG, NUMERICAL, STORAGE, check_told_well, flip_a_bit

pytestmark = pytest.mark.e2e
UNEXPECTED, BUCKET, EXPERIMENT = 1, "mended", "mended"
DISK_BYTES, ROOM_BYTES = 400 * 2**20, 8 * 2**20
"""A disk that holds a whole run, and what is left of it when nearly full: less than a policy's weights."""


class MendedRun:
    """One command, given again and again, and the means to break what it needs."""

    def __init__(self, folder: Path, work_dir: Path, s3: Mapping[str, str]) -> None:
        self.work_dir, self._folder = work_dir, folder
        self._modules, self._order = folder / "modules", folder / "order"
        self._modules.mkdir()
        self.order("well")
        self._variables = {**s3, "PYTHONPATH": str(self._modules), "REWARD_ORDER": str(self._order)}
        settings = promoting("reward={name: python, function: 'faulty_reward:roughness'}")
        self._command = ("run", "avatars-smoke", *settings, "--epochs", "1")
        self._command += ("--experiment", EXPERIMENT, "--bucket", BUCKET, "--work-dir", str(work_dir))

    def give(self, **options) -> Said:
        """The command, to its end."""
        return hrf(*self._command, variables=self._variables, **options)

    def begin(self) -> subprocess.Popen[bytes]:
        """The command, in the background."""
        return start(*self._command, output=self._folder / "output", variables=self._variables)

    def said(self, process: subprocess.Popen[bytes]) -> Said:
        """What a command in the background said by its end."""
        cpu_seconds = end_of(process)
        output = (self._folder / "output").read_text()
        return Said(exit_code=process.returncode, output=output, seconds=0.0, cpu_seconds=cpu_seconds)

    def install_reward(self) -> None:
        """Put the reward's module where Python finds it."""
        shutil.copy(Path(__file__).with_name("faulty_reward.py"), self._modules)

    def order(self, what: str) -> None:
        """Tell the reward what to do."""
        self._order.write_text(what)

    def output_of(self, step: str, name: str) -> Path:
        """The newest output folder of a step."""
        return sorted(only_run(self.work_dir).glob(f"artifacts/*/{step}/{name}"))[-1]

    def started(self, step: str) -> int:
        """How often a step has started so far."""
        return sum(event["event"] == "step-started" and event["step"] == step for event in events(self.work_dir))

    def attempts(self) -> int:
        """How often the run was worked on so far."""
        return int(state(only_run(self.work_dir))["attempts"])

    def leftovers(self) -> list[Path]:
        """What should not be there once a command has ended."""
        return [
            path for path in only_run(self.work_dir).rglob("*") if ".partial" in path.name or path.name == "scratch"
        ]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own at a folder, if this user may mount one; says whether."""
    options = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(options, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def nearly_full(folder: Path, *, mounted: bool) -> Iterator[dict[str, object]]:
    """Leave little room on the disk of a folder, or none for large files; yields options for the command."""
    if not mounted:
        yield {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, ROOM_BYTES))}
        return
    filler = folder / "filler"
    with open(filler, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(folder).free - ROOM_BYTES)
    try:
        yield {}
    finally:
        filler.unlink()


def remove_bucket(storage: Storage, s3: Mapping[str, str]) -> None:
    """Remove a bucket with all that is in it."""
    client = connect(storage.uri, s3)
    for key in storage.list():
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def disk(tmp_path):
    """A folder for the work directory, and whether it is a small disk of its own."""
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk") as mounted:
        yield tmp_path / "disk", mounted
    shutil.rmtree(tmp_path / "disk")


@pytest.fixture
def s3(embedded_s3):
    return embedded_s3.environment()


@pytest.fixture
def bucket(s3):
    """A bucket of this test's own."""
    storage = Storage.open(f"s3://{BUCKET}", environment=s3)
    storage.create_bucket()
    return storage


def test_one_run_goes_on_after_each_fault_and_ends_well(tmp_path, disk, bucket, s3):
    place, mounted = disk
    run = MendedRun(tmp_path, place / "work", s3)

    # The module of the reward isn't installed.
    check_told_well(run.give(), CONFIG, ("reward.function", "faulty_reward", "PYTHONPATH"))
    run.install_reward()
    # With its module, it is another run: what a run computes is known by the contents that its configuration names.
    shutil.rmtree(only_run(run.work_dir))

    # Two commands on one run; then the step at work is killed, as by a machine that is short of memory.
    run.order("wait")
    process = run.begin()
    wait_for(lambda: run.started("baseline") == 1)
    check_told_well(run.give(), UNEXPECTED, ("is being worked on by another process", "--fresh"))
    kill(descendants(process.pid)[-1])
    check_told_well(run.said(process), UNEXPECTED, ("baseline", "ended without a word", "model.batch_size"))

    # Rewards that raise, are no numbers, or not one each.
    run.order("raise")
    check_told_well(run.give(), UNEXPECTED, ("failed on 12 images with LookupError: no such colour",))
    run.order("nan")
    check_told_well(run.give(), NUMERICAL, ("a score is nan", "epoch=0, root=1, branch=0"))
    run.order("shape")
    check_told_well(run.give(), NUMERICAL, ("scores must be [4], got [4, 1]", "one number per image"))
    run.order("well")

    # A disk that is nearly full.
    with nearly_full(place, mounted=mounted) as options:
        check_told_well(run.give(**options), STORAGE, ("no space left", "free some space"))
    assert run.leftovers() == []

    # An output of a finished step is damaged before the next attempt, which makes it again; and then the bucket goes.
    flip_a_bit(run.output_of("sample", "trajectories") / "trajectories.safetensors")
    updates = run.started("update")
    process = run.begin()
    wait_for(lambda: run.started("update") > updates)
    remove_bucket(bucket, s3)
    said = run.said(process)
    assert "A finished step is done again, as its output was damaged:" in said.output
    assert "trajectories.safetensors" in said.words.replace(" ", "")
    check_told_well(said, STORAGE, (f"no bucket '{BUCKET}'", "create the bucket"))
    bucket.create_bucket()
    assert bucket.list() == [], "a failed attempt must not have made the bucket again"

    said = run.give()
    assert said.exit_code == 0, said.output
    assert "Resuming run" in said.output
    assert run.attempts() == 7
    # Once each, but for the damaged `sample`.
    assert [run.started(step) for step in ("fetch", "prepare", "sample")] == [1, 1, 2], "a finished step ran twice"
    assert run.leftovers() == []
    pointer = read_pointer(bucket, EXPERIMENT)
    assert history(bucket, EXPERIMENT) == [pointer]
    assert pointer.candidate_id == f"{only_run(run.work_dir).name}/epoch-0000"
