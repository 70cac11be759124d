"""`hrf compare-runs`."""

from __future__ import annotations

import copy
import csv
import json

import pytest

from hrf.errors import ConfigError
from hrf.promotion.records import RunSummary
from hrf.steps.summarize import closing_metrics
from hrf_pipelines.cli.run_comparison import COUNTS, REWARD_METRICS, as_plain, compare
from hrf_pipelines.local.run_state import RunFolder
from tests.hrf.summary_folders import summary_record, write_summary
from tests.kfp_api import plays
from tests.pipelines.conftest import clean_environment, hrf, kfp, start, words  # noqa: F401

ASKED = {"experiment": "e", "fingerprint": "f", "arguments": {"storage": "s3://b"}, "package": "x", "title": "t"}


def typed(**summaries):
    return {name: RunSummary.parse(summary, name) for name, summary in summaries.items()}


def _changed(summary, **sections):
    changed = copy.deepcopy(summary)
    for section, values in sections.items():
        changed["config"][section] |= values
    return changed


@pytest.fixture
def first():
    return summary_record()


@pytest.fixture
def better():
    return summary_record(gains=(0.04, 0.09, 0.15, 0.21, 0.35))


def test_metrics_stand_side_by_side_with_the_difference_to_the_first(first, better):
    ours, theirs = as_plain(compare(typed(one=first, two=better)))
    assert (ours["run"], theirs["run"]) == ("one", "two")
    assert theirs["metrics"] == closing_metrics(RunSummary.parse(better, "here"))
    assert theirs["difference"]["reward"] == pytest.approx(0.05)
    assert theirs["difference"]["vendi_order2_ratio"] == pytest.approx(-0.03)
    assert theirs["difference"]["num_promotions"] == 0
    assert set(ours["difference"].values()) == {0.0}
    assert theirs["reasons"] == []


@pytest.mark.parametrize(
    ("sections", "said", "incomparable"),
    [
        ({"reward": {"quality": 80}}, "reward.quality 80 (not 95)", REWARD_METRICS),
        ({"evaluation": {"num_samples": 64}}, "evaluation.num_samples 64 (not 192)", None),
        ({"evaluation": {"seed": 3}}, "evaluation.seed 3 (not None)", None),
        ({"model": {"source": "hf:a/b"}}, "model.source hf:a/b (not shipped:avatars-32)", None),
        ({"sampler": {"steps": 50}}, "sampler.steps 50 (not 20)", None),
    ],
)
def test_what_was_measured_differently_is_not_compared_and_it_is_said_why(first, better, sections, said, incomparable):
    _, theirs = as_plain(compare(typed(one=first, two=_changed(better, **sections))))
    assert any(said in reason for reason in theirs["reasons"])
    measured = set(theirs["metrics"]) - COUNTS
    assert set(theirs["not_comparable"]) == (measured if incomparable is None else incomparable)
    assert theirs["difference"]["reward"] is None
    assert theirs["difference"]["num_epochs"] == 0


@pytest.mark.parametrize(
    "sections", [{"evaluation": {"every": 3}}, {"update": {"learning_rate": 1.0}}, {"model": {"batch_size": 2}}]
)
def test_what_does_not_change_the_measuring_is_compared(first, better, sections):
    _, theirs = compare(typed(one=first, two=_changed(better, **sections)))
    assert theirs.reasons == ()


def test_another_base_of_the_same_name_is_noticed(first, better):
    better["base"]["reward"]["value"] += 0.1
    _, theirs = compare(typed(one=first, two=better))
    assert "its base has another reward" in theirs.reasons[0]


def test_hardware_that_rounds_differently_is_not_another_base(first, better):
    better["base"]["reward"]["value"] *= 1 + 1e-6
    assert compare(typed(one=first, two=better))[1].reasons == ()


@pytest.mark.parametrize("count", [1, 11])
def test_too_few_and_too_many_runs_are_refused(first, count):
    with pytest.raises(ConfigError, match="2 to 10"):
        compare(typed(**{str(number): first for number in range(count)}))


@pytest.fixture
def finished(tmp_path):
    """Makes a finished run of the work directory from a summary; returns its id."""

    def make(summary):
        folder = RunFolder.create(tmp_path / "runs", **ASKED)
        folder.change(status="finished")
        write_summary(folder.summary, summary, has_grids=False)
        return folder.path.name

    return make


def test_runs_of_this_machine_are_compared(hrf, finished, first, better, tmp_path):  # noqa: F811
    runs = [finished(first), finished(_changed(better, reward={"quality": 80}))]
    command = ("compare-runs", *runs, "--work-dir", str(tmp_path))
    result = hrf(*command, "--csv", str(tmp_path / "runs.csv"))
    assert result.exit_code == 0, result.output
    said = words(result)
    assert "reward -0.9770 -0.9270 (not comparable)" in said
    assert "vendi_order2_ratio 0.8200 0.7900 (-0.0300)" in said
    assert f"Not comparable: {runs[1]}: measured with another reward: reward.quality 80 (not 95)" in said
    lines = list(csv.reader((tmp_path / "runs.csv").open()))
    assert lines[0] == ["metric", *runs]
    assert {line[0]: line[1:] for line in lines}["num_epochs"] == ["5", "5"]
    assert [run["run"] for run in json.loads(hrf(*command, "--json").stdout)] == runs


def test_a_run_beside_itself_is_no_comparison(hrf, finished, first, tmp_path):  # noqa: F811
    run = finished(first)
    result = hrf("compare-runs", run, run, "--work-dir", str(tmp_path))
    assert result.exit_code == 3
    assert "2 to 10 different runs" in words(result)


def test_a_run_that_has_not_finished_is_told(hrf, finished, first, tmp_path):  # noqa: F811
    unfinished = RunFolder.create(tmp_path / "runs", **ASKED).path.name
    result = hrf("compare-runs", finished(first), unfinished, "--work-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "finish the run first" in words(result)


def test_a_file_that_can_not_be_written_is_told(hrf, finished, first, better, tmp_path):  # noqa: F811
    runs = [finished(first), finished(better)]
    result = hrf("compare-runs", *runs, "--work-dir", str(tmp_path), "--csv", "/nowhere/at/all.csv")
    assert result.exit_code == 3
    assert "/nowhere/at/all.csv" in words(result)


def test_runs_of_a_cluster_are_compared(hrf, kfp, start, storage, storage_uri, first, better):  # noqa: F811
    kfp.state.plays = plays.run_to_end
    for tag, summary in (("one", first), ("two", better)):
        storage.create_json(f"default/runs/{tag}/summary.json", summary)
        start(tag, storage=storage_uri)
    compared = json.loads(hrf("compare-runs", "one", "two", "--cluster", "--json").stdout)
    assert [run["run"] for run in compared] == ["one", "two"]
    assert compared[1]["difference"]["reward"] == pytest.approx(0.05)


def test_a_run_of_a_cluster_without_a_summary_is_told(hrf, kfp, start, storage, storage_uri, first):  # noqa: F811
    storage.create_json("default/runs/one/summary.json", first)
    for tag in ("one", "two"):
        start(tag, storage=storage_uri)
    result = hrf("compare-runs", "one", "two", "--cluster")
    assert result.exit_code == 4
    assert "run two is pending, and has left no summary" in words(result)


def test_a_bucket_that_can_not_be_read_is_a_storage_error(hrf, kfp, start):  # noqa: F811
    start("one")
    start("two")
    result = hrf("compare-runs", "one", "two", "--cluster")
    assert result.exit_code == 6
    assert "AWS_ACCESS_KEY_ID" in words(result)


def test_options_of_a_cluster_are_refused_without_it(hrf):  # noqa: F811
    assert hrf("compare-runs", "a", "b", "--host", "http://x").exit_code == 3
