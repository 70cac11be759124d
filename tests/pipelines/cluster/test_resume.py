"""`hrf runs resume` and `hrf submit --wait --resumes`: a run that did not end well goes on under its own id."""

from __future__ import annotations

import pytest

from hrf.promotion.records import RunStart
from hrf.promotion.runs import RunRecords
from hrf.storage.objects import Storage
from tests.hrf.run_ends import failure_of, status_of
from tests.kfp_api import plays
from tests.pipelines.conftest import SMOKE, words

pytestmark = pytest.mark.slow

STORAGE = ("--storage", "s3://bucket/hrf")
WAIT = ("--wait", "--poll", "0.01")
#: The steps of the small run, as their components are called, in order.
STEPS = ("fetch", "prepare", "baseline", "sample", "score", "update", "evaluate", "summarize")


def submitted(hrf, kfp, *options):
    assert hrf("submit", *SMOKE, *(options or STORAGE)).exit_code == 0
    return kfp.state.runs[-1]


def ended(kfp, run, state="FAILED"):
    run["state"] = state
    run["finished_at"] = kfp.state.now()
    return run


def started(storage_uri, run, **changes):
    """What the first step of a run puts on record."""
    about = {"run_id": run["run_id"], "experiment": "default", "config_digest": "c", "preset": "avatars-smoke"}
    origin = {"started_from": None, "started_from_sequence": None, "incumbent": None}
    start = RunStart(**{**about, **origin, "noise_tag": "", "code": "0", "created": "2026-01-01T00:00:00Z", **changes})
    records = RunRecords(storage=Storage.open(storage_uri), experiment="default", run_id=start.run_id)
    records.begin(start)


def test_a_failed_run_goes_on_in_a_new_one_that_differs_in_its_tag_alone(hrf, kfp):
    first = ended(kfp, submitted(hrf, kfp, *STORAGE, "--service-account", "mine"))

    result = hrf("runs", "resume", first["run_id"][:8])

    assert result.exit_code == 0, result.output
    second = kfp.state.runs[-1]
    assert second["run_id"] != first["run_id"]
    for name in ("pipeline_version_reference", "experiment_id", "service_account"):
        assert second[name] == first[name]
    before, after = (run["runtime_config"]["parameters"] for run in (first, second))
    assert after["run_tag"] == first["run_id"]
    assert {**after, "run_tag": ""} == {**before, "noise_tag": ""}
    assert "Kubeflow's cache" in words(result)


def test_a_scheduled_run_keeps_the_noise_that_its_first_attempt_drew(hrf, kfp):
    """Kubeflow leaves macros unexpanded; the first attempt fills them with its own id, which a second has not."""
    hrf("schedule", *SMOKE, "--cron", "0 0 3 * * *", *STORAGE, "--name", "nightly", "--yes")
    first = ended(kfp, kfp.state.fire("nightly", expand=False))
    assert "[[ScheduledTime]]" in first["runtime_config"]["parameters"]["noise_tag"]

    assert hrf("runs", "resume", first["run_id"]).exit_code == 0

    given = kfp.state.runs[-1]["runtime_config"]["parameters"]
    assert given["noise_tag"] == first["runtime_config"]["parameters"]["noise_tag"].replace(
        "[[ScheduledTime]]", first["run_id"]
    )
    assert given["run_tag"].endswith(first["run_id"])


def test_what_the_run_has_on_record_counts_more_than_what_kubeflow_shows(hrf, kfp, storage_uri):
    first = ended(kfp, submitted(hrf, kfp, "--storage", storage_uri))
    started(storage_uri, first, noise_tag="monday")
    assert hrf("runs", "resume", first["run_id"]).exit_code == 0
    assert kfp.state.runs[-1]["runtime_config"]["parameters"]["noise_tag"] == "monday"


def test_a_resumed_run_can_be_resumed(hrf, kfp):
    first = ended(kfp, submitted(hrf, kfp))
    hrf("runs", "resume", first["run_id"])
    second = ended(kfp, kfp.state.runs[-1])
    assert hrf("runs", "resume", second["run_id"]).exit_code == 0
    third = kfp.state.runs[-1]
    assert third["runtime_config"]["parameters"]["run_tag"] == first["run_id"]
    assert third["display_name"] == second["display_name"] == f"{first['display_name']} (resumed)"


@pytest.mark.parametrize(
    ("state", "said"), [("SUCCEEDED", "has succeeded"), ("RUNNING", "still running"), ("PENDING", "still pending")]
)
def test_a_run_that_is_done_or_at_work_is_not_resumed(hrf, kfp, state, said):
    first = ended(kfp, submitted(hrf, kfp), state)
    result = hrf("runs", "resume", first["run_id"])
    assert result.exit_code != 0
    assert said in words(result)
    assert len(kfp.state.runs) == 1


def test_a_run_whose_end_kubeflow_has_missed_is_resumed(hrf, kfp, storage, storage_uri):
    first = ended(kfp, submitted(hrf, kfp, "--storage", storage_uri), "RUNNING")
    status = status_of(first["run_id"], problem="its pod was deleted")
    storage.create_json(f"default/runs/{first['run_id']}/status.json", status.as_json())
    result = hrf("runs", "resume", first["run_id"])
    assert result.exit_code == 0, result.output


def test_a_run_of_another_pipeline_is_not_resumed(hrf, kfp, start):
    other = ended(kfp, kfp.state.get_run(start("mine").run_id))
    reference = other["pipeline_version_reference"]
    version = next(
        each for each in kfp.state.versions if each["pipeline_version_id"] == reference["pipeline_version_id"]
    )
    spec = version["pipeline_spec"].get("pipeline_spec") or version["pipeline_spec"]
    del spec["root"]["inputDefinitions"]["parameters"]["run_tag"]
    other["runtime_config"]["parameters"].pop("run_tag", None)
    result = hrf("runs", "resume", other["run_id"])
    assert "none of the pipeline hrf-finetune" in words(result)


def test_waiting_goes_on_with_a_run_as_often_as_it_was_told(hrf, kfp):
    frames = iter([plays.failing("evaluate"), plays.failing("summarize"), plays.run_to_end])
    kfp.state.plays = lambda spec: next(frames)(spec)
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT, "--resumes", "2")
    assert result.exit_code == 0, result.output
    first, second, third = kfp.state.runs
    tags = [run["runtime_config"]["parameters"]["run_tag"] for run in (second, third)]
    assert tags == [first["run_id"]] * 2
    assert words(result).count("Going on with it as") == 2


def test_waiting_gives_up_after_that(hrf, kfp):
    kfp.state.plays = plays.failing("evaluate")
    result = hrf("submit", *SMOKE, *STORAGE, *WAIT, "--resumes", "1")
    assert result.exit_code == 1
    assert len(kfp.state.runs) == 2


@pytest.mark.parametrize(
    ("problem", "error_type", "resumed"),
    [
        ("", "ConfigError", False),
        ("", "StorageError", True),
        ("out of memory at 300Mi", "", False),
    ],
)
def test_what_another_attempt_would_meet_again_is_not_tried_again(
    hrf, kfp, storage, storage_uri, problem, error_type, resumed
):
    """Kills: resumes without end of a run that its own settings end."""
    failures = [failure_of("update", 0, error_type, "something")] if error_type else []
    status = status_of("my-run", problem=problem, failures=failures)
    if problem:
        status = status.model_copy(update={"reasons": [status.reasons[0].model_copy(update={"kind": "memory"})]})
    storage.create_json("default/runs/my-run/status.json", status.as_json())
    kfp.state.plays = plays.failing("update")
    hrf("submit", *SMOKE, "--storage", storage_uri, "--run-tag", "my-run", *WAIT, "--resumes", "1")
    assert len(kfp.state.runs) == 1 + resumed


def test_resumes_without_waiting_are_refused(hrf, kfp):
    result = hrf("submit", *SMOKE, *STORAGE, "--resumes", "1")
    assert result.exit_code == 3
    assert "--resumes" in words(result)
    assert kfp.sent == []


@pytest.mark.e2e
def test_a_run_that_is_cut_off_at_every_second_step_computes_nothing_twice_and_ends_in_the_same_bits(
    hrf, kfp, pods, storage_uri, s3_environment, tmp_path
):
    """Five attempts at one run, each resumed with the command, against one that nothing disturbed. Every step is
    finished in an attempt that is cut off, and so must not be computed in the next one.

    The package is what a cluster gets, its tasks run here, and Kubeflow's cache answers as the package lets it. Kills:
    a step whose key holds what each attempt makes anew; one whose outputs differ from time to time; caching left off.
    """

    def work(run, fail_at):
        computed = pods.compute(kfp, run, tmp_path, s3_environment, fail_at)
        ended(kfp, run, "FAILED" if fail_at else "SUCCEEDED")
        return computed

    run = submitted(hrf, kfp, "--storage", storage_uri, "--experiment", "cut")
    first = run["run_id"]
    finished = 0
    for step in STEPS[1::2]:
        # What the last attempt was cut off from, and nothing that was finished before.
        assert work(run, step) == list(STEPS[finished : STEPS.index(step)])
        finished = STEPS.index(step)
        assert hrf("runs", "resume", run["run_id"]).exit_code == 0
        run = kfp.state.runs[-1]
    assert work(run, "") == [STEPS[-1]]
    undisturbed = submitted(hrf, kfp, "--storage", storage_uri, "--experiment", "straight")
    assert work(undisturbed, "") == list(STEPS[1:]), "the base model alone is shared"

    storage = Storage.open(storage_uri)
    candidates = [
        storage.read_json(f"{experiment}/candidates/{run_id}/epoch-0000/manifest.json")[0]["files"]
        for experiment, run_id in (("cut", first), ("straight", undisturbed["run_id"]))
    ]
    weights = [{name: entry for name, entry in files.items() if name.startswith("unet/")} for files in candidates]
    assert weights[0] == weights[1] != {}
