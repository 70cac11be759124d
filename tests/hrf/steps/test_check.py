"""The first step and the last: what is refused in seconds, what is settled once, and what a failed run leaves."""

import json
from typing import get_args

import pytest

from hrf.config import StartChoice, StartFrom
from hrf.errors import ArtifactError, ConfigError, HrfError, StorageError
from hrf.promotion.records import Failure
from hrf.promotion.runs import RunRecords
from hrf.steps.check import PRESETS_SEED, check, model_version, settle_config
from hrf.steps.prepare import run_seed
from hrf.steps.report_status import report_status
from hrf.storage.objects import Storage
from tests.hrf.candidates import candidate_of, put_forward


def records(run, run_id="run"):
    return RunRecords(storage=Storage.open(run.storage), experiment="tiny", run_id=run_id)


def ask(run, **changes):
    arguments = {
        "preset": "",
        "overrides": run.config.to_yaml(),
        "learning_rate": 0.0,
        "seed": PRESETS_SEED,
        "num_epochs": 4,
        "epochs_per_step": 1,
        "evaluate_every": 1,
        "steered": False,
        "replicas": 1,
        "experiment": "tiny",
        "run_id": "run",
        "start_from": "",
        "noise_tag": "",
        "storage": run.storage,
    }
    return check(**{**arguments, **changes})


def report(run, **changes):
    arguments = {
        "experiments": "tiny",
        "run_id": "run",
        "storage": run.storage,
        "state": "FAILED",
        "error_code": 1,
        "error_message": "Task run failed.",
        "kubeflow_run": "finetune-x1",
        "page": run.at("status.html"),
    }
    facts = report_status(**{**arguments, **changes})
    return facts, (run.folder / "status.html").read_text()


def test_the_start_of_a_run_is_on_record_from_its_first_second(steps):
    run = steps()
    facts = run.check()
    started = Storage.open(run.storage).read_json("tiny/runs/run/run.json")[0]
    assert facts["started_from"] == "base"
    assert {name: started[name] for name in ("run_id", "experiment", "started_from", "config_digest")} == {
        "run_id": "run",
        "experiment": "tiny",
        "started_from": None,
        "config_digest": run.config.digest(),
    }


def test_a_check_that_runs_again_starts_from_the_same_candidate_whatever_was_promoted_since(steps, tmp_path):
    """Kills: the pointer read anew by a retry."""
    run, later = steps("first"), steps("later")
    run.check("first")
    put_forward(Storage.open(run.storage), candidate_of(tmp_path, "other", 0.1, epoch=3), experiment="tiny")

    assert run.check("first")["started_from"] == "base"
    assert records(run, "first").settled(run.config.digest()).incumbent is None
    assert later.check("later")["started_from"] == "other/epoch-0003"


@pytest.mark.parametrize("configured", get_args(StartFrom))
@pytest.mark.parametrize("asked", ["", *get_args(StartChoice)])
def test_a_run_starts_from_what_its_parameter_says_and_else_from_what_is_configured(steps, tmp_path, asked, configured):
    run = steps(changes={"run": {"start_from": configured}})
    put_forward(Storage.open(run.storage), candidate_of(tmp_path, "other", 0.1, epoch=3), experiment="tiny")
    start = asked if asked in get_args(StartFrom) else configured
    facts = ask(run, start_from=asked)
    assert facts["started_from"] == {"promoted": "other/epoch-0003", "base": "base"}[start]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((0, None, ""), (0, None, ""), True),
        ((0, None, ""), (1, None, ""), False),
        ((0, None, ""), (0, "run/epoch-0001", ""), False),
        ((0, "run/epoch-0001", ""), (0, "run/epoch-0002", ""), False),
        ((0, "run/epoch-0001", "monday"), (0, "run/epoch-0001", "tuesday"), False),
        ((0, None, "monday"), (0, None, "tuesday"), False),
        ((0, "run/epoch-0001", "monday"), (0, "run/epoch-0001", "monday"), True),
    ],
)
def test_training_noise_is_the_same_for_equal_seed_start_and_tag_only(one, other, same):
    """Kills: a schedule whose runs repeat a rejected candidate bit for bit."""
    assert (run_seed(*one) == run_seed(*other)) is same


def test_without_start_and_tag_the_seed_is_the_configured_one():
    assert run_seed(0, None, "") == 0


def test_a_run_id_that_was_used_for_another_configuration_is_refused(steps):
    steps().check()
    with pytest.raises(ArtifactError, match=r"another configuration .* has the id run"):
        steps("again", {"run": {"seed": 1}}).check()


def test_a_run_is_not_resumed_by_other_code(steps, monkeypatch):
    """Kills: steps of two versions in one run, where Kubeflow's cache has some and an image the others."""
    monkeypatch.setenv("HRF_GIT_SHA", "a" * 40)
    steps().check()
    assert steps("again").check()["started_from"] == "base"
    monkeypatch.setenv("HRF_GIT_SHA", "b" * 40)
    with pytest.raises(ArtifactError, match=r"another version of hrf, or image, .*aaaa.*bbbb"):
        steps("other").check()


def test_numbers_of_the_form_are_laid_over_the_preset_and_zero_is_a_seed():
    given = settle_config("avatars-smoke", "{update: {clip_range: 1e-3}}", learning_rate=3e-5, seed=0)
    assert (given.update.learning_rate, given.run.seed, given.update.clip_range) == (3e-5, 0, 1e-3)
    other = settle_config("avatars-smoke", "{run: {seed: 7}}")
    assert other.run.seed == 7
    assert settle_config("avatars-smoke", "{run: {seed: 7}}", seed=7).run.seed == 7


def test_a_number_of_the_form_that_contradicts_the_overrides_is_refused():
    with pytest.raises(ConfigError, match=r"seed: expected 7, which overrides sets as run\.seed"):
        settle_config("avatars-smoke", "{run: {seed: 7}}", seed=0)
    with pytest.raises(ConfigError, match="learning_rate"):
        settle_config("avatars-smoke", "update: {learning_rate: 1e-4}", learning_rate=1e-5)


def test_the_next_step_refuses_a_record_that_is_gone_or_of_another_configuration(steps):
    run = steps()
    run.check()
    with pytest.raises(ArtifactError, match="of another configuration"):
        records(run).settled("0" * 64)
    with pytest.raises(ArtifactError, match="it is gone"):
        records(run, "never").settled(run.config.digest())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run_id": "a/b"}, ConfigError, "run_tag"),
        ({"noise_tag": "a/b"}, ConfigError, "noise_tag"),
        ({"experiment": "../x"}, ConfigError, "experiment"),
        ({"num_epochs": 5}, ConfigError, r"run\.epochs"),
        ({"start_from": "Promoted"}, ConfigError, r"start_from: expected one of .*did you mean 'promoted'"),
        ({"start_from": "latest"}, ConfigError, "start_from: expected one of as configured, promoted, base"),
        ({"start_from": " base"}, ConfigError, r"start_from: .*did you mean 'base'"),
        ({"preset": "Avatars-HRF", "overrides": ""}, ConfigError, r"preset: .*did you mean 'avatars-hrf'"),
        ({"overrides": "sampler: {stepz: 3}"}, ConfigError, r"did you mean sampler\.steps"),
        ({"storage": "s3://no-such-bucket-here/x"}, StorageError, "bucket"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(steps, changes, error, message):
    run = steps()
    with pytest.raises(error, match=message):
        ask(run, **changes)
    assert Storage.open(run.storage).list("tiny/runs/run/run.json") == []


def test_wrong_keys_are_refused_by_the_first_step(steps, monkeypatch):
    run = steps()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-by-a-letter")
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        ask(run)


def test_the_version_of_a_model_changes_when_its_files_may_have(steps, storage):
    run = steps()

    def version(run_id="run", **model):
        return model_version(run.config.with_changes({"model": {"revision": "", **model}}), run_id)

    at = {"source": f"{storage.uri}/model"}
    with pytest.raises(StorageError, match="nothing is there"):
        version(**at)
    storage.write_json("model/config.json", {"layers": 1})
    first = version(**at)
    assert version(run_id="other", **at) == first
    storage.write_json("model/config.json", {"layers": 2})
    assert version(**at) != first
    pinned = {"source": "hf:owner/name", "revision": "0" * 40}
    assert version(**pinned) == version(run_id="other", **pinned)
    assert version(source="shipped:avatars-32") == version(run_id="other", source="shipped:avatars-32")
    assert version() != version(run_id="other"), "nothing is known of a local folder"


def test_a_failing_step_leaves_its_traceback_with_the_run_and_the_status_tells_it(steps, monkeypatch):
    run = steps()
    run.prepare()
    secret = "sEcReT-oF-tHe-HuB"
    monkeypatch.setenv("HF_TOKEN", secret)

    def broken(*_arguments, **_options):
        raise RuntimeError(f"no answer with {secret}")

    monkeypatch.setattr("hrf.steps.sample.sample_episodes", broken)
    with pytest.raises(RuntimeError):
        run.sample(0)

    facts, page = report(run)

    status = Storage.open(run.storage).read_json("tiny/runs/run/status.json")[0]
    assert status["state"] == "FAILED"
    assert status["error"] == {"code": 1, "message": "Task run failed."}
    (failure,) = status["failures"]
    assert (failure["step"], failure["epoch"], failure["error_type"]) == ("sample", 0, "RuntimeError")
    assert failure["message"] == "no answer with <HF_TOKEN>"
    assert "sample_episodes" in failure["traceback"]
    assert secret not in json.dumps(status) + page
    assert "RuntimeError in sample, epoch 0" in page
    assert facts == {"failures": 1, "outcome": "failed"}


def test_a_failure_of_the_first_step_is_kept_too(steps):
    run = steps()
    with pytest.raises(ConfigError):
        ask(run, num_epochs=7)
    (failure,) = records(run).failures()
    assert (failure.step, failure.error_type, failure.exit_code) == ("check", "ConfigError", 3)


def test_a_status_is_written_over_when_a_run_was_retried(steps):
    run = steps()
    report(run)
    _, page = report(run, state="SUCCEEDED", error_code=0, error_message="")
    assert Storage.open(run.storage).read_json("tiny/runs/run/status.json")[0]["state"] == "SUCCEEDED"
    assert "No step has written down a failure." in page


def test_a_storage_that_is_gone_does_not_fail_the_report_and_is_told_on_its_page(steps, monkeypatch):
    run = steps()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    facts, page = report(run)
    assert facts["failures"] == 0
    assert "could not be stored" in page


def test_failures_of_all_arms_are_told_in_one_status_in_the_order_of_time(steps):
    run = steps()
    store = Storage.open(run.storage)
    for arm, time in (("tiny-b", 2.0), ("tiny-a", 1.0)):
        failure = {"step": "update", "epoch": 3, "error_type": "E", "message": arm, "exit_code": 1, "traceback": ""}
        RunRecords(storage=store, experiment=arm, run_id="run").add_failure(Failure(**failure, time=time))
    report(run, experiments="tiny,tiny-b,tiny-a")
    status = store.read_json("tiny/runs/run/status.json")[0]
    assert [failure["message"] for failure in status["failures"]] == ["tiny-a", "tiny-b"]


def test_the_failure_that_a_user_meets_is_the_steps_own_even_if_it_cannot_be_stored(steps, monkeypatch, capfd):
    run = steps()
    run.prepare()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    (run.folder / "policy-0" / "policy.json").unlink()
    with pytest.raises(HrfError, match="policy"):
        run.sample(0)
    assert "could not be stored" in capfd.readouterr().err
