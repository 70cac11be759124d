"""`hrf study`: a study from beginning to end, cut off and gone on with, changed, and with an arm that fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hrf.study.table import COLUMNS, TABLE_PARQUET, read_table
from tests.e2e.commands import hrf, start

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
STUDY = """
description: DDPO, HRF, and HRF's weights sampled from half way on only
preset: avatars-smoke
overrides: {policy: {split: 0.0, prefix_pool: 0}, model: {batch_size: 4}}
budget: 300
points: 2
seeds: [1, 2]
reference: ddpo
rewards:
  small: {name: jpeg_compressibility}
arms:
  ddpo: {description: from noise, changes: {starts: {kind: noise, schedule: uniform, windows: []}}}
  hrf: {description: clean starts}
  hrf-split: {description: its weights from half way, changes: {policy: {split: 0.5}}, weights_of: hrf}
budgets:
  one: {seeds: [2]}
"""
#: A second one imports as much again, which takes longer than its runs.
ONE_WORKER = ("--workers", "1")
RUNS = {(arm, seed) for arm in ("ddpo", "hrf", "hrf-split") for seed in (1, 2)}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    (folder / "study.yaml").write_text(STUDY)
    return folder


def command(home: Path, output: str, *more: str) -> list[str]:
    return [
        *("study", str(home / "study.yaml"), "-o", str(home / output), "--work-dir", str(home / "work")),
        *("--workers", "2", *more),
    ]


@pytest.fixture(scope="module")
def straight(home) -> Path:
    """The folder of the study, run without a break."""
    said = hrf(*command(home, "straight"))
    assert said.exit_code == 0, said.output
    assert f"Table:     {home / 'straight' / 'table.csv'}" in said.output
    return home / "straight"


def numbers(folder: Path) -> pd.DataFrame:
    """The table without what differs between two runs of the same: its order and its times."""
    return read_table(folder).drop(columns="wall_seconds").sort_values(["arm", "seed", "point"]).reset_index(drop=True)


def test_a_study_leaves_a_row_for_every_run_and_point_with_the_same_base_for_all(straight):
    table = read_table(straight)

    assert {(arm, seed) for arm, seed in zip(table["arm"], table["seed"], strict=True)} == RUNS
    assert (table.groupby(["arm", "seed"])["point"].apply(list).map(lambda points: points[0])).eq(0).all()
    base = table[table["point"] == 0]
    assert base["reward"].nunique() == 1
    assert (base["vendi_order2_ratio"] == 1).all()
    trained = table[table["point"] > 0]
    assert trained["evaluations"].between(1, 1.1 * 300).all()
    assert (trained.groupby(["arm", "seed"])["evaluations"].max() > 0.6 * 300).all()
    assert (trained["reward"] != base["reward"].iloc[0]).all()
    assert set(COLUMNS) <= set(table.columns)
    pd.testing.assert_frame_equal(pd.read_parquet(straight / TABLE_PARQUET), table)


def test_a_control_shares_its_arms_training_and_is_sampled_otherwise(straight):
    table = read_table(straight).set_index(["arm", "seed", "point"])
    own, control = table.loc["hrf"], table.loc["hrf-split"]

    assert (own["evaluations"] == control["evaluations"]).all()
    assert (own["switch_step"] == 0).all()
    assert (control["switch_step"] == 3).all()
    assert (own["reward"] != control["reward"]).any()


def test_the_folder_holds_pictures_and_a_report_and_nothing_of_the_work(straight):
    pictures = {path.stem for path in (straight / "pictures").iterdir()}

    assert pictures == {"base", *(f"{arm}--small--{seed}" for arm, seed in RUNS)}
    assert Image.open(straight / "pictures" / "base.png").size[0] > 100
    assert "<html" in (straight / "report.html").read_text()
    assert not (straight / "scratch").exists()


def test_a_finished_study_does_nothing_more(home, straight):
    before = (straight / "table.csv").stat().st_mtime_ns

    said = hrf(*command(home, "straight"))

    assert said.exit_code == 0
    assert "done" not in said.output
    assert (straight / "table.csv").stat().st_mtime_ns == before


def test_a_killed_study_goes_on_seed_by_seed_without_repeating_finished_runs_and_gives_the_same_table(home, straight):
    """Killed, workers and all, when the first run is in the table and others are half-way. Kills: starting anew; seeds
    of another call dropped."""
    folder = home / "cut"
    process = start(*command(home, "cut"), output=home / "cut.log")
    try:
        while process.poll() is None and len(read_table(folder)) == 0:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = read_table(folder)
    assert 0 < len(first) < len(read_table(straight))

    finished = {f"{arm}--small--{seed}" for arm, seed in zip(first["arm"], first["seed"], strict=True)}
    for seed in ("2", "1"):
        said = hrf(*command(home, "cut", "--seed", seed))
        assert said.exit_code == 0, said.output
        assert not any(f"done  {name}" in said.output for name in finished)

    pd.testing.assert_frame_equal(numbers(folder), numbers(straight))
    kept = read_table(folder).merge(first, on=["arm", "seed", "point"], suffixes=("", "_first"))
    assert (kept["wall_seconds"] == kept["wall_seconds_first"]).all()


def test_a_changed_arm_is_not_mixed_with_rows_of_the_old_one(home, straight):
    changed = home / "changed.yaml"
    changed.write_text(STUDY.replace("clean starts", "clean starts, changes: {update: {learning_rate: 1e-5}}"))
    arguments = command(home, "straight")
    arguments[1] = str(changed)

    said = hrf(*arguments)

    assert said.exit_code == 3
    assert "--fresh" in said.output
    assert len(read_table(straight)) > 0


def test_an_arm_that_fails_is_told_and_leaves_the_others_alone_in_the_folder_of_a_smaller_form(home):
    """A rate that makes the weights infinite."""
    broken = home / "broken.yaml"
    broken.write_text(STUDY.replace("clean starts", "hopeless, changes: {update: {learning_rate: 1e30}}"))

    said = hrf("study", str(broken), "--budget", "one", "--work-dir", str(home / "work"), *ONE_WORKER)

    assert said.exit_code == 1
    assert "hrf--small--2" in said.output
    assert "NumericalError" in said.output
    table = read_table(home / "work" / "studies" / "broken-one")
    assert set(zip(table["arm"], table["seed"], strict=True)) == {("ddpo", 2)}


def test_the_window_study_runs_in_its_tiny_form(tmp_path):
    definition = Path(__file__).parents[2] / "benchmarks" / "studies" / "window.yaml"

    said = hrf("study", str(definition), "--budget", "tiny", "--work-dir", str(tmp_path), *ONE_WORKER)

    assert said.exit_code == 0, said.output
    table = read_table(tmp_path / "studies" / "window-tiny")
    assert set(table["arm"]) == {"ddpo", "hrf-clean", "hrf-clean-split-sampled"}
    assert (table.groupby("arm")["point"].apply(list).map(sorted) == [[0, 1, 2]] * 3).all()
    assert (table[table["point"] == 2]["evaluations"] > 100).all()


def test_presets_make_the_study_that_the_file_it_leaves_says(tmp_path):
    """Kills: rows, a page or runs of another kind than those of a file."""
    small = (
        "sampler.steps=6",
        "rollout.roots=2",
        "rollout.branches=2",
        "update.minibatch=4",
        "model.batch_size=4",
        "evaluation.num_samples=12",
    )
    settings = [word for setting in small for word in ("--set", setting)]
    presets = ("--preset", "avatars-ddpo", "--preset", "avatars-hrf")
    work = ("--work-dir", str(tmp_path), *ONE_WORKER)

    said = hrf("study", *presets, "--seeds", "2", "--budget", "300", *settings, *work)

    assert said.exit_code == 0, said.output
    folder = tmp_path / "studies" / "avatars-ddpo-and-avatars-hrf"
    table = read_table(folder)
    runs = set(zip(table["arm"], table["reward_name"], table["seed"], strict=True))
    assert runs == {(arm, "jpeg-compressibility", seed) for arm in ("avatars-ddpo", "avatars-hrf") for seed in (1, 2)}
    assert "avatars-ddpo" in (folder / "report.html").read_text()

    said = hrf("study", str(folder / "study.yaml"), "-o", str(folder), *work)

    assert said.exit_code == 0, said.output
    pd.testing.assert_frame_equal(read_table(folder), table)


@pytest.mark.parametrize(("option", "value"), [("--arm", "hrff"), ("--reward", "large"), ("--seed", "3")])
def test_a_name_that_the_study_does_not_have_is_refused(home, option, value):
    said = hrf(*command(home, "none", option, value))

    assert said.exit_code == 3
    assert option in said.output
    assert not (home / "none").exists()
