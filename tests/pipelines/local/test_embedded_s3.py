"""The embedded S3 server: one per folder, whoever starts it and however anyone dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hrf.errors import StorageError
from hrf.storage.objects import Storage
from hrf_pipelines.local import embedded_s3
from hrf_pipelines.local.embedded_s3 import EmbeddedS3
from tests.e2e.commands import processes_that_mention, wait_for

START_AND_WAIT = """
import sys, time, pathlib
from hrf_pipelines.local.embedded_s3 import EmbeddedS3
from hrf.storage.objects import Storage
server = EmbeddedS3.start(pathlib.Path(sys.argv[1]), "hrf")
storage = Storage.open("s3://hrf", environment=server.environment())
for number in range(int(sys.argv[2])):
    storage.create_json(f"{number}.json", {"number": number})
    print(number, server.pid, flush=True)
"""


def storage_of(server: EmbeddedS3) -> Storage:
    return Storage.open("s3://hrf", environment=server.environment())


def test_a_second_start_joins_and_the_last_user_stops(work_dir):
    first = EmbeddedS3.start(work_dir, "hrf")
    second = EmbeddedS3.start(work_dir, "other")
    pid = first.pid
    assert (second.pid, second.endpoint) == (pid, first.endpoint)
    Storage.open("s3://other", environment=second.environment()).check()
    assert first.stop() is False
    storage_of(second).check()
    assert second.stop() is True
    assert not Path(f"/proc/{pid}").exists()
    assert first.stop() is True


@pytest.mark.e2e
def test_a_killed_server_comes_back_with_keys_and_objects(work_dir, tmp_path):
    (tmp_path / "large").write_bytes(b"0123456789abcdef" * (9 * 2**20 // 16))
    server = EmbeddedS3.start(work_dir, "hrf")
    storage = storage_of(server)
    etags = {number: storage.create_json(f"{number}.json", {"number": number}) for number in range(50)}
    storage.upload_file(tmp_path / "large", "large")
    os.kill(server.pid, signal.SIGKILL)
    again = EmbeddedS3.start(work_dir, "hrf")
    assert again.environment() == server.environment()
    storage = storage_of(again)
    assert [storage.read_json(f"{number}.json") for number in etags] == [({"number": n}, e) for n, e in etags.items()]
    assert storage.read_bytes("large")[0] == (tmp_path / "large").read_bytes()
    storage.replace_json("0.json", {"number": -1}, etags[0])


@pytest.mark.e2e
def test_a_server_whose_ports_were_taken_meanwhile_moves_and_keeps_its_objects(work_dir):
    server = EmbeddedS3.start(work_dir, "hrf")
    storage_of(server).create_json("k.json", {"n": 1})
    assert server.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", int(server.endpoint.rpartition(":")[2])))
        squatter.listen()
        moved = EmbeddedS3.start(work_dir, "hrf")
        assert moved.endpoint != server.endpoint
        assert storage_of(moved).read_json("k.json")[0] == {"n": 1}


@pytest.mark.e2e
def test_no_port_is_one_that_the_system_gives_to_whoever_asks_for_any(work_dir):
    """Kills the mutant that asks the system for ports: between choosing and listening, it gave one to another."""
    range_of_this_machine = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not range_of_this_machine.exists():
        pytest.skip("only Linux says which ports it gives away")
    first, _ = map(int, range_of_this_machine.read_text().split())
    if first < 32768:
        pytest.skip(f"this machine gives ports away from {first} on; usual is 32768")
    with EmbeddedS3.start(work_dir, "hrf"):
        ports = json.loads((work_dir / "s3.json").read_text())["ports"]
    assert len(set(ports.values())) == len(ports) == 10
    assert max(ports.values()) < first


def sockets(work_dir: Path) -> list[Path]:
    """What a server has in /tmp: by kind and port, as another's, dead or alive, may have one of these ports as another
    kind's."""
    ports = json.loads((work_dir / "s3.json").read_text())["ports"]
    names = [f"/tmp/seaweedfs-{kind.replace('.', '-')}-{port}.sock" for kind, port in ports.items()]
    return [Path(name) for name in names if Path(name).exists()]


def killed_starter(work_dir: Path) -> tuple[int, int]:
    """Start a server in a process that is killed while it writes; returns the server and how many objects it took."""
    starter = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(work_dir), "100000"], stdout=subprocess.PIPE, text=True
    )
    acknowledged = [starter.stdout.readline() for _ in range(20)]
    starter.kill()
    acknowledged += starter.stdout.readlines()
    starter.wait()
    whole = [line.split() for line in acknowledged if line.endswith("\n")]
    (pid,) = {int(pid) for _, pid in whole}
    return pid, len(whole)


@pytest.mark.e2e
def test_a_server_whose_users_were_all_killed_ends_by_itself_and_has_every_acknowledged_object(work_dir):
    """Kills: a server, and ten open ports, that stay until the next command there."""
    pid, count = killed_starter(work_dir)
    wait_for(lambda: not Path(f"/proc/{pid}").exists() and not list(processes_that_mention(str(work_dir))), seconds=20)
    assert sockets(work_dir) == []
    storage = storage_of(EmbeddedS3.start(work_dir, "hrf"))
    assert [storage.read_json(f"{number}.json")[0]["number"] for number in range(count)] == list(range(count))


@pytest.mark.e2e
def test_of_a_server_that_dies_alone_no_socket_is_left(work_dir):
    """Kills: the watcher that goes when there is nothing to end, while the killed server's users never come back."""
    server = EmbeddedS3.start(work_dir, "hrf")
    assert len(sockets(work_dir)) > 1
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: sockets(work_dir) == [], seconds=20)


@pytest.mark.e2e
def test_a_server_outlives_its_killed_starter_as_long_as_another_uses_it(work_dir):
    """Kills: the server as a child that the kernel ends with its parent."""
    starter = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT + "time.sleep(600)", str(work_dir), "1"], stdout=subprocess.PIPE
    )
    starter.stdout.readline()
    server = EmbeddedS3.start(work_dir, "hrf")
    pid = server.pid
    starter.kill()
    starter.wait()
    time.sleep(3 * embedded_s3._WATCH_SECONDS)
    assert storage_of(server).read_json("0.json")[0] == {"number": 0}
    assert server.pid == pid
    assert server.stop()
    wait_for(lambda: not list(processes_that_mention(str(work_dir))), seconds=20)


@pytest.mark.e2e
def test_a_stopped_server_leaves_no_process(work_dir):
    with EmbeddedS3.start(work_dir, "hrf"):
        assert len(list(processes_that_mention(str(work_dir)))) == 1, "its watcher"
    assert list(processes_that_mention(str(work_dir))) == []


@pytest.mark.e2e
def test_a_starter_killed_at_any_time_leaves_nothing_that_hinders_the_next(work_dir):
    for delay in (0.35, 0.45, 0.6, 0.9):
        starter = subprocess.Popen(
            [sys.executable, "-c", START_AND_WAIT, str(work_dir), "1"], stdout=subprocess.DEVNULL
        )
        time.sleep(delay)
        starter.kill()
        starter.wait()
        server = EmbeddedS3.start(work_dir, "hrf")
        storage_of(server).check()
        assert server.stop()


@pytest.mark.e2e
def test_starters_at_the_same_time_share_one_server(work_dir):
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", START_AND_WAIT.replace("{number}", f"{name}-{{number}}"), str(work_dir), "1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    outputs = [starter.communicate()[0] for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert len({output.split()[1] for output in outputs}) == 1
    found = storage_of(EmbeddedS3.start(work_dir, "hrf")).list()
    assert found == [".write-check.json", "a-0.json", "b-0.json", "c-0.json"]


def listening_addresses(pid: int) -> set[str]:
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def test_only_the_loopback_is_bound(embedded_s3):
    assert listening_addresses(embedded_s3.pid) == {"0100007F"}


def test_keys_are_in_one_private_file_only(embedded_s3):
    folder = embedded_s3._work_dir
    secret = embedded_s3.environment()["AWS_SECRET_ACCESS_KEY"]
    assert stat.S_IMODE((folder / "s3.json").stat().st_mode) == 0o600
    assert secret not in Path(f"/proc/{embedded_s3.pid}/cmdline").read_text()
    holders = [path.name for path in folder.iterdir() if path.is_file() and secret in path.read_text(errors="replace")]
    assert holders == ["s3.json"]
    assert len(secret) >= 30


def test_unsigned_requests_are_refused(embedded_s3):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        opener.open(f"{embedded_s3.endpoint}/hrf?list-type=2")


def test_a_missing_program_is_named_with_its_package(work_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match=r"hrf-pipelines\[local\]"):
        EmbeddedS3.start(tmp_path / "other", "hrf")


@pytest.mark.e2e
def test_a_server_that_was_started_again_delivers_at_once_what_it_holds(work_dir):
    """Right after its start it knows names before it can deliver contents."""
    for number in range(3):
        with EmbeddedS3.start(work_dir, "hrf") as server:
            # One attempt: the client's own patience must not be what makes it work.
            storage = Storage.open("s3://hrf", environment=server.environment(), attempts=1)
            assert (storage.read_json("kept.json") is None) == (number == 0)
            if number == 0:
                storage.create_json("kept.json", {"text": "x" * 5000})
