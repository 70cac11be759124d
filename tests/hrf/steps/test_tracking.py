"""What a run's steps hand to MLflow and TensorBoard: its records, and nothing that a step would lack without them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hrf.errors import ArtifactError
from hrf.promotion.floor import Reading, Steering, SteeringDecision
from hrf.promotion.records import HistoryEntry
from hrf.report.tracking.event_files import EVENT_FILE
from hrf.steps.numbers import curves
from hrf.steps.report_status import report_status
from hrf.storage.folders import read_manifest
from hrf.study.workers import Machine, _pool
from hrf.trainer.record import EpochRecord, UpdateMetrics
from tests.tracking_server import silent_server

PAGE = (Path(__file__).parents[3] / "docs" / "tracking.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setenv("HRF_TRACKING_SECONDS", "60")


def only_run(client, experiment: str):
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


def drawn_by_mlflow(client, run_id: str) -> dict[str, list[tuple[int, float]]]:
    names = client.get_run(run_id).data.metrics
    return {name: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)] for name in names}


class TestWholeRun:
    @pytest.fixture
    def tuned(self, steps, server):
        """Two epochs, the last one evaluated; of each step that says something, one attempt more than needed."""
        run = steps("run", {"run": {"epochs": 2}, "evaluation": {"every": 2}})
        run.prepare(experiment=f"tracked-{run.storage.rpartition('/')[2]}")
        run.epoch(0)
        run.epoch(1)
        again(run, "policy-2", "state-2")
        run.epoch(1)
        run.judge(1)
        again(run, "judged-1", "evaluation-1")
        run.judge(1)
        run.summarize("judged-1")
        return run

    def test_mlflow_and_tensorboard_draw_the_records_each_point_once(self, tuned, client, storage, tmp_path):
        experiment = json.loads((tuned.folder / "run" / "run.json").read_text())["experiment"]
        found = only_run(client, experiment)
        drawn = drawn_by_mlflow(client, found.info.run_id)
        documented = dict(re.findall(r"^\| (\S+) \| (.*) \|$", PAGE, re.MULTILINE))
        record = json.loads((tuned.folder / "summary" / "summary.json").read_text())
        updates = [epoch["update"] for epoch in record["epochs"]]
        evaluation, decision = (record["epochs"][1][name] for name in ("evaluation", "decision"))
        assert drawn["train/reward_mean"] == [(0, updates[0]["reward_mean"]), (1, updates[1]["reward_mean"])]
        assert drawn["train/loss"] == [(epoch, update["updates"][-1]["loss"]) for epoch, update in enumerate(updates)]
        assert drawn["train/window_begin"] == [(epoch, update["window"][0]) for epoch, update in enumerate(updates)]
        assert all(len(dict(points)) == len(points) for points in drawn.values())
        # What the same work took the second time is no news.
        seconds = [name for name in drawn if name.endswith("_seconds")]
        assert [[step for step, _ in drawn[name]] for name in seconds] == [[0, 1]] * 3
        for name in ("reward", "reward_vs_base"):
            at_base, at_the_end = record["base"][name]["value"], evaluation[name]["value"]
            assert drawn[f"evaluation/{name}"] == [(-1, at_base), (1, at_the_end)]
        assert drawn["promotion/promoted"] == [(1, float(decision["outcome"] == "promoted"))]
        assert {name.partition("/")[0] for name in drawn} == {"train", "evaluation", "promotion"}
        for name in drawn:
            group, _, number = name.partition("/")
            assert f"`{number}`" in documented[f"`{group}/...`"], name

        assert found.info.status == "FINISHED"
        assert found.data.params["update.learning_rate"] == "0.001"
        assert found.data.params["starts.kind"] == "window"
        assert json.loads(found.data.params["run.epochs"]) == 2
        tags = found.data.tags
        assert all(f"`{name}`" in PAGE for name in tags if name.startswith("hrf.") or "commit" in name)
        assert tags["hrf.records"] == f"{tuned.storage}/{experiment}/runs/run"
        assert tags["hrf.storage"] == tuned.storage
        assert tags["hrf.config_digest"] == tuned.config.digest()
        assert tags["hrf.base_digest"] == read_manifest(tuned.at("base")).content_digest()
        assert tags.get("hrf.promoted", "") == (decision["candidate_id"] if drawn["promotion/promoted"][0][1] else "")
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
        assert files == {"config.yaml", "report.html", "samples"}
        report = client.download_artifacts(found.info.run_id, "report.html", str(tmp_path))
        assert Path(report).read_text(encoding="utf-8") == (tuned.folder / "report.html").read_text(encoding="utf-8")
        grids = {file.path for file in client.list_artifacts(found.info.run_id, "samples")}
        assert grids == {"samples/base.png", "samples/epoch-0001.png"}

        (tmp_path / EVENT_FILE).write_bytes(storage.read_bytes(f"{experiment}/runs/run/tensorboard/{EVENT_FILE}")[0])
        reader = EventAccumulator(str(tmp_path))
        reader.Reload()
        assert {*reader.Tags()["scalars"]} == drawn.keys()
        for name in drawn.keys() - {*seconds}:
            # float32 there, float64 here.
            theirs = {event.step: event.value for event in reader.Scalars(name)}
            assert theirs == pytest.approx(dict(drawn[name])), name
        assert [image.step for image in reader.Images("samples")] == [-1, 1]
        assert [event.wall_time for event in reader.Scalars("train/loss")] == [
            sum(updates[0]["seconds"].values()),
            pytest.approx(sum(sum(update["seconds"].values()) for update in updates)),
        ]


def test_a_failed_run_is_failed_there_with_the_reason_and_runs_again_when_it_goes_on(steps, server, client, tmp_path):
    run = steps("run", {"evaluation": {"num_samples": 8}})
    experiment = f"failing-{run.storage.rpartition('/')[2]}"
    run.prepare(experiment=experiment)
    run.train(0, 1)
    assert only_run(client, experiment).info.status == "RUNNING"
    (run.folder / "state-1" / "manifest.json").unlink()
    with pytest.raises(ArtifactError):
        run.train(1, 1)
    end = {
        "experiments": f"other,{experiment}",
        "run_id": "run",
        "storage": run.storage,
        "page": str(tmp_path / "page"),
    }
    report_status(state="FAILED", error_code=0, error_message="", kubeflow_run="x", **end)
    failed = only_run(client, experiment)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["hrf.failure"].startswith("train, epoch 1: ")
    assert client.get_experiment_by_name("other") is None
    for name in ("policy-1", "state-1"):
        shutil.rmtree(run.folder / name)
    run.train(0, 1)
    assert only_run(client, experiment).info.status == "RUNNING"


def test_a_run_that_went_well_is_not_told_to_have_failed(steps, server, monkeypatch, tmp_path):
    run = steps("run")
    end = {"experiments": "well", "run_id": "run", "storage": run.storage, "page": str(tmp_path / "page")}
    monkeypatch.setattr(subprocess, "run", None)
    for state in ("COMPLETE", "SUCCEEDED"):
        report_status(state=state, error_code=0, error_message="", kubeflow_run="x", **end)


@pytest.mark.slow
def test_studies_are_not_logged(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with _pool(Machine(workers=1, threads=1, gpus=()), {"OTHER": "kept"}) as pool:
        assert pool.submit(os.getenv, "MLFLOW_TRACKING_URI").result() is None
        assert pool.submit(os.getenv, "OTHER").result() == "kept"


def again(run, *outputs: str) -> None:
    """Forget what a step has written, as when it is run a second time in another place."""
    for name in outputs:
        shutil.rmtree(run.folder / name)


def test_a_server_that_says_nothing_changes_nothing_that_a_step_makes(steps, monkeypatch, capfd):
    plain, tracked = steps("plain"), steps("tracked")
    for run in (plain, tracked):
        run.prepare(experiment=run.folder.name)
    plain.epoch(0)
    monkeypatch.setenv("HRF_TRACKING_SECONDS", "1")
    with silent_server() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        tracked.epoch(0)
    assert capfd.readouterr().err.count("MLflow: the server took longer than 1 s") == 1
    digests = [
        {name: entry["sha256"] for name, entry in read_manifest(run.at("policy-1")).files.items() if "json" not in name}
        for run in (plain, tracked)
    ]
    assert digests[0] == digests[1] != {}


def test_steering_is_drawn_and_what_a_run_has_not_is_left_out():
    """A policy that starts from noise has no window, and one without a floor is not steered."""
    metrics = UpdateMetrics(
        update=0,
        loss=0.25,
        learning_rate=1e-4,
        grad_norm=0.5,
        clip_fraction=0.0,
        approx_kl=0.0,
        ratio_mean=1.0,
        ratio_max=1.0,
        kl_to_reference=0.0,
    )
    update = EpochRecord(
        epoch=3,
        window=None,
        mean_start_step=0.0,
        num_evaluations=8,
        reward_mean=1.0,
        reward_std=0.5,
        shaping_mean=0.25,
        seconds={"sample": 1.0, "score": 2.0, "update": 3.0},
        updates=(metrics,),
        grad_norm_by_step={0: 1.0, 1: 3.0},
    )
    state, reading = Steering(switch_step=4, rate_scale=0.5, num_stalled=1), Reading(bound=0.9, reward=0.1)
    steering = SteeringDecision(action="keep", reason="far enough", reading=reading, floor=0.8, steering=state)
    entry = HistoryEntry(epoch=3, update=update, evaluation=None, decision=None, steering=steering)
    points = curves(None, [entry])
    assert [(point.group, point.epoch) for point in points] == [("train", 3), ("steering", 3)]
    assert next(iter(points[0].numbers)) == "reward_mean"
    assert points[0].numbers == {
        "reward_mean": 1.0,
        "reward_std": 0.5,
        "shaping_mean": 0.25,
        "mean_start_step": 0.0,
        **{name: value for name, value in vars(metrics).items() if name != "update" and value is not None},
        "num_updates": 1,
        "num_evaluations": 8,
        "largest_step_over_median": 1.5,
        "sample_seconds": 1.0,
        "score_seconds": 2.0,
        "update_seconds": 3.0,
    }
    assert points[1].numbers == {"switch_step": 4, "rate_scale": 0.5}
