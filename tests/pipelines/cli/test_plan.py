"""`hrf plan`, for every preset, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

from hrf.config import list_presets, resolve
from hrf.storage.objects import Storage
from hrf_pipelines.cli.main import app
from hrf_pipelines.cli.plan import amount, duration
from tests.docs.pages import PAGES
from tests.e2e.commands import PATIENCE_SECONDS
from tests.hrf.planning.test_footprint import PIXELS

UNKNOWN = ["--set", "model.source=hf:somebody/some-model", "--set", f"model.revision={'0' * 40}"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def planned(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["plan", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _by_speed() -> list[Any]:
    """Counting a large model takes seconds."""
    large = pytest.mark.slow
    names = [preset.name for preset in list_presets()]
    return [pytest.param(name, marks=() if name.startswith("avatars") else large) for name in names]


@pytest.mark.parametrize("preset", _by_speed())
def test_every_preset_has_a_plan(preset):
    found = planned(preset)
    assert found["total"]["evaluations"] > 0
    assert found["total"]["flops"] >= found["total"]["evaluations"] * found["forward_flops"]
    assert found["total"]["seconds"] > 0
    # All presets are made for one GPU.
    assert max(found["memory_bytes"]["sample"], update_bytes(preset, found)) < found["gpu_memory_bytes"]
    assert found["assumptions"]


@pytest.mark.parametrize("preset", _by_speed())
def test_the_page_says_what_the_command_says(preset):
    """Kills: a row of an earlier default, of an earlier way to count, or of no preset."""
    a100, h100 = planned(preset), planned(preset, "--gpu", "h100")
    told = [
        f"`{preset}`",
        *(amount(number) for number in (a100["num_parameters"], a100["forward_flops"], a100["total"]["flops"])),
        *(duration(found["total"]["seconds"]) for found in (a100, h100)),
        f"{amount(update_bytes(preset, a100))}B",
    ]
    assert told in _rows()


def test_the_page_has_a_row_for_every_preset_and_no_other():
    assert [row[0] for row in _rows()] == [f"`{preset.name}`" for preset in list_presets()]


def update_bytes(preset: str, found: dict[str, Any]) -> int:
    """The update's memory by the preset's own settings."""
    checkpointed = resolve(preset).model.gradient_checkpointing
    return found["memory_bytes"]["update_checkpointed" if checkpointed else "update"]


def _rows() -> list[list[str]]:
    """Of the page's table of plans."""
    table = PAGES["docs/plan.md"].split("<!-- plans -->")[1].split("<!-- /plans -->")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]


def test_it_says_what_a_cluster_takes_beside_the_work():
    found = planned("avatars-compressibility")["cluster"]
    assert found["epochs_per_step"] == 10
    assert found["overhead_seconds"] == 25 * found["tasks"] == 25 * 11
    text = CliRunner().invoke(app, ["plan", "avatars-compressibility"]).output
    assert "On a cluster: 11 tasks with 10 epochs a step; their pods take up to 5 min beside the work." in text


def test_it_is_told_in_words(monkeypatch):
    result = CliRunner().invoke(app, ["plan", "avatars-compressibility", "--gpu", "h100"])
    assert result.exit_code == 0
    for words in (
        "2.74 M parameters",
        "764 MFLOPs",
        "H100",
        "window 5-7: update",
        "trajectories",
        "* a backward pass",
    ):
        assert words in result.output


def test_settings_and_options_change_it():
    short, long = (planned("avatars-smoke", "--epochs", number) for number in ("2", "4"))
    assert long["total"]["flops"] > short["total"]["flops"]
    assert planned("avatars-smoke", "--utilisation", "0.1")["total"] == short["total"]  # It is made of small calls.
    wide = planned("avatars-smoke", "--set", "update.microbatch=16")
    assert wide["memory_bytes"]["update_activations"] == 2 * short["memory_bytes"]["update_activations"]


def test_a_model_that_nobody_knows_needs_the_network_for_its_configuration():
    result = CliRunner().invoke(app, ["plan", "celebahq-compressibility", *UNKNOWN])
    assert result.exit_code == 6
    assert "hf:somebody/some-model" in result.output


def test_of_a_folder_or_a_bucket_only_the_configuration_is_read(tmp_path, storage: Storage, storage_uri: str):
    files = {
        "unet/config.json": PIXELS,
        "scheduler/scheduler_config.json": {"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_start": 0.0001},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
        storage.upload_file(tmp_path / name, name)
    overrides = ["--set", "evaluation.classifier=''", "--set", "evaluation.features=pixels"]
    overrides += ["--set", "gate.monitors.unrecognised_fraction=null"]
    local, remote = (
        planned("avatars-smoke", "--set", f"model.source={source}", *overrides) for source in (tmp_path, storage_uri)
    )
    assert local == remote
    (tmp_path / "unet" / "config.json").write_text("{")
    result = CliRunner().invoke(app, ["plan", "avatars-smoke", "--set", f"model.source={tmp_path}", *overrides])
    assert result.exit_code == 4
    assert "config.json" in result.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["no-such-preset"], 3), (["avatars-smoke", "--gpu", "abacus"], 3), (["avatars-smoke", "--utilisation", "2"], 3)],
)
def test_what_cannot_be_planned_is_told(arguments, code):
    assert CliRunner().invoke(app, ["plan", *arguments]).exit_code == code


def test_nothing_is_loaded_before_it_is_asked_for():
    program = "import sys; import hrf_pipelines.cli.main; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 "), (999, "999 "), (999.6, "1 k"), (803273441280, "803 G")],
)
def test_amounts_have_three_digits(number, words):
    assert amount(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.123, "0.12 s"), (12.3, "12 s"), (59.7, "60 s"), (89, "1 min"), (3599, "1 h 0 min"), (97140, "26 h 59 min")],
)
def test_durations_have_two_units(seconds, words):
    assert duration(seconds) == words
