"""The image that all others start from."""

from __future__ import annotations

import subprocess

from images.commands import ImagesError, run

DEBIAN_BASE = "hrf-base:debian-12"
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
#: What nobody reads in a container; licences stay.
_DROPPED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def ensure_debian_base() -> str:
    """Make the base image out of Debian's packages, if the daemon has none yet.

    It has today's security updates; remove the image to have it made anew.

    Returns:
        Its tag.
    """
    if has_image(DEBIAN_BASE):
        return DEBIAN_BASE
    options = [f"--dpkgopt=path-exclude={path}" for path in _DROPPED]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    make = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", *options, _SUITE, "-"]
    load = ["docker", "import", "--change", 'CMD ["bash"]', "-", DEBIAN_BASE]
    with subprocess.Popen(make, stdout=subprocess.PIPE) as maker:
        done = subprocess.run(load, stdin=maker.stdout, capture_output=True, text=True, check=False)
    if maker.returncode or done.returncode:
        # An archive that was cut short makes an image, too.
        subprocess.run(["docker", "rmi", DEBIAN_BASE], capture_output=True, check=False)
        problem = f"no base image could be made of Debian's packages: {done.stderr.strip() or 'see above'}"
        raise ImagesError(problem, fix="look at what mmdebstrap said, or name an image with BASE_IMAGE=")
    return DEBIAN_BASE


def has_image(tag: str) -> bool:
    """Whether the daemon has an image of this name."""
    listed = run(["docker", "images", "--quiet", tag], fix="see whether the Docker daemon still runs")
    return bool(listed.strip())
