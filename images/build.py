"""Builds the three images: `make images`, or `python -m images.build --help`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hrf import __version__
from hrf.errors import HrfError
from images import daemon, wheelhouse
from images.base import ensure_debian_base
from images.commands import WORK_DIR, ImagesError, run

FOLDER = Path(__file__).parent
#: In this order: the last one is built on the second.
ROLES = ("control", "worker", "reward")
REFERENCES_FILE = WORK_DIR / "images.json"
#: How a container of these images is run wherever nothing more is asked for.
LOCKED_DOWN = ("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the images take with a kind of torch (ours; those with CUDA as a user of this project has seen them)."""

    image_gb: float
    """The worker."""
    disk_gb: int
    """While they are built: wheels, layers of all stages, the images."""
    minutes: int


COSTS = {
    "cpu": Cost(image_gb=1.5, disk_gb=8, minutes=4),
    "cuda": Cost(image_gb=5.5, disk_gb=34, minutes=12),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built."""

    registry: str
    """What comes before the images' names, without a slash at its end; "" for none."""
    tag: str
    base: str
    """The image to start from; "" for the one that the Dockerfiles name."""
    variant: str
    """`cpu`, `cuda`, or "" for what pip finds."""

    def reference(self, role: str) -> str:
        """The name of an image."""
        return "/".join(part for part in (self.registry, f"hrf-{role}:{self.tag}") if part)


def main() -> int:
    """Build, check and measure; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.push and not arguments.registry:
        parser.error("--push needs --registry (PUSH=1 needs REGISTRY=)")
    order = Order(
        registry=arguments.registry.rstrip("/"),
        tag=arguments.tag,
        base=arguments.base_image,
        variant=arguments.variant,
    )
    try:
        os.environ["DOCKER_HOST"] = daemon.ensure_daemon()
        build(order)
        _report(order)
        names = {role: order.reference(role) for role in ROLES}
        _print_exports({role: push(name) for role, name in names.items()} if arguments.push else names)
    except HrfError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def build(order: Order) -> None:
    """Collect the wheels and build the three images."""
    check_cost(order.variant or wheelhouse.installed_variant(), shutil.disk_usage(WORK_DIR.parent).free)
    commit = revision()
    base = _collect(order, commit.get("CREATED", ""))
    variant = wheelhouse.check_variant(order.variant)
    _say(f"torch: {variant}" + ("" if order.variant else " (as pip found it; VARIANT=cpu or cuda insists on one)"))
    contexts = wheelhouse.lay_out_contexts()
    provenance = {"VERSION": __version__, "VARIANT": variant, **commit}
    start = {"BASE_IMAGE": base, "WORKER_IMAGE": order.reference("worker")}
    for role in ROLES:
        with _told(f"Building {order.reference(role)}"):
            _build_image(role, order.reference(role), contexts[role], {**start, **provenance})
        if variant == "cuda":
            _drop_stages()
    REFERENCES_FILE.write_text(json.dumps({role: order.reference(role) for role in ROLES}, indent=1) + "\n")


def check_cost(variant: str, free_bytes: int) -> None:
    """Say what the images will take, before the first minute of it."""
    cost = COSTS[variant]
    size = f"about {cost.image_gb:g} GB each, {cost.disk_gb} GB of disk while they are built"
    text = f"Images with torch for {variant.upper()}: {size}"
    hint = "" if variant == "cpu" else "; with pip's CPU builds of torch (VARIANT=cpu) it is a quarter"
    _say(f"{text}, some {cost.minutes} minutes on two cores{hint}.")
    if free_bytes < cost.disk_gb * 1e9:
        raise ImagesError(f"{text}, and {free_bytes / 1e9:.0f} GB are free", fix=f"free some space{hint}")


def _drop_stages() -> None:
    """Remove what a build leaves of its first stages: wheels, and a copy of what they install.

    Without CUDA's libraries they are small, and make the next build a short one.
    """
    run(["docker", "image", "prune", "--force", "--filter=label=hrf.stage"], fix="look at `docker image ls`")


def _collect(order: Order, created: str) -> str:
    """Get all that images are made of, the base image and the wheels; returns the base, "" for the Dockerfiles' own."""
    if order.base or not daemon.is_root_on_debian():
        if order.base:
            check_base(order.base)
        with _told("Collecting wheels"):
            wheelhouse.collect(created)
        return order.base
    daemon.install_debian_packages()
    told = _told("Collecting wheels, and making a base image of Debian's packages (BASE_IMAGE= takes another)")
    with told, ThreadPoolExecutor(1) as pool:
        base = pool.submit(ensure_debian_base)
        wheelhouse.collect(created)
    check_base(base.result())
    return base.result()


def check_base(base: str) -> None:
    """See that the wheels, which are made for this interpreter, fit the base image's."""
    question = "import platform, sys; print(*sys.version_info[:2], platform.machine())"
    fix = "name an image with Python 3.11 (BASE_IMAGE=), or make .venv with the image's Python (PYTHON=)"
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", base, "-c", question]
    theirs = run(command, fix=fix).split()
    ours = [str(part) for part in sys.version_info[:2]] + [os.uname().machine]
    if theirs != ours:
        problem = f"{base} has Python {theirs[0]}.{theirs[1]} on {theirs[2]}, the wheels are for {'.'.join(ours[:2])}"
        raise ImagesError(f"{problem} on {ours[2]}", fix=fix)


def revision() -> dict[str, str]:
    """The commit that is built and its time, as build arguments; nothing where there is no git."""
    git = ["git", "-C", str(FOLDER), "--no-optional-locks"]
    try:
        sha, created = run([*git, "log", "-1", "--format=%H %cI"], fix="").split()
        changed = run([*git, "status", "--porcelain"], fix="").strip()
    except ImagesError:
        return {}
    return {"GIT_SHA": f"{sha}-dirty" if changed else sha, "CREATED": created}


def _build_image(role: str, tag: str, context: Path, arguments: Mapping[str, str]) -> None:
    dockerfile = FOLDER / role / "Dockerfile"
    # Docker warns of a build argument that a Dockerfile does not take.
    taken = re.findall(r"^ARG (\w+)", dockerfile.read_text(), re.MULTILINE)
    options = [f"--build-arg={name}={arguments[name]}" for name in taken if arguments.get(name)]
    run(
        ["docker", "build", "--network=none", f"--tag={tag}", f"--file={dockerfile}", *options, str(context)],
        fix=f"see what the step of images/{role}/Dockerfile said",
        # Every Docker has the classic builder; BuildKit needs a plug-in that Debian's lacks.
        environment={"DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")},
    )


def _report(order: Order) -> None:
    """Check every image in a container of its own, and print what came out of it all."""
    rows = []
    for role in ROLES:
        image = order.reference(role)
        size, identity = run(["docker", "image", "inspect", "--format={{.Size}} {{.Id}}", image], fix="").split()
        start = _seconds(image, "python", "-c", "pass")
        doctor = _seconds(image, "hrf", "doctor", "--image")
        rows.append(f"{image:<40} {int(size) / 1e6:>7.0f} MB  {identity[7:19]}  {start:>5.1f} s  {doctor:>6.1f} s")
    head = f"{'image':<40} {'size':>10}  {'id':<12}  {'start':>7}  {'doctor':>8}"
    sys.stdout.write("\n".join([head, *rows]) + "\n\n")


def push(image: str) -> str:
    """Push an image to the registry in its name.

    Returns:
        The reference that always means these bytes, with the digest that the registry gave.
    """
    with _told(f"Pushing {image}"):
        run(["docker", "push", "--quiet", image], fix="log in to the registry with `docker login`; see REGISTRY=")
    digests = run(["docker", "image", "inspect", '--format={{join .RepoDigests " "}}', image], fix="").split()
    repository = image.rpartition(":")[0]
    return next(digest for digest in digests if digest.startswith(f"{repository}@"))


def _print_exports(names: Mapping[str, str]) -> None:
    """What a shell needs for compiling with these images, and for talking to the daemon that has them."""
    lines = [f"export HRF_IMAGE_{role.upper()}={name}" for role, name in names.items()]
    sys.stdout.write("\n".join([f"export DOCKER_HOST={os.environ['DOCKER_HOST']}", *lines]) + "\n")


def _seconds(image: str, *command: str) -> float:
    """How long a container takes from its start to its end."""
    began = time.perf_counter()
    run(["docker", "run", *LOCKED_DOWN, image, *command], fix="the image does not hold what its steps need")
    return time.perf_counter() - began


@contextmanager
def _told(text: str) -> Iterator[None]:
    """Say what is being done, and at its end how long it took."""
    sys.stderr.write(f"{text} ... ")
    sys.stderr.flush()
    began = time.perf_counter()
    yield
    _say(f"{time.perf_counter() - began:.0f} s")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images.build", description="Build the images of all three roles.")
    parser.add_argument("--registry", default="", help="what comes before the names: REGISTRY/hrf-worker:TAG")
    parser.add_argument("--tag", default=__version__, help="default: the version, %(default)s")
    parser.add_argument("--base-image", default="", help="Python 3.11 on Debian or the like; default: see README.md")
    parser.add_argument("--push", action="store_true", help="push them, and print their names with digests")
    parser.add_argument("--variant", default="", choices=("", "cpu", "cuda"), help="insist on a kind of torch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
