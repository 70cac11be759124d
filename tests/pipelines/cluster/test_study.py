"""`hrf study --cluster`: every run of a study is a run of Kubeflow, and the table is the one of a single machine."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from hrf.promotion.records import RunSummary
from hrf.promotion.runs import RunRecords
from hrf.storage.objects import Storage
from hrf.study.table import read_table
from tests.e2e import commands
from tests.hrf.run_ends import failure_of, status_of
from tests.hrf.summary_folders import summary_record
from tests.kfp_api.server import Trouble
from tests.pipelines.cluster.computing import at_work
from tests.pipelines.conftest import words

pytestmark = pytest.mark.slow

STUDY = """
description: clean starts, their weights sampled otherwise, and a run that is held above a floor
preset: avatars-smoke
overrides: {policy: {split: 0.0, prefix_pool: 0}, model: {batch_size: 4}, sampler: {steps: 9}}
budget: 300
points: 2
seeds: [1, 2]
reference: hrf
rewards:
  small: {name: jpeg_compressibility}
  large: {name: jpeg_incompressibility}
arms:
  hrf: {description: clean starts}
  hrf-split: {description: its weights from half way, changes: {policy: {split: 0.5}}, weights_of: hrf}
  floor:
    description: from half way, held above a floor
    changes:
      starts: {schedule: fixed, windows: [{fractions: [0.5, 1.0]}]}
      policy: {split: 0.5}
      update: {learning_rate: 1e-3}
      diversity_floor: 0.95
budgets:
  one: {rewards: [small], seeds: [1]}
"""
ARMS, REWARDS, SEEDS = ("hrf", "floor"), ("small", "large"), (1, 2)
RUNS = [f"{arm}--{reward}--{seed}" for seed in SEEDS for reward in REWARDS for arm in ARMS]


@pytest.fixture
def study(hrf, kfp, storage_uri, tmp_path):
    """Runs `hrf study --cluster`; the table is in the folder `there`."""
    (tmp_path / "study.yaml").write_text(STUDY)
    where = ("-o", str(tmp_path / "there"), "--work-dir", str(tmp_path / "work"), "--storage", storage_uri)
    return lambda *options: hrf(
        "study", str(tmp_path / "study.yaml"), "--cluster", "--poll", "0.05", *where, *options, catch_exceptions=False
    )


def parameters_of(run):
    return run["runtime_config"]["parameters"]


def name_of(run):
    """Of the study's run that a Kubeflow run is an attempt at."""
    return parameters_of(run)["run_tag"].rpartition("--")[0]


def write_summaries(run):
    """Leave in the bucket what a run does that has done all its epochs."""
    given = parameters_of(run)
    for control in (
        "",
        *(f"--{name[len('overrides_') :].replace('_', '-')}" for name in given if "overrides_" in name),
    ):
        record = summary_record(gains=tuple(0.01 * epoch for epoch in range(30)))
        for epoch in record["epochs"]:
            epoch["evaluation"] = epoch["evaluation"] or record["epochs"][0]["evaluation"]
            epoch["decision"] = epoch["decision"] or record["epochs"][0]["decision"]
            epoch["steering"] = None
        records = RunRecords(
            storage=Storage.open(given["storage"]),
            experiment=f"{given['experiment']}{control}",
            run_id=given["run_tag"],
        )
        records.write_summary(RunSummary.parse(json.loads(json.dumps(record)), "test"))
    return "SUCCEEDED"


def test_every_run_is_a_run_of_one_experiment_so_many_at_once(study, kfp, tmp_path):
    at_once = []

    def unfinished():
        return sum(run["state"] not in ("SUCCEEDED", "FAILED") for run in kfp.state.runs)

    def work(run):
        commands.wait_for(lambda: unfinished() >= min(3, len(RUNS) - len(at_once)))
        time.sleep(0.3)  # Enough for a fourth to be started.
        at_once.append(unfinished())
        return write_summaries(run)

    with at_work(kfp, work):
        result = study("--parallel", "3")

    assert result.exit_code == 0, result.output
    assert [experiment["display_name"] for experiment in kfp.state.experiments] == ["study-study"]
    assert sorted(name_of(run) for run in kfp.state.runs) == sorted(RUNS)
    assert len({parameters_of(run)["run_tag"] for run in kfp.state.runs}) == len(RUNS)
    assert max(at_once) == 3
    table = read_table(tmp_path / "there")
    assert set(zip(table["arm"], table["reward_name"], table["seed"], strict=True)) == {
        (arm, reward, seed) for arm in (*ARMS, "hrf-split") for reward in REWARDS for seed in SEEDS
    }
    assert (tmp_path / "there" / "report.html").is_file()


def test_presets_are_runs_of_one_experiment_too(hrf, kfp, storage_uri, tmp_path):
    presets = ("--preset", "avatars-ddpo", "--preset", "avatars-hrf", "--seeds", "1", "--budget", "9000")
    where = ("-o", str(tmp_path / "there"), "--work-dir", str(tmp_path / "work"), "--storage", storage_uri)
    with at_work(kfp, write_summaries):
        result = hrf("study", *presets, "--reward", "jpeg_incompressibility", "--cluster", "--poll", "0.05", *where)
    assert result.exit_code == 0, result.output
    assert [experiment["display_name"] for experiment in kfp.state.experiments] == [
        "study-avatars-ddpo-and-avatars-hrf"
    ]
    assert set(read_table(tmp_path / "there")["arm"]) == {"avatars-ddpo", "avatars-hrf"}
    assert {name_of(run) for run in kfp.state.runs} == {
        f"{arm}--jpeg-incompressibility--1" for arm in ("avatars-ddpo", "avatars-hrf")
    }


def test_runs_of_one_shape_are_runs_of_one_package(study, kfp):
    """Kills: a seed, a reward or a run's name that is compiled into the package."""
    with at_work(kfp, write_summaries):
        study()
    versions = {
        arm: {run["pipeline_version_reference"]["pipeline_version_id"] for run in kfp.state.runs if arm in name_of(run)}
        for arm in ARMS
    }
    assert [len(each) for each in versions.values()] == [1, 1]
    assert len(kfp.state.versions) == 2
    assert len({json.dumps(parameters_of(run)) for run in kfp.state.runs}) == len(RUNS)


def test_given_again_it_starts_nothing_that_is_finished_and_reads_the_bucket_where_its_table_is_gone(
    study, kfp, tmp_path
):
    with at_work(kfp, write_summaries):
        study("--seed", "1")
        first = len(kfp.state.runs)
        result = study()
    assert result.exit_code == 0, result.output
    assert (first, len(kfp.state.runs)) == (4, 8)
    before = read_table(tmp_path / "there")

    (tmp_path / "there" / "table.csv").unlink()
    assert study().exit_code == 0

    assert len(kfp.state.runs) == 8
    key = ["arm", "reward_name", "seed", "point"]
    pd.testing.assert_frame_equal(
        *(table.sort_values(key).reset_index(drop=True) for table in (before, read_table(tmp_path / "there")))
    )


def test_killed_it_goes_on_and_follows_what_is_at_work(study, kfp, storage_uri, s3_environment, tmp_path):
    """Killed with two runs at work, and given again with one at once: it follows both. Kills: a second start."""
    variables = {**s3_environment, "HRF_KFP_HOST": kfp.url, "KUBECONFIG": "/nonexistent"}
    options = ("-o", str(tmp_path / "there"), "--work-dir", str(tmp_path / "work"), "--storage", storage_uri)
    command = ("study", str(tmp_path / "study.yaml"), "--cluster", "--parallel", "2", "--poll", "0.05", *options)
    process = commands.start(*command, output=tmp_path / "log", variables=variables)
    try:
        commands.wait_for(lambda: len(kfp.state.runs) == 2 or process.poll() is not None)
    finally:
        commands.kill(process.pid)
        process.wait()
    assert len(kfp.state.runs) == 2, (tmp_path / "log").read_text()
    kfp.sent.clear()

    def work(run):
        commands.wait_for(lambda: kfp.calls("GET", f"/runs/{run['run_id']}"))
        return write_summaries(run)

    with at_work(kfp, work):
        result = study("--parallel", "1")

    assert result.exit_code == 0, result.output
    assert words(result).count("at work ") == 2
    assert Counter(name_of(run) for run in kfp.state.runs) == Counter(RUNS)


def failing(storage_uri, error_type, *, times):
    """Work in which a run fails so often, in its step `train`."""
    seen: Counter[str] = Counter()

    def work(run):
        given = parameters_of(run)
        name = name_of(run)
        seen[name] += 1
        if name == RUNS[1] and seen[name] <= times:
            status = status_of(given["run_tag"], failures=[failure_of("train", 3, error_type, "the store is away")])
            records = RunRecords(
                storage=Storage.open(given["storage"]), experiment=given["experiment"], run_id=given["run_tag"]
            )
            records.write_status(status)
            return "FAILED"
        return write_summaries(run)

    return work


def test_a_failed_run_is_gone_on_with_and_told(study, kfp, storage_uri):
    with at_work(kfp, failing(storage_uri, "StorageError", times=2)):
        result = study("--budget", "one")
    assert result.exit_code == 0, result.output
    attempts = [run for run in kfp.state.runs if name_of(run) == RUNS[1]]
    assert len(attempts) == 3
    assert len({json.dumps(parameters_of(run)) for run in attempts}) == 1
    told = f"resumed {RUNS[1]}: train, epoch 3: StorageError: the store is away. It goes on as "
    assert words(result).count(told) == 2
    assert all(run["run_id"] in words(result) for run in attempts)


@pytest.mark.parametrize(
    ("error_type", "options", "attempts"),
    [("StorageError", (), 3), ("StorageError", ("--resumes", "0"), 1), ("ConfigError", (), 1)],
)
def test_it_gives_a_run_up_after_that_and_leaves_the_others_alone(
    study, kfp, storage_uri, tmp_path, error_type, options, attempts
):
    """Kills: going on for ever; going on with what its own settings end; the others given up with it."""
    with at_work(kfp, failing(storage_uri, error_type, times=9)):
        result = study("--budget", "one", *options)
    assert result.exit_code == 1
    assert f"{RUNS[1]}: train, epoch 3: {error_type}: the store is away" in words(result)
    assert sum(name_of(run) == RUNS[1] for run in kfp.state.runs) == attempts
    assert set(read_table(tmp_path / "there")["arm"]) == {"hrf", "hrf-split"}

    with at_work(kfp, write_summaries):
        result = study("--budget", "one")

    assert result.exit_code == 0, result.output
    assert sum(name_of(run) == RUNS[1] for run in kfp.state.runs) == attempts + 1
    assert set(read_table(tmp_path / "there")["arm"]) == {"hrf", "hrf-split", "floor"}


def test_an_answer_that_is_lost_starts_no_run_twice(study, kfp):
    """The gateway fails after the server has started the run, and for a while after that. Kills: a second start."""
    answer, lost = kfp.answer, []

    def lose_one(request, authorization):
        status, body = answer(request, authorization)
        if request.method == "POST" and request.path.endswith("/runs") and not lost:
            lost.append(body)
            return 503, {"code": 14, "message": "upstream connect error", "details": []}
        return status, body

    kfp.answer = lose_one
    kfp.troubles = [Trouble(status=503) for _ in range(2)]
    with at_work(kfp, write_summaries):
        result = study("--budget", "one")
    assert result.exit_code == 0, result.output
    assert len(lost) == 1
    assert len(kfp.state.runs) == 2


def test_a_run_that_succeeded_and_whose_records_are_gone_is_told(study, kfp, storage_uri):
    with at_work(kfp, lambda _: "SUCCEEDED"):
        result = study("--budget", "one")
    assert result.exit_code == 1
    assert "has not all of its summaries" in words(result)
    assert f"{storage_uri}/studies/study-one/hrf--small--1--" in words(result)
    assert len(kfp.state.runs) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--workers", "2", "--cluster"), "--workers"),
        (("--bucket", "mine", "--cluster"), "--bucket"),
        (("--parallel", "2"), "--parallel"),
        (("--resumes", "0"), "--resumes"),
        (("--placement", "gpu"), "--placement"),
    ],
)
def test_options_of_the_other_place_are_refused(hrf, kfp, tmp_path, options, named):
    (tmp_path / "study.yaml").write_text(STUDY)
    result = hrf("study", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "there"), *options)
    assert result.exit_code == 3
    assert named in words(result)
    assert kfp.sent == []
    assert not (tmp_path / "there").exists()


def test_a_bucket_that_is_not_within_reach_is_told_before_anything_is_started(study, kfp, clean_environment):
    clean_environment.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    result = study()
    assert result.exit_code != 0
    assert "127.0.0.1:1" in words(result)
    assert kfp.state.runs == []


@pytest.mark.e2e
def test_a_study_there_has_the_rows_of_one_here_though_a_run_was_cut_off(study, kfp, pods, s3_environment, tmp_path):
    """The packages are what a cluster gets, and are computed here. Kills: another measurement, noise, incumbent or
    digest than on one machine; a switch step that is read off another place; work done twice."""
    computed: list[tuple[str, list[str]]] = []
    cut = ["evaluate"]

    def work(run):
        fail_at = cut.pop() if cut else ""
        computed.append((name_of(run), pods.compute(kfp, run, tmp_path, s3_environment, fail_at)))
        return "FAILED" if fail_at else "SUCCEEDED"

    # Looked after each second: what looks more often takes more of this machine than the runs themselves.
    patiently = ("--budget", "one", "--poll", "1")
    with at_work(kfp, work):
        cut_off = study(*patiently, "--arm", "hrf", "--resumes", "0")
        assert cut_off.exit_code == 1
        assert "hrf--small--1" in words(cut_off)
        result = study(*patiently)
    assert result.exit_code == 0, result.output
    assert "resumed hrf--small--1: it was failed" in words(result)
    one = "hrf--small--1"
    assert [name for name, _ in computed] == [one, one, "floor--small--1"]
    assert not {"fetch", "prepare", "baseline"} & set(computed[1][1])

    arguments = ("study", str(tmp_path / "study.yaml"), "--budget", "one", "-o", str(tmp_path / "here"))
    said = commands.hrf(*arguments, "--work-dir", str(tmp_path / "work"), "--workers", "2")
    assert said.exit_code == 0, said.output
    here, there = (numbers(tmp_path / folder) for folder in ("here", "there"))
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    assert set(zip(here["arm"], here["point"], strict=True)) == {
        (arm, point) for arm in ("hrf", "hrf-split", "floor") for point in range(3)
    }
    assert here[here["arm"] == "floor"]["switch_step"].nunique() > 1, "the floor moved nothing: a test of little"
    for folder in ("pictures", "decisions"):
        assert contents(tmp_path / "there" / folder) == contents(tmp_path / "here" / folder) != {}


def numbers(folder: Path) -> pd.DataFrame:
    """The table without what differs between two runs of the same: its order and its times.

    Storage keeps the classes that a record counts in alphabetical order.
    """
    table = read_table(folder).drop(columns="wall_seconds").sort_index(axis="columns")
    return table.sort_values(["arm", "seed", "point"]).reset_index(drop=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
