"""One run of a study: the library's own steps one after another, in folders of its own, in this process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.config.inputs import input_digests
from hrf.distributed.progress import PROGRESS_FILE
from hrf.evaluation.record import EvaluationRecord
from hrf.steps.baseline import read_baseline
from hrf.steps.check import PRESETS_SEED, shape_of
from hrf.steps.context import RunContext
from hrf.steps.evaluate import bench_of
from hrf.steps.history import read_epochs, read_update
from hrf.steps.sequence import BASE, Call, legs_between, whole_run
from hrf.storage.folders import canonical_json, read_folder, read_manifest, writing_file
from hrf.storage.names import BASE_GRID_FILE, GRID_FILE
from hrf.storage.objects import Storage
from hrf.study.folder import StudyFolder
from hrf.study.plan import StudyRun, run_name
from hrf.study.rows import ArmHistory, keep_decisions, rows_of

PROGRESS = "progress.jsonl"


def execute(run: StudyRun, study: StudyFolder, storage: str) -> list[dict[str, Any]]:
    """Train and measure one run; of one that was cut off, go on from its last finished step.

    The storage, `s3://bucket/prefix`, has the run's candidates and promoted model while it lasts. The study's scratch
    folder has a folder of each run, and `shared` for what they have in common.

    Returns:
        Its rows of the table, and those of its controls.

    Raises:
        HrfError: A step failed.
    """
    folder = work_folder(run, study)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[PROGRESS_FILE] = str(folder / PROGRESS)
    arms = {f"{arm}/": arm for arm in run.ways}
    histories: dict[str, str] = {}
    last: Call | None = None
    legs = legs_between(run.measured_after, steered=run.config.diversity_floor is not None)
    replicas = run.config.run.replicas
    for call in whole_run(legs, num_replicas=replicas, ways=list(arms), fresh_seeds=False):
        if call.step == "summarize":
            # A study has a table of its own.
            break
        arm = arms[call.way]
        place = partial(_place, run, study, arm)
        _once(call, place, _configured(call.step, arm, run, storage))
        if "new_history" in call.outputs:
            histories[arm] = place(call.outputs["new_history"])
        if call.step == "evaluate":
            evaluated = Path(place(call.outputs["evaluation"]))
            _keep_picture(evaluated / GRID_FILE, run_name(arm, run.reward, run.seed), study)
            if arm == run.arm:
                _keep_picture(Path(place(f"{call.way}baseline")) / BASE_GRID_FILE, "base", study)
                last = call
        if call.step == "steer" and read_manifest(place(call.outputs["new_policy"])).stopped:
            break
    measured = {
        arm: ArmHistory(
            base=read_baseline(_place(run, study, arm, f"{way}baseline"))[1],
            epochs=read_epochs(read_folder(histories[arm])),
        )
        for way, arm in arms.items()
    }
    if run.fronts:
        assert last, "the end of a run is measured"
        measured[run.arm] = replace(
            measured[run.arm], fronts=_measure_fronts(run, last, partial(_place, run, study, run.arm))
        )
    keep_decisions(run, measured[run.arm], study.decisions)
    _clear(run, study, storage)
    return rows_of(run, measured)


def _measure_fronts(run: StudyRun, last: Call, place: Callable[[str], str]) -> dict[str, list[EvaluationRecord]]:
    """The end of a run at the strengths of its fronts, where its last evaluation was."""
    epoch = int(last.parameters["epoch"])
    at = {name: place(str(folder)) for name, folder in last.inputs.items()}
    policy = read_folder(at["policy"])
    bench = bench_of(RunContext.read(at["run"]), base=at["base"], baseline=at["baseline"])
    spent = read_update(policy, epoch).num_evaluations
    return {
        front.arm: [
            bench.measure(policy, strength=strength, epoch=epoch, num_evaluations=spent, on_advance=None)[0]
            for strength in front.strengths
        ]
        for front in run.fronts
    }


def work_folder(run: StudyRun, study: StudyFolder) -> Path:
    """Where a run works: a folder of its own for whatever it is asked to do, so that an edited run starts anew."""
    return study.scratch / f"{run.name}--{run.digest}"


def _place(run: StudyRun, study: StudyFolder, arm: str, folder: str) -> str:
    """Where a folder of a run lies. What several runs have in common is made once."""
    config, shared = run.configs[arm], study.scratch / "shared"
    if folder == BASE:
        model = config.model
        known_by = [model.source, model.revision, input_digests(config).get("model.source")]
        return str(shared / "bases" / _digest(known_by))
    if folder == f"{arm}/baseline":
        return str(shared / "baselines" / _digest(_measured_alike(config)))
    return str(work_folder(run, study) / folder)


def _once(call: Call, place: Callable[[str], str], configured: Mapping[str, Any]) -> None:
    """Do a step unless it has been done: its output folders are absent or complete."""
    outputs = [Path(place(folder)) for folder in call.outputs.values()]
    with contextlib.ExitStack() as locks:
        for output in outputs:
            locks.enter_context(_exclusive(output))
        if not outputs or not all(path.is_dir() for path in outputs):
            call(place, **configured)


def _configured(step: str, arm: str, run: StudyRun, storage: str) -> dict[str, Any]:
    """The parameters of a step that depend on the configuration."""
    config = run.configs[arm]
    if step == "fetch":
        return {"source": config.model.source, "revision": config.model.revision, "version": ""}
    configured = {
        "preset": "",
        "overrides": config.to_yaml(),
        "learning_rate": 0.0,
        "seed": PRESETS_SEED,
        "experiment": _experiment(arm, run, run.digest),
        "run_id": "run",
        "storage": storage,
    }
    match step:
        case "check":
            return {**configured, **shape_of(config), "start_from": "base", "noise_tag": ""}
        case "prepare":
            return configured
        case _:
            return {}


def _experiment(arm: str, run: StudyRun, digest: str) -> str:
    return f"{run_name(arm, run.reward, run.seed)}--{digest}"


def _clear(run: StudyRun, study: StudyFolder, storage: str) -> None:
    """Remove the work of a finished run, that of attempts before an edit, too."""
    opened = Storage.open(storage)
    for folder in study.scratch.glob(f"{run.name}--*"):
        for prepared in folder.glob("*/run"):
            opened.delete(f"{_experiment(prepared.parent.name, run, folder.name.rpartition('--')[2])}/")
        shutil.rmtree(folder)


def _keep_picture(grid: Path, name: str, study: StudyFolder) -> None:
    study.pictures.mkdir(parents=True, exist_ok=True)
    with writing_file(study.pictures / f"{name}.png") as file:
        shutil.copyfile(grid, file)


def _measured_alike(config: Config) -> dict[str, Any]:
    """What the base's measurement and the prefix pool depend on."""
    values = config.to_mapping()
    parts = {name: values[name] for name in ("model", "sampler", "policy", "reward", "evaluation", "gate", "prompts")}
    parts["inputs"] = input_digests(config)
    return parts | ({"seed": config.run.seed} if config.policy.prefix_pool else {})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


@contextlib.contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time make a folder that several need."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
