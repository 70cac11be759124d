"""The processes of a step: what they tell each other, how their ends are told, and that nothing is left of them."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrf.distributed.processes import check_processes, run_in_processes
from hrf.distributed.ranks import Ranks
from hrf.errors import ConfigError, NumericalError, ProcessError, StorageError
from hrf.rewards import ImageError
from hrf.trainer.starts import Shard
from tests.hrf.shared_work import fail, talk


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pids(folder: Path, count: int) -> list[int]:
    found = [int(file.read_text()) for file in folder.glob("pid-*")]
    assert len(found) == count
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [0, 1, 4, 7])
def test_parts_one_after_another_are_the_whole(total, count):
    """Kills: a remainder dropped, an element in two parts."""
    things = list(range(total))
    parts = [things[Ranks(index=index, count=count).part(total)] for index in range(count)]
    assert [thing for part in parts for thing in part] == things
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("num_shards", "count", "total"), [(1, 3, 7), (2, 3, 7), (3, 2, 11)])
def test_the_ranks_of_a_shard_take_that_shard_between_them(num_shards, count, total):
    for index in range(num_shards):
        shard = Shard(index=index, count=num_shards)
        shared = [shard.divided(Ranks(index=rank, count=count)).part(total) for rank in range(count)]
        assert [number for part in shared for number in part] == list(shard.part(total))


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a.b", expected="c", got=1, fix="d"),
        StorageError("s3://a", problem="b", fix="c"),
        ImageError("a", image=3, fix="b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_to_another_process(error):
    """Kills: Python's own pickling, which can't call a class with keyword-only arguments."""
    error.add_note("where it was raised")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.send(error)
    arrived = receiver.recv()
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_more_processes_than_gpus_are_refused():
    check_processes(2, num_gpus=2, has_nccl=True)
    check_processes(8, num_gpus=0, has_nccl=False)
    with pytest.raises(ConfigError, match=r"model\.num_processes: expected at most 2, the GPUs .*got 3. Fix: lower it"):
        check_processes(3, num_gpus=2, has_nccl=True)
    with pytest.raises(ConfigError, match=r"model\.num_processes: expected 1, as this PyTorch has no NCCL"):
        check_processes(2, num_gpus=2, has_nccl=False)


@pytest.mark.slow
def test_ranks_hear_each_other_in_order_and_one_writes():
    """Kills: an average for a sum, parts in another order, parts of one length, every rank a writer."""
    told = run_in_processes(talk, {"value": 7}, num_processes=3, on_gpu=False)
    assert told == {
        "value": 7,
        "joined": [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]],
        "nothing": [0, 3],
        "sum": 6.0,
        "same": True,
        "different": False,
        "threads": 1,
        "is_first": [1, 0, 0],
    }
    assert multiprocessing.active_children() == []


SMALL_SHARED_MEMORY = """
from hrf.distributed.processes import run_in_processes
from tests.hrf.shared_work import exchange
if __name__ == "__main__":
    print(run_in_processes(exchange, {"num_floats": 2**25}, num_processes=2, on_gpu=False))
"""


@pytest.mark.slow
def test_processes_do_with_the_shared_memory_that_a_container_has(tmp_path):
    """Kills: exchanging through /dev/shm, of which containers have 64 MiB: here it would take twice 128 MiB."""
    (tmp_path / "program.py").write_text(SMALL_SHARED_MEMORY)
    mounted = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    command = ["unshare", "-m", "sh", "-c", f'{mounted} && exec "$@"', "sh", sys.executable, "program.py"]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    said = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert ast.literal_eval(said.stdout) == {"sum": 3.0, "samples": 0.5, "room": 64 * 2**20}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("number", NumericalError, r"process 1 of 2: a loss is not finite \(epoch=3\). Fix: lower the rate"),
        ("other", ProcessError, r"process 1 of 2: ZeroDivisionError: by nought. Fix: see the traceback"),
        ("killed", ProcessError, r"process 1 of 2: ended by SIGKILL before .* where memory is short"),
        ("stuck", ProcessError, r"process 0 of 2, while 1 did not answer: .*[Tt]imed out"),
    ],
)
def test_the_end_of_a_rank_ends_all_and_is_told(tmp_path, how, error, said):
    """Kills: the other's lost connection told instead, waiting for ever, a survivor that writes, ranks left over."""
    began = time.monotonic()
    with pytest.raises(error, match=said) as raised:
        run_in_processes(fail, {"folder": str(tmp_path), "how": how}, num_processes=2, on_gpu=False, timeout_seconds=15)
    assert time.monotonic() - began < 60
    assert not any(alive(pid) for pid in pids(tmp_path, 2))
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "output").exists()
    if how in ("number", "other"):
        # Where in the rank's code it was raised.
        assert "in fail" in raised.value.__notes__[0]


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(tmp_path):
    """Nobody would take what they make. Kills: a parent that is not watched."""
    code = (
        "from hrf.distributed.processes import run_in_processes\n"
        "from tests.hrf.shared_work import wait_for_ever\n"
        f"run_in_processes(wait_for_ever, {{'folder': {str(tmp_path)!r}}}, num_processes=2, on_gpu=False)\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}) as step:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        ranks = pids(tmp_path, 2)
        assert all(map(alive, ranks))
        step.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, ranks))
