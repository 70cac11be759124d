"""`hrf run` from beginning to end, a second run that goes on from the first, and the commands that look at both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrf.storage.folders import read_manifest
from tests.e2e.commands import Said, hrf, state
from tests.e2e.conftest import EXPERIMENT, removed_at_the_end, run_command
from tests.e2e.objects import read, storage_of

pytestmark = pytest.mark.e2e
FILES_OF_A_RUN = ("config.yaml", "kfp.log", "report.html", "run.json", "status.json", "summary.json")


@pytest.fixture(scope="module")
def home(undisturbed, tmp_path_factory):
    """The work directory of the undisturbed run, copied, so that others may still compare with the original."""
    with removed_at_the_end(tmp_path_factory.mktemp("home") / "work") as work_dir:
        shutil.copytree(undisturbed.work_dir, work_dir)
        yield work_dir


@pytest.fixture(scope="module")
def second(home) -> Said:
    """The same command again, for one epoch."""
    said = hrf(*run_command(home), "--epochs", "1")
    assert said.exit_code == 0, said.output
    return said


@pytest.fixture
def ask(home, second):
    """Gives a command about the work directory of both runs; returns what it said."""

    def give(*arguments: str) -> str:
        said = hrf(*arguments, "--work-dir", str(home))
        assert said.exit_code == 0, said.output
        return said.output

    return give


def newest(work_dir: Path) -> Path:
    return sorted((work_dir / "runs").iterdir(), key=lambda run: state(run)["created"])[-1]


def test_a_run_ends_with_its_table_its_report_and_what_to_do_next(undisturbed):
    output = undisturbed.said.output
    summary = json.loads((undisturbed.folder / "summary" / "summary.json").read_text())
    table = [line.split() for line in output.splitlines() if line.strip().startswith(("base", "0 ", "1 "))]
    assert [line[0] for line in table] == ["base", "0", "1"]
    assert [line[1] for line in table[1:]] == [
        f"{entry['evaluation']['reward']['value']:.3f}" for entry in summary["epochs"]
    ]
    assert [line[-1] for line in table[1:]] == [entry["decision"]["outcome"] for entry in summary["epochs"]]
    assert f"Report:    {undisturbed.folder / 'report.html'}" in output
    assert f"Promoted:  {undisturbed.run_id}/epoch-0001" in output
    assert f"hrf sample --experiment {EXPERIMENT} --num 16" in output


def test_the_report_is_one_page_that_needs_nothing_else(undisturbed):
    page = (undisturbed.folder / "report.html").read_text()
    assert undisturbed.run_id in page
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_the_bucket_holds_decisions_candidates_artifacts_and_the_pointer(undisturbed):
    run_id = undisturbed.run_id
    with storage_of(undisturbed.work_dir) as storage:
        keys = set(storage.list(f"{EXPERIMENT}/"))
        summary = read(storage, f"{EXPERIMENT}/runs/{run_id}/summary.json")
        pointer = read(storage, f"{EXPERIMENT}/promoted.json")
        log, _ = storage.read_bytes(f"{EXPERIMENT}/runs/{run_id}/kfp.log")
    for epoch in ("epoch-0000", "epoch-0001"):
        assert f"{EXPERIMENT}/decisions/{run_id}/{epoch}.json" in keys
        assert f"{EXPERIMENT}/candidates/{run_id}/{epoch}/unet/diffusion_pytorch_model.safetensors" in keys
    assert {f"{EXPERIMENT}/runs/{run_id}/{name}" for name in FILES_OF_A_RUN} <= keys
    artifacts = [key for key in keys if f"/runs/{run_id}/artifacts/" in key]
    stored = {key.split("/")[-3] for key in artifacts if key.endswith("/manifest.json")}
    assert {
        "fetch",
        "prepare",
        "baseline",
        "sample",
        "score",
        "update",
        "evaluate",
        "summarize",
    } <= stored
    assert pointer["candidate_id"] == f"{run_id}/epoch-0001"
    assert summary["promoted"] == pointer
    assert b"SUCCESS" in log


def test_a_second_run_goes_on_from_the_promoted_model(undisturbed, home, second):
    run = newest(home)
    about = json.loads((run / "summary" / "summary.json").read_text())["run"]
    assert about["started_from"] == f"{undisturbed.run_id}/epoch-0001"
    promoted = read_manifest(_output(undisturbed.folder, "update-2", "new_policy")).files
    started = read_manifest(_output(run, "prepare", "policy")).files
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert started[weights]["sha256"] == promoted[weights]["sha256"]
    first = json.loads((undisturbed.folder / "summary" / "summary.json").read_text())["run"]
    assert about["run_seed"] != first["run_seed"], "or it would draw the noise again that it has learned from"


def _output(run: Path, step: str, name: str) -> Path:
    (found,) = run.glob(f"artifacts/*/{step}/{name}")
    return found


def test_the_runs_are_listed_and_shown_with_their_lineage(undisturbed, home, ask):
    listed = json.loads(ask("runs", "list", "--json"))
    assert [(run["run_id"], run["status"]) for run in listed] == [
        (undisturbed.run_id, "finished"),
        (newest(home).name, "finished"),
    ]
    shown = json.loads(ask("runs", "show", newest(home).name, "--json"))
    assert shown["summary"]["run"]["started_from"] == f"{undisturbed.run_id}/epoch-0001"
    assert f"{undisturbed.run_id}/epoch-0001" in json.dumps(shown["lineage"])
    assert f"{undisturbed.run_id}/epoch-0001" in ask("runs", "show", newest(home).name)


def test_the_report_of_the_newest_run_is_found(home, ask):
    assert ask("report").strip() == str(newest(home) / "report.html")


def test_samples_of_promoted_model_and_base_show_the_same_noise_made_differently(ask, tmp_path):
    pictures = []
    for options in (("--from", "promoted"), ("--from", "base"), ("--strength", "0.1"), ("--steps", "9")):
        file = tmp_path / f"{options[1]}.png"
        ask("sample", "--experiment", EXPERIMENT, *options, "--num", "4", "-o", str(file))
        pictures.append(np.asarray(Image.open(file), dtype=float))
    promoted, base, tenth, other_steps = pictures
    assert promoted.shape == base.shape
    # A tenth of what was learnt changes less than all of it, and something.
    assert 0 < abs(tenth - base).mean() < abs(promoted - base).mean()
    assert abs(other_steps - promoted).mean() > 0


def test_the_front_of_a_finished_run_is_its_evaluation_at_strength_1_and_less_of_both_below(undisturbed, ask, tmp_path):
    """Kills: other seeds than the evaluation's, the strengths in another order."""
    picture = tmp_path / "front.svg"
    options = ("--experiment", EXPERIMENT, "--strengths", "1,0.5", "--json", "-o", str(picture))
    said = ask("front", undisturbed.run_id, *options)

    front = json.loads(said[said.index("{") :])
    half, whole = front["points"]
    summary = json.loads((undisturbed.folder / "summary" / "summary.json").read_text())
    evaluation = summary["epochs"][-1]["evaluation"]
    assert front["candidate_id"] == f"{undisturbed.run_id}/epoch-0001"
    assert (half["strength"], whole["strength"]) == (0.5, 1.0)
    assert whole["reward_vs_base"] == evaluation["reward_vs_base"]
    assert whole["diversity_ratio"] == evaluation["diversity"]["vendi_order2_ratio"]
    assert 0 < half["reward_vs_base"]["value"] < whole["reward_vs_base"]["value"]
    assert picture.read_text().startswith("<svg")


def test_the_keys_of_the_storage_are_in_no_file_but_the_servers_own(home, second):
    settings = home / "s3" / "s3.json"
    assert settings.stat().st_mode & 0o777 == 0o600
    keys = json.loads(settings.read_text())
    # The server's volumes among them hold every object as it is: logs and artifacts in the bucket, too.
    files = [file for file in home.rglob("*") if file.is_file() and file != settings]
    assert len(files) > 50
    assert [file for file in files if keys["secret_key"].encode() in file.read_bytes()] == []
    # The key's name, which is no secret by itself, is also in the server's log.
    named = [file for file in files if keys["access_key"].encode() in file.read_bytes()]
    assert {file.name for file in named} <= {"s3.log"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in named)
    assert keys["secret_key"] not in second.output
    assert keys["access_key"] not in second.output
