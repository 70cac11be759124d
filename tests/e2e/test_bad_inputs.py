"""Bad inputs of many kinds: each is told on one screen with its fix, costs seconds, and spoils nothing.

What can be known without running a pipeline is told before one is made; what only a step can know, by the first step
that can.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hrf.storage.objects import Storage
from hrf.storage.shipped import shipped_folder
from tests.e2e.commands import COLUMNS, SCREEN_LINES, Said, events, hrf, only_run, state
from tests.e2e.conftest import EXPERIMENT
from tests.e2e.objects import copy_experiment, read, storage_of, without_run

pytestmark = pytest.mark.e2e
USAGE, CONFIG, ARTIFACT, NUMERICAL, STORAGE = 2, 3, 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A command line that can't work, and how it must end."""

    arguments: tuple[str, ...]
    exit_code: int
    says: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    cpu_seconds: float = 4.0
    """Most that it may take: the first figure is for commands that load neither torch nor kfp."""


def run_with(*settings: str, exit_code: int = CONFIG, says: tuple[str, ...], **options) -> Bad:
    """`hrf run avatars-smoke` with `--set` options."""
    flags = [part for setting in settings for part in ("--set", setting)]
    arguments = ("run", "avatars-smoke", *flags, "--experiment", EXPERIMENT)
    return Bad(arguments=arguments, exit_code=exit_code, says=says, **options)


NOBODY_LISTENS = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "hidden-secret",
}
WINDOW = "starts.windows=[{%s}]"
AT_ONCE = {
    "unknown preset": Bad(
        arguments=("run", "avatars-smok"), exit_code=CONFIG, says=("preset", "did you mean 'avatars-smoke'")
    ),
    "unknown field": run_with("update.learning_rat=1e-4", says=("did you mean update.learning_rate",)),
    "field without its section": run_with("learning_rate=1e-4", says=("that field is update.learning_rate",)),
    "wrong type": run_with("update.learning_rate=fast", says=("update.learning_rate", "number", "'fast'")),
    "out of range": run_with("sampler.eta=2", says=("sampler.eta", "less than or equal to 1")),
    "no noise in training": run_with("sampler.eta=0", says=("sampler.eta", "evaluation.eta")),
    "setting without a value": run_with("run.epochs", says=("dotted.field=value",)),
    "window over the untrained last step": run_with(
        WINDOW % "steps: [3, 6]", says=("starts.windows[0]", "policy.split")
    ),
    "window before the split": run_with(WINDOW % "fractions: [0.0, 0.5]", says=("starts.windows[0]", "policy.split")),
    "durations that do not add up": run_with(
        "starts.schedule=custom",
        "starts.windows=[{steps: [3, 4], epochs: 1}, {steps: [4, 5], epochs: 3}]",
        says=("starts.windows", "run.epochs"),
    ),
    "one branch per group": run_with("rollout.branches=1", says=("rollout.branches", "2 episodes per group")),
    "option without effect": run_with("reward.label=planets", says=("reward.label", "no effect")),
    "epochs that do not divide": run_with("run.epochs_per_step=3", says=("run.epochs", "set it to 3")),
    "absurd number of epochs": Bad(
        arguments=("run", "avatars-smoke", "--epochs", "200"), exit_code=CONFIG, says=("epochs_per_step",)
    ),
    "hub model without a revision": run_with("model.source=hf:google/ddpm", says=("model.revision", "40 hex")),
    "broken YAML": Bad(
        arguments=("run", "{folder}/broken.yaml"), exit_code=CONFIG, says=("line 2", "correct that line")
    ),
    "repeated key": Bad(arguments=("run", "{folder}/twice.yaml"), exit_code=CONFIG, says=("'epochs' twice",)),
    "absent file": Bad(
        arguments=("run", "{folder}/absent.yaml"), exit_code=CONFIG, says=("absent.yaml", "check the file")
    ),
    "file that is no text": Bad(arguments=("run", "{folder}/bytes.yaml"), exit_code=CONFIG, says=("check the file",)),
    "word for a number": Bad(
        arguments=("run", "avatars-smoke", "--epochs", "many"), exit_code=USAGE, says=("--epochs",)
    ),
    "name that is no name": Bad(
        arguments=("run", "avatars-smoke", "--experiment", "../other"), exit_code=CONFIG, says=("experiment", "letters")
    ),
    "work directory that is a file": Bad(
        arguments=("run", "avatars-smoke", "--work-dir", "{folder}/twice.yaml"), exit_code=CONFIG, says=("--work-dir",)
    ),
    "GPU where there is none": run_with(
        "model.device=cuda", says=("model.device", "--set model.device=cpu"), cpu_seconds=8.0
    ),
    "budget below two epochs": Bad(
        arguments=("study", "--preset", "avatars-hrf", "--preset", "avatars-ddpo", "--budget", "10"),
        exit_code=CONFIG,
        says=("budget", "the cost of 2 epochs", "raise it"),
        cpu_seconds=16.0,
    ),
    "picture in an absent folder": Bad(
        arguments=("sample", "-o", "{folder}/absent/grid.png"), exit_code=CONFIG, says=("--output", "make the folder")
    ),
    "run that is not there": Bad(arguments=("runs", "show", "2001"), exit_code=ARTIFACT, says=("hrf runs list",)),
    "no S3 server": run_with(
        exit_code=STORAGE,
        says=("127.0.0.1:9", "AWS_ENDPOINT_URL_S3"),
        variables={**NOBODY_LISTENS, "HRF_BUCKET": "mine"},
    ),
    "no bucket named": run_with(exit_code=STORAGE, says=("HRF_BUCKET", "--bucket"), variables=NOBODY_LISTENS),
    "wrong S3 key": run_with(
        exit_code=STORAGE,
        says=("refuses the credentials", "AWS_SECRET_ACCESS_KEY"),
        variables={"S3": "wrong key", "HRF_BUCKET": "hrf"},
    ),
    "absent bucket": run_with(
        exit_code=STORAGE, says=("no bucket 'nowhere'",), variables={"S3": "", "HRF_BUCKET": "nowhere"}
    ),
}


def answer(case: Bad, folder: Path, s3: Mapping[str, str]) -> Said:
    """Give the command, in a folder of its own."""
    variables = dict(case.variables)
    if "S3" in variables:
        other_key = {"AWS_SECRET_ACCESS_KEY": "hidden-secret"} if variables.pop("S3") else {}
        variables = {**s3, **other_key, **variables}
    arguments = [argument.replace("{folder}", str(folder.parent)) for argument in case.arguments]
    return hrf(*arguments, variables={"HRF_WORK_DIR": str(folder), **variables})


def in_pairs(cases: Mapping[str, Bad], give: Callable[[str, Bad], Said]) -> dict[str, Said]:
    """Give all commands, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(cases, pool.map(give, cases, cases.values()), strict=True))


@pytest.fixture(scope="module")
def answers_at_once(tmp_path_factory, embedded_s3):
    folder = tmp_path_factory.mktemp("at-once")
    (folder / "broken.yaml").write_text("run: [\n")
    (folder / "twice.yaml").write_text("extends: avatars-smoke\nrun:\n  epochs: 1\n  epochs: 2\n")
    (folder / "bytes.yaml").write_bytes(bytes(range(128, 256)))
    names = {name: name.replace(" ", "-") for name in AT_ONCE}
    said = in_pairs(AT_ONCE, lambda name, case: answer(case, folder / names[name], embedded_s3.environment()))
    return {name: (said[name], folder / names[name]) for name in AT_ONCE}


def check_told_well(said: Said, exit_code: int, says: tuple[str, ...]) -> None:
    """It exits as documented, on one screen, with the place and the fix, and without a traceback or a secret."""
    assert said.exit_code == exit_code, said.output
    assert len(said.message) <= SCREEN_LINES, said.output
    assert max(map(len, said.output.splitlines())) <= COLUMNS or exit_code == USAGE, said.output
    assert "Traceback" not in said.output
    for words in says if exit_code == USAGE else (*says, "Fix:"):
        # A frame breaks a long path anywhere, so blanks don't count.
        assert "".join(words.split()) in "".join(said.words.split()), said.output
    assert "hidden-secret" not in said.output


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_can_be_known_at_once_is_told_before_anything_is_made(name, answers_at_once):
    case, (said, work_dir) = AT_ONCE[name], answers_at_once[name]
    check_told_well(said, case.exit_code, case.says)
    assert said.cpu_seconds < case.cpu_seconds
    assert not (work_dir / "runs").exists()


SECONDS = {"cpu_seconds": 40.0}
BEFORE_TRAINING = {
    "nearly deterministic step": run_with(
        WINDOW % "steps: [3, 5]", says=("starts.windows[0]", "policy.split"), **SECONDS
    ),
    "pickled base weights": run_with(
        "model.source={folder}/pickled",
        exit_code=ARTIFACT,
        says=("pickled weights are not loaded", "safe_serialization=True"),
        **SECONDS,
    ),
    "incumbent of another sampler": run_with(
        "sampler.eta=0.9",
        says=("run.start_from", "same sampler", "another --experiment"),
        variables={"S3": "", "HRF_BUCKET": "hrf/promoted"},
        **SECONDS,
    ),
    "damaged promoted model": run_with(
        exit_code=ARTIFACT,
        says=("s3://hrf/damaged", "diffusion_pytorch_model.safetensors", "sha256"),
        variables={"S3": "", "HRF_BUCKET": "hrf/damaged"},
        **SECONDS,
    ),
}


@pytest.fixture(scope="module")
def shared(embedded_s3):
    """The storages that the commands below are given: both hold the undisturbed run's promoted model, one damaged."""
    variables = embedded_s3.environment()
    return {name: Storage.open(f"s3://hrf/{name}", environment=variables) for name in ("promoted", "damaged")}


@pytest.fixture(scope="module")
def answers_before_training(tmp_path_factory, embedded_s3, shared, undisturbed):
    folder = tmp_path_factory.mktemp("before-training")
    shutil.copytree(shipped_folder("avatars-32"), folder / "pickled")
    (folder / "pickled" / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "pickled" / "unet" / "diffusion_pytorch_model.bin"
    )
    (folder / "pickled" / "manifest.json").unlink(missing_ok=True)
    with storage_of(undisturbed.work_dir) as source:
        for name, target in shared.items():
            copy_experiment(source, target, EXPERIMENT, folder / "copies" / name)
    damage(shared["damaged"], folder / "copies" / "damaged")
    names = {name: name.replace(" ", "-") for name in BEFORE_TRAINING}
    said = in_pairs(BEFORE_TRAINING, lambda name, case: answer(case, folder / names[name], embedded_s3.environment()))
    yield {name: (said[name], folder / names[name]) for name in BEFORE_TRAINING}
    shutil.rmtree(folder)


def promoted_weights(storage: Storage) -> str:
    """The key of the promoted model's weights."""
    pointer = read(storage, f"{EXPERIMENT}/promoted.json")
    return f"{pointer['candidate_key']}/unet/diffusion_pytorch_model.safetensors"


def damage(storage: Storage, copies: Path) -> None:
    """Change one bit of the promoted model's weights."""
    key = promoted_weights(storage)
    flip_a_bit(copies / key)
    storage.upload_file(copies / key, key)


def flip_a_bit(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", BEFORE_TRAINING)
def test_what_the_first_steps_can_know_ends_the_run_before_anything_is_sampled(name, answers_before_training, shared):
    case, (said, work_dir) = BEFORE_TRAINING[name], answers_before_training[name]
    check_told_well(said, case.exit_code, case.says)
    assert said.cpu_seconds < case.cpu_seconds
    assert {event["step"] for event in events(work_dir)} <= {"check", "fetch", "prepare", "report_status"}
    assert sum(event["event"] == "step-failed" for event in events(work_dir)) == 1
    run = only_run(work_dir)
    assert state(run)["status"] == "failed"
    assert [path for path in run.rglob("*") if ".partial" in path.name] == []


@pytest.mark.usefixtures("answers_before_training")
@pytest.mark.parametrize("name", ["promoted", "damaged"])
def test_the_refused_runs_leave_the_promoted_pointer_alone(name, shared, undisturbed):
    found = read(shared[name], f"{EXPERIMENT}/promoted.json")
    assert without_run(found, undisturbed.run_id) == undisturbed.records["pointer"]
    assert len(shared[name].list(f"{EXPERIMENT}/history/")) == found["sequence"]


@pytest.mark.usefixtures("answers_before_training")
def test_a_damaged_promoted_model_is_not_drawn_from_until_it_is_mended(shared, embedded_s3, tmp_path):
    variables = {**embedded_s3.environment(), "HRF_BUCKET": "hrf/damaged", "HRF_WORK_DIR": str(tmp_path)}
    picture = tmp_path / "grid.png"
    command = ("sample", "--experiment", EXPERIMENT, "--num", "4", "-o", str(picture))
    said = hrf(*command, variables=variables)
    check_told_well(said, ARTIFACT, ("s3://hrf/damaged", "sha256"))
    assert not picture.exists()
    key = promoted_weights(shared["damaged"])
    whole, _ = shared["promoted"].read_bytes(key)
    (tmp_path / "weights").write_bytes(whole)
    shared["damaged"].upload_file(tmp_path / "weights", key)
    assert hrf(*command, variables=variables).exit_code == 0
    assert picture.stat().st_size > 0
