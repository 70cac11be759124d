"""What is installed: a wheel with names of ours only, whose command works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from images.wheelhouse import clean_sources

pytestmark = pytest.mark.slow

NAMES = ("hrf", "hrf_components", "hrf_pipelines")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, and the names of all files that it is to install."""
    target = tmp_path_factory.mktemp("wheel")
    with clean_sources() as sources:
        files = {str(path.relative_to(sources)) for name in NAMES for path in (sources / name).rglob("*")}
        files = {name for name in files if (sources / name).is_file()}
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, sources)
    (path,) = target.glob("hrf_pipelines-*.whl")
    return path, files


@pytest.fixture(scope="module")
def hrf(wheel, tmp_path_factory):
    """Runs the command from a folder that the wheel was installed to, in an empty folder, and says what it printed."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    _pip("install", "--no-deps", "--target", site, wheel[0])
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command):
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    origin = run(sys.executable, "-c", "import hrf, hrf_pipelines.cli.main as m; print(hrf.__file__, m.__file__)")
    assert all(Path(file).is_relative_to(site) for file in origin.split())
    return lambda *arguments: run(site / "bin" / "hrf", *arguments)


def _pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_file_of_the_packages_under_our_names_and_nothing_else(wheel):
    path, files = wheel
    with zipfile.ZipFile(path) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == files
    typed = {f"{name}/py.typed" for name in NAMES}
    data = {"hrf/presets/avatars-smoke.yaml", "hrf/report/templates/run.html", "hrf_pipelines/placements/gpu.yaml"}
    assert typed | data | {"hrf/assets/avatars-32/unet/diffusion_pytorch_model.safetensors"} <= packed


def test_the_command_tells_its_version_and_its_presets(wheel, hrf):
    assert hrf("--version") == f"hrf {wheel[0].name.split('-')[1]}\n"
    assert "avatars-smoke" in hrf("presets")


def test_it_compiles_and_runs_a_preset(hrf, tmp_path):
    hrf("compile", "avatars-smoke", "--output", tmp_path / "package.yaml")
    assert (tmp_path / "package.yaml").stat().st_size > 0
    hrf("run", "avatars-smoke", "--work-dir", tmp_path / "work")
    (report,) = (tmp_path / "work" / "runs").glob("*/report.html")
    assert report.stat().st_size > 0
