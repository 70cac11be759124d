"""What is decided before Docker is asked to do anything."""

import subprocess
import sys
import zipfile

import pytest

from hrf.errors import ConfigError
from hrf_pipelines.placement import ROLES, Images
from images import build, commands, daemon, wheelhouse
from images.build import Order, _parser, revision
from images.commands import ImagesError


def _wheel(folder, name, requires=(), files=()):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {need}" for need in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
        for inner, text in files:
            archive.writestr(inner, text)
    return path


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A wheelhouse of small wheels that need each other as the real ones do."""
    for name in ("WHEELHOUSE", "APPLICATION", "CONTEXTS"):
        monkeypatch.setattr(wheelhouse, name, tmp_path / name.lower())
    house = tmp_path / "wheelhouse"
    own = [
        "Base_Dep>=1",
        "torch; extra == 'model'",
        "hrf-pipelines[model]; extra == 'reward'",
        "clip; extra == 'reward'",
        "pytest; extra == 'dev'",
        "colorama; sys_platform == 'win32'",
    ]
    _wheel(tmp_path / "application", "hrf_pipelines", own)
    _wheel(house, "base_dep")
    _wheel(house, "torch", ["sums[fast]"], [("torch/version.py", "cuda: Optional[str] = None\n")])
    _wheel(house, "sums", ["quick; extra == 'fast'", "slow; extra == 'thorough'"])
    _wheel(house, "quick", ["torch"])
    _wheel(house, "clip", ["torch", "base-dep"])
    _wheel(house, "kfp", ["requests"])
    return house


def _names(paths):
    return sorted(path.name.split("-")[0] for path in paths)


def test_an_image_is_built_from_the_wheels_that_its_role_needs_and_no_others(wheels):
    found = {role: _names(paths) for role, paths in wheelhouse.wheels_by_role().items()}
    assert found == {
        "control": ["base_dep", "kfp"],
        "worker": ["base_dep", "kfp", "quick", "sums", "torch"],
        "reward": ["clip"],
    }


def test_a_context_holds_wheels_and_the_script_that_installs_them_and_nothing_else(wheels):
    contexts = wheelhouse.lay_out_contexts()
    files = {str(path.relative_to(contexts["worker"])) for path in contexts["worker"].rglob("*") if path.is_file()}
    assert files == {
        "install.sh",
        "application/hrf_pipelines-1.0-py3-none-any.whl",
        *(f"wheels/{name}-1.0-py3-none-any.whl" for name in ("base_dep", "kfp", "quick", "sums", "torch")),
    }
    assert not (contexts["reward"] / "application").exists()


def test_a_wheelhouse_that_lacks_a_wheel_says_which(wheels):
    next(wheels.glob("quick-*.whl")).unlink()
    with pytest.raises(ImagesError, match=r"lacks quick, which sums-1.0-py3-none-any.whl needs"):
        wheelhouse.wheels_by_role()


@pytest.mark.parametrize(("line", "variant"), [("cuda: Optional[str] = None", "cpu"), ("cuda = '13.0'", "cuda")])
def test_the_variant_is_that_of_the_torch_that_pip_found(wheels, line, variant):
    _wheel(wheels, "torch", files=[("torch/version.py", f"__version__ = '1.0'\n{line}\n")])
    assert wheelhouse.check_variant("") == wheelhouse.check_variant(variant) == variant
    other = "cuda" if variant == "cpu" else "cpu"
    with pytest.raises(ConfigError, match=rf"VARIANT: expected .* torch-1.0.* \({variant}\), got '{other}'"):
        wheelhouse.check_variant(other)


@pytest.mark.parametrize(
    ("registry", "tag", "reference"),
    [
        ("", "0.1.0", "hrf-worker:0.1.0"),
        ("registry.example:5000/team", "1.2", "registry.example:5000/team/hrf-worker:1.2"),
    ],
)
def test_an_image_is_named_by_registry_and_tag(registry, tag, reference):
    assert Order(registry=registry, tag=tag, base="", variant="").reference("worker") == reference


def test_the_tag_is_the_version_and_so_the_images_that_packages_name():
    arguments = _parser().parse_args([])
    order = Order(registry=arguments.registry, tag=arguments.tag, base="", variant="")
    assert Images() == Images(**{role: order.reference(role) for role in build.ROLES})


def test_the_revision_is_the_commit_and_says_whether_the_tree_is_that_commit():
    git = ["git", "-C", str(wheelhouse.PROJECT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    assert revision()["GIT_SHA"] == head + ("-dirty" if status.strip() else "")


def test_a_daemon_that_was_named_and_does_not_answer_is_an_error_and_no_other_is_used(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ImagesError, match=r"no daemon answers at DOCKER_HOST=unix:///nowhere/docker.sock"):
        daemon.ensure_daemon()


def test_a_program_that_fails_is_told_with_the_end_of_what_it_said():
    with pytest.raises(ImagesError, match=r"(?s)failed with 3:\nlast words\nFix: listen"):
        commands.run(["sh", "-c", "echo last words >&2; exit 3"], fix="listen")
    with pytest.raises(ImagesError, match=r"no-such-program can't be run: No such file or directory\nFix: install it"):
        commands.run(["no-such-program"], fix="install it")


def test_the_project_s_wheel_is_made_of_a_clean_copy(tmp_path):
    with wheelhouse.clean_sources() as sources:
        copied = {path.name for path in sources.iterdir()}
        assert copied == {"hrf", "hrf_components", "hrf_pipelines", "pyproject.toml", "README.md", "LICENSE"}
        assert not list(sources.rglob("__pycache__"))


CONTROL = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[1].split(","):
    importlib.import_module(name)
"""


def test_what_control_runs_needs_nothing_that_its_image_lacks():
    steps = [f"hrf.steps.{step}" for step, role in ROLES.items() if role == "control"]
    modules = ",".join([*steps, "hrf_components.outputs", "hrf_pipelines.cli.main", "hrf_pipelines.doctor.image"])
    absent = ["torch", "diffusers", "safetensors", "accelerate", "huggingface_hub", "transformers", "kfp", "requests"]
    command = [sys.executable, "-c", CONTROL, modules, *absent]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*command[:3], "hrf.steps.sample", *absent], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in refused.stderr


@pytest.mark.parametrize(("variant", "said"), [("cuda", "34 GB of disk"), ("cpu", "8 GB of disk")])
def test_what_images_take_is_said_before_they_are_built(variant, said, capsys):
    build.check_cost(variant, 10**12)
    assert said in capsys.readouterr().err


def test_a_disk_without_room_for_the_images_is_refused_first():
    with pytest.raises(ImagesError, match=r"34 GB of disk.* and 20 GB are free(?s:.*)VARIANT=cpu"):
        build.check_cost("cuda", 20 * 10**9)


def test_the_kind_of_torch_that_pip_will_find_is_told_by_the_one_that_is_installed():
    import torch

    assert wheelhouse.installed_variant() == ("cuda" if torch.version.cuda else "cpu")
