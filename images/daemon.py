"""The Docker daemon that builds and runs the images: the one that answers already, or a private one.

A private daemon has its data in this checkout and its socket in /run; it touches no firewall rule, makes no network
bridge and knows nothing of another daemon. `python -m images.daemon start` prints where it listens, `stop` ends it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from images.commands import WORK_DIR, ImagesError, run

DEFAULT_HOST = "unix:///var/run/docker.sock"
DATA = WORK_DIR / "docker"
#: Short, since the path of a socket has at most 107 characters; another checkout has another.
RUN_DIR = Path("/run") / f"hrf-images-{hashlib.sha256(str(WORK_DIR).encode()).hexdigest()[:8]}"
PRIVATE_HOST = f"unix://{RUN_DIR}/docker.sock"
START_SECONDS, STOP_SECONDS = 60.0, 60.0
#: The private daemon's needs, and the tool that makes a base image where none can be pulled.
DEBIAN_PACKAGES = ("docker.io", "mmdebstrap")


def ensure_daemon() -> str:
    """Find a daemon that answers, or start a private one.

    Returns:
        Its address, for DOCKER_HOST.
    """
    host = find_daemon()
    if host:
        return host
    if not is_root_on_debian():
        raise ImagesError(
            "no Docker daemon answers, and only root on Debian can start one of its own",
            fix="start Docker, or point DOCKER_HOST at a daemon",
        )
    install_debian_packages()
    # Its installation starts the system's own daemon where there is an init system.
    return find_daemon() or _start()


def find_daemon() -> str:
    """The address of the daemon that answers: DOCKER_HOST's, the default one, or this checkout's own; "" if none."""
    named = os.environ.get("DOCKER_HOST")
    if named:
        if not answers(named):
            raise ImagesError(f"no daemon answers at DOCKER_HOST={named}", fix="start it, or unset DOCKER_HOST")
        return named
    return next((host for host in (DEFAULT_HOST, PRIVATE_HOST) if answers(host)), "")


def answers(host: str) -> bool:
    """Whether a Docker daemon answers at an address."""
    if not shutil.which("docker"):
        return False
    command = ["docker", "--host", host, "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_root_on_debian() -> bool:
    """Whether packages can be installed and a daemon be started here."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    return release.get("ID") == "debian" and os.getuid() == 0


def install_debian_packages() -> None:
    """Install what is missing of Docker and of the tool that makes base images."""
    programs = {"docker.io": "dockerd", "mmdebstrap": "mmdebstrap"}
    missing = [package for package in DEBIAN_PACKAGES if not shutil.which(programs[package])]
    if not missing:
        return
    _say(f"Installing Debian's {' and '.join(missing)}")
    fix = "install them by hand"
    run(["apt-get", "update", "--quiet"], fix=fix)
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    run(command, fix=fix, environment={"DEBIAN_FRONTEND": "noninteractive"})


def stop() -> bool:
    """End the private daemon, if it runs; its images stay.

    Returns:
        Whether it ran.
    """
    pid = _pid()
    if not pid:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while _pid():
        if time.monotonic() > end:
            raise ImagesError(f"the private Docker daemon, process {pid}, does not end", fix=f"look at {_log()}")
        time.sleep(0.2)
    # Docker leaves its network namespace mounted.
    subprocess.run(["umount", str(RUN_DIR / "exec/netns/default")], capture_output=True, check=False)
    shutil.rmtree(RUN_DIR, ignore_errors=True)
    return True


def _start() -> str:
    """Start the private daemon and wait until it answers."""
    _say("Starting a private Docker daemon")
    DATA.mkdir(parents=True, exist_ok=True)
    RUN_DIR.mkdir(mode=0o700, exist_ok=True)
    command = [
        "dockerd",
        f"--data-root={DATA}",
        f"--exec-root={RUN_DIR}/exec",
        f"--host={PRIVATE_HOST}",
        f"--pidfile={RUN_DIR}/docker.pid",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    with open(_log(), "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    end = time.monotonic() + START_SECONDS
    while not answers(PRIVATE_HOST):
        if process.poll() is not None or time.monotonic() > end:
            said = "\n".join(_log().read_text(errors="replace").splitlines()[-5:])
            fix = "run it on a machine that may start containers, or point DOCKER_HOST at a daemon"
            raise ImagesError(f"the private Docker daemon does not start:\n{said}", fix=fix)
        time.sleep(0.2)
    return PRIVATE_HOST


def _pid() -> int:
    """The private daemon's process; 0 if it does not run."""
    try:
        pid = int((RUN_DIR / "docker.pid").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return 0
    return pid if name == "dockerd" else 0


def _log() -> Path:
    return WORK_DIR / "dockerd.log"


def _say(text: str) -> None:
    sys.stderr.write(f"{text} ...\n")
    sys.stderr.flush()


def main() -> int:
    """`python -m images.daemon start|stop`; returns the exit status."""
    if sys.argv[1:] not in (["start"], ["stop"]):
        sys.stderr.write("usage: python -m images.daemon start|stop\n")
        return 2
    try:
        if sys.argv[1] == "start":
            sys.stdout.write(f"export DOCKER_HOST={ensure_daemon()}\n")
        else:
            sys.stdout.write("stopped\n" if stop() else "no private daemon runs\n")
    except ImagesError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
