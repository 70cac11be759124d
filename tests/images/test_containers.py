"""What every image promises: its user, its read-only root, its labels, and what is not in it."""

import os
import re
import subprocess
from datetime import datetime

import pytest

from hrf import __version__
from images.build import FOLDER, LOCKED_DOWN

pytestmark = [pytest.mark.container, pytest.mark.slow]

WEIGHTS = ["safetensors", "bin", "pt", "pth", "ckpt", "onnx", "h5", "msgpack", "npz", "tflite", "gguf"]
ASSETS = "/opt/hrf/lib/python3.11/site-packages/hrf/assets/"


def test_an_image_has_all_that_its_role_needs_without_network_on_a_read_only_root(role, in_container):
    done = in_container(role, "hrf", "doctor", "--image")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/ is read-only" in done.stdout
    assert "fail" not in done.stdout


def test_a_check_that_fails_says_so_by_its_exit_status(images):
    command = ["docker", "run", "--rm", "--network", "none", "--user", "0", images.control, "hrf", "doctor", "--image"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "fail  user             uid 0" in done.stdout


def test_an_image_runs_as_an_unprivileged_user_who_has_a_name(role, in_container, inspected):
    assert in_container(role, "id").stdout.strip() == "uid=10001(hrf) gid=10001(hrf) groups=10001(hrf)"
    assert inspected["Config"]["User"] == "10001:10001"


def test_the_user_of_an_image_owns_nothing_in_it_and_can_write_only_temporary_files(role, listed):
    writable = listed(role, r"\( -writable -o -user 10001 \) -not -type l")
    assert "/tmp" in writable
    assert [path for path in writable if not path.startswith(("/tmp", "/var/tmp", "/run/lock", "/dev/", "/proc"))] == []


def test_only_tmp_is_written_on_a_read_only_root(role, in_container):
    assert in_container(role, "touch", "/tmp/x").returncode == 0
    assert "Read-only file system" in in_container(role, "touch", "/var/tmp/x").stderr


def test_an_image_says_what_it_was_built_from(role, inspected):
    labels, variables = inspected["Config"]["Labels"], inspected["Config"]["Env"]
    assert labels["org.opencontainers.image.title"] == f"hrf-{role}"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    revision = labels["org.opencontainers.image.revision"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
    assert f"HRF_GIT_SHA={revision}" in variables
    assert f"HRF_IMAGE_ROLE={role}" in variables
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%cI", revision.removesuffix("-dirty")],
        capture_output=True,
        text=True,
        check=True,
    )
    created = labels["org.opencontainers.image.created"]
    assert datetime.fromisoformat(created) == datetime.fromisoformat(commit.stdout.strip())
    assert ("hrf.torch-variant" in labels) == (role != "control")


def test_no_weights_are_in_an_image_but_those_that_ship(role, listed):
    names = " -o ".join(f"-name '*.{ending}'" for ending in WEIGHTS)
    # A few packages call small tables of their own by such a name.
    found = listed(role, rf"-type f \( {names} \) -size +100k")
    shipped = {
        "avatars-32/unet/diffusion_pytorch_model.safetensors",
        "avatars-32/classifier/model.safetensors",
        "second-classifier/model.safetensors",
    }
    assert set(found) == {f"{ASSETS}{name}" for name in shipped}


def test_the_big_packages_are_only_where_they_are_used(in_container):
    lookup = "import importlib.util as u; print(*(n for n in ('torch', 'diffusers', 'open_clip') if u.find_spec(n)))"
    found = {
        name: in_container(name, "python", "-c", lookup).stdout.split() for name in ("control", "worker", "reward")
    }
    assert found == {
        "control": [],
        "worker": ["torch", "diffusers"],
        "reward": ["torch", "diffusers", "open_clip"],
    }


def test_the_reward_image_shares_all_layers_of_the_worker(images):
    layers = [
        subprocess.run(
            ["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", image],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for image in (images.worker, images.reward)
    ]
    assert layers[1].startswith(layers[0].rstrip().rstrip("]"))
    assert layers[1] != layers[0]


def test_clip_is_built_and_scores_an_image_in_the_reward_image(in_container):
    program = (
        "import hrf.networks.calls, open_clip, torch; from PIL import Image; "
        "model, _, prepare = open_clip.create_model_and_transforms('RN50', pretrained=None, force_image_size=64); "
        "text = open_clip.get_tokenizer('RN50')(['a planet']); "
        "image = prepare(Image.new('RGB', (32, 32)))[None]; "
        "print(model.encode_image(image).shape == model.encode_text(text).shape)"
    )
    done = in_container("reward", "python", "-c", program)
    assert done.stdout.strip() == "True", done.stderr


def test_no_secret_of_the_builder_is_in_an_image(role, images, inspected):
    history = subprocess.run(
        ["docker", "history", "--no-trunc", getattr(images, role)], capture_output=True, text=True, check=True
    )
    told = history.stdout + str(inspected)
    secret = re.compile("SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)
    assert not secret.search(told)
    values = [value for name, value in os.environ.items() if secret.search(name) and len(value) > 5]
    assert not [value for value in values if value in told]


def test_an_image_keeps_no_wheel_and_nothing_of_the_checkout(role, listed):
    # Of Debian's own pip there are wheels in the base image.
    looked_for = "-name '*.whl' -o -name .git -o -name .hrf -o -name Dockerfile -o -name constraints.txt"
    assert listed(role, rf"\( {looked_for} \) -not -path '/usr/*'") == []


def test_a_reward_image_is_extended_as_the_readme_says(images, tmp_path):
    page = (FOLDER / "README.md").read_text().split("## A reward image of your own")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"^```(python|dockerfile)\n(.*?)^```$", page, re.M | re.S))
    (tmp_path / "my_rewards.py").write_text(blocks["python"])
    (tmp_path / "Dockerfile").write_text(blocks["dockerfile"])
    build = ["docker", "build", "--quiet", "--network=none", f"--build-arg=REWARD_IMAGE={images.reward}", str(tmp_path)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    made = subprocess.run(build, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    program = (
        "import numpy; from hrf.config import resolve; from hrf.rewards import build_reward; "
        "config = resolve('avatars-smoke', 'reward: {name: python, function: my_rewards:brightness}'); "
        "print(build_reward(config.reward)(numpy.full((2, 3, 8, 8), 0.25, 'float32')).tolist())"
    )
    try:
        scored = ["docker", "run", *LOCKED_DOWN, made, "python", "-c", program]
        done = subprocess.run(scored, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["docker", "rmi", made], capture_output=True, check=False)
    assert done.stdout.strip() == "[0.25, 0.25]", done.stderr
