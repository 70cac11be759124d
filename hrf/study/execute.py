"""One run of a study: the library's own steps one after another, in folders of its own, in this process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.config.inputs import input_digests
from hrf.distributed.progress import PROGRESS_FILE
from hrf.steps.baseline import baseline, read_baseline
from hrf.steps.check import PRESETS_SEED, check
from hrf.steps.evaluate import evaluate
from hrf.steps.fetch import fetch
from hrf.steps.history import read_epochs
from hrf.steps.prepare import prepare
from hrf.steps.promote import promote
from hrf.steps.steer import steer
from hrf.steps.train import train
from hrf.storage.folders import canonical_json, read_folder, read_manifest, writing_file
from hrf.storage.names import BASE_GRID_FILE, GRID_FILE
from hrf.storage.objects import Storage
from hrf.study.plan import StudyRun, run_name
from hrf.study.rows import Measured, keep_decisions, rows_of

PROGRESS = "progress.jsonl"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the runs of a study work."""

    storage: str
    """`s3://bucket/prefix`, for each run's candidates and promoted model while it lasts."""
    scratch: Path
    """A folder: `shared` for what runs have in common, and one of each run, which goes when it is finished."""
    pictures: Path
    """Receives each run's last sample grid, and the base's."""
    decisions: Path
    """Receives what held each run above its diversity floor, where it has one."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A way in which a run's weights are sampled and measured: the run's own, or a control's."""

    arm: str
    config: Config
    experiment: str
    folders: Mapping[str, str]
    """Of `prepare` and `baseline`, by output."""


def execute(run: StudyRun, places: Places) -> list[dict[str, Any]]:
    """Train and measure one run; of one that was cut off, go on from its last finished step.

    Args:
        run: What to run.
        places: Where.

    Returns:
        Its rows of the table, and those of its controls.

    Raises:
        HrfError: A step failed.
    """
    folder = work_folder(run, places)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[PROGRESS_FILE] = str(folder / PROGRESS)
    base = _fetch(run.config, places)
    ways = [_prepare(arm, config, run, places, base) for arm, config in run.configs.items()]
    current = {name: ways[0].folders[name] for name in ("policy", "training_state")}
    histories: dict[str, str | None] = dict.fromkeys(run.configs)
    trained = 0
    for epochs in run.measured_after:
        current = _train(ways[0], base, current, folder / f"trained-{epochs:04d}", trained, epochs - trained)
        for way in ways:
            at = folder / f"measured-{epochs:04d}" / way.arm
            histories[way.arm] = _measure(way, base, current["policy"], histories[way.arm], at, epochs - 1)
        _keep_pictures(ways, run, places, folder / f"measured-{epochs:04d}")
        trained = epochs
        if ways[0].config.diversity_floor is not None:
            own = {**current, "history": histories[ways[0].arm]}
            steered = _steer(ways[0], base, own, folder / f"steered-{epochs:04d}", epochs - 1)
            histories[ways[0].arm] = steered.pop("history")
            current = steered
            if read_manifest(current["policy"]).stopped:
                break
    measured = {way.arm: _records(way, histories[way.arm]) for way in ways}
    keep_decisions(run, measured[run.arm], places.decisions)
    _clear(run, places)
    return rows_of(run, measured)


def work_folder(run: StudyRun, places: Places) -> Path:
    """Where a run works: a folder of its own for whatever it is asked to do, so that an edited run starts anew."""
    return places.scratch / f"{run.name}--{run.digest}"


def _experiment(arm: str, run: StudyRun, digest: str) -> str:
    return f"{run_name(arm, run.reward, run.seed)}--{digest}"


def _clear(run: StudyRun, places: Places) -> None:
    """Remove the work of a finished run, that of attempts before an edit, too."""
    storage = Storage.open(places.storage)
    for folder in places.scratch.glob(f"{run.name}--*"):
        for prepared in folder.glob("*/run"):
            storage.delete(f"{_experiment(prepared.parent.name, run, folder.name.rpartition('--')[2])}/")
        shutil.rmtree(folder)


def _fetch(config: Config, places: Places) -> str:
    """The base model, once for all runs."""
    model = config.model
    known_by = [model.source, model.revision, input_digests(config).get("model.source")]
    base = places.scratch / "shared" / "bases" / _digest(known_by)
    with _exclusive(base):
        _once(fetch, {"base": base}, source=model.source, revision=model.revision, version="")
    return str(base)


def _prepare(arm: str, config: Config, run: StudyRun, places: Places, base: str) -> _Way:
    at, experiment = work_folder(run, places) / arm, _experiment(arm, run, run.digest)
    shape: dict[str, Any] = {
        "num_epochs": config.run.epochs,
        "epochs_per_step": config.run.epochs_per_step,
        "evaluate_every": config.evaluation.every,
        "steered": config.diversity_floor is not None,
    }
    configured: dict[str, Any] = {
        "preset": "",
        "overrides": config.to_yaml(),
        "learning_rate": 0.0,
        "seed": PRESETS_SEED,
    }
    configured |= {"experiment": experiment, "run_id": "run", "storage": places.storage}
    check(**shape, **configured, start_from="base", noise_tag="")
    outputs = {name: at / name for name in ("run", "policy", "training_state")}
    _once(prepare, outputs, **configured, base=base)
    folders = {name: str(path) for name, path in outputs.items()}
    # What several runs have in common is measured once: the base, and the states that their evaluations start from.
    shared = places.scratch / "shared" / "baselines" / _digest(_measured_alike(config))
    with _exclusive(shared):
        _once(baseline, {"baseline": shared}, run=folders["run"], base=base, policy=folders["policy"])
    return _Way(arm=arm, config=config, experiment=experiment, folders=folders | {"baseline": str(shared)})


def _train(way: _Way, base: str, current: Mapping[str, str], at: Path, epoch: int, num_epochs: int) -> dict[str, str]:
    outputs = {f"new_{name}": at / name for name in current}
    settled = {"run": way.folders["run"], "base": base, "baseline": way.folders["baseline"]}
    _once(train, outputs, **settled, **current, epoch=epoch, num_epochs=num_epochs)
    return {name: str(at / name) for name in current}


def _steer(way: _Way, base: str, current: Mapping[str, str | None], at: Path, epoch: int) -> dict[str, str]:
    """Hold the run above its diversity floor."""
    outputs = {f"new_{name}": at / name for name in current}
    settled = {"run": way.folders["run"], "base": base, "baseline": way.folders["baseline"]}
    _once(steer, outputs, **settled, **current, epoch=epoch)
    return {name: str(at / name) for name in current}


def _measure(way: _Way, base: str, policy: str, history: str | None, at: Path, epoch: int) -> str:
    """Evaluate and decide; returns the history with both."""
    given = {
        "run": way.folders["run"],
        "baseline": way.folders["baseline"],
        "policy": policy,
        "epoch": epoch,
    }
    _once(evaluate, {"evaluation": at / "evaluation"}, **given, base=base)
    _once(promote, {"new_history": at / "history"}, **given, evaluation=str(at / "evaluation"), history=history)
    return str(at / "history")


def _records(way: _Way, history: str | None) -> Measured:
    """What measuring in one way has left."""
    assert history is not None, "a run is measured at least once"
    return Measured(base=read_baseline(way.folders["baseline"])[1], epochs=read_epochs(read_folder(history)))


def _keep_pictures(ways: list[_Way], run: StudyRun, places: Places, measured: Path) -> None:
    places.pictures.mkdir(parents=True, exist_ok=True)
    for way in ways:
        grid = measured / way.arm / "evaluation" / GRID_FILE
        with writing_file(places.pictures / f"{run_name(way.arm, run.reward, run.seed)}.png") as file:
            shutil.copyfile(grid, file)
    with writing_file(places.pictures / "base.png") as file:
        shutil.copyfile(Path(ways[0].folders["baseline"]) / BASE_GRID_FILE, file)


def _once(step: Callable[..., Any], outputs: Mapping[str, Path], **inputs: Any) -> None:
    """Call a step unless it has been: its output folders are absent or complete."""
    if not all(path.is_dir() for path in outputs.values()):
        step(**inputs, **{name: str(path) for name, path in outputs.items()})


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
