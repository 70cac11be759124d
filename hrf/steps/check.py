"""Check: refuse within seconds what can't work, and settle what the run is. Needs no torch and no model."""

from __future__ import annotations

import datetime
import json
from typing import Any, get_args

from hrf import __version__
from hrf.checkpoint import writing_folder
from hrf.config import Config, StartChoice, resolve
from hrf.config.messages import suggest
from hrf.errors import ConfigError
from hrf.promoted import check_name, read_pointer
from hrf.prompts import resolve_prompts
from hrf.records import RunStart
from hrf.run_records import RunRecords
from hrf.steps.context import CONFIG_FILE, RUN_FILE, step
from hrf.storage import Storage


@step("check")
def check(
    *,
    preset: str,
    overrides: str,
    num_epochs: int,
    epochs_per_step: int,
    evaluate_every: int,
    steered: bool,
    experiment: str,
    run_id: str,
    start_from: str,
    noise_tag: str,
    storage: str,
    request: str,
) -> dict[str, Any]:
    """Resolve and check the configuration, reach the storage, and find the candidate that the run starts from.

    Args:
        preset: Name of a preset; empty if `overrides` is a whole configuration.
        overrides: YAML text over the preset.
        num_epochs: Epochs that the pipeline was compiled for; the configuration must agree.
        epochs_per_step: Epochs that one of its steps trains; likewise.
        evaluate_every: How often it evaluates; likewise.
        steered: Whether it holds the run above a diversity floor; likewise.
        experiment: Whose promoted pointer the run starts from and moves.
        run_id: Name of the run in the storage.
        start_from: `promoted`, `base`, or `as configured`, which empty means, too.
        noise_tag: Makes the training noise another one than that of runs with the same seed and start; may be empty.
        storage: `s3://bucket/prefix`.
        request: Output folder: the resolved configuration, and where the run starts.

    Returns:
        What the run is, as flat values; with `source`, `revision` and `version`, which say what `fetch` has to bring.

    Raises:
        HrfError: For whatever can't work.
    """
    check_name(experiment, "experiment")
    check_name(run_id, "run_tag")
    if noise_tag:
        check_name(noise_tag, "noise_tag")
    config = resolve(preset, overrides)
    check_prompts(config)
    check_shape(
        config,
        num_epochs=num_epochs,
        epochs_per_step=epochs_per_step,
        evaluate_every=evaluate_every,
        steered=steered,
    )
    start = settle_start(start_from, config)
    store = Storage.open(storage)
    store.check()
    version = model_version(config, run_id)
    pointer = read_pointer(store, experiment) if start == "promoted" else None
    records = RunRecords(storage=store, experiment=experiment, run_id=run_id)
    started = records.begin(
        RunStart(
            run_id=run_id,
            experiment=experiment,
            config_digest=config.digest(),
            preset=preset,
            started_from=pointer.candidate_id if pointer else None,
            started_from_sequence=pointer.sequence if pointer else None,
            incumbent=pointer,
            noise_tag=noise_tag,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
    )
    about = {
        "run_id": run_id,
        "experiment": experiment,
        "storage": storage,
        "preset": preset,
        "started_from": started.started_from,
        "incumbent": started.incumbent.as_json() if started.incumbent else None,
        "noise_tag": noise_tag,
    }
    producer = {"step": "check", "run": run_id, "hrf": __version__, "config": config.digest()}
    with writing_folder(request, producer=producer) as folder:
        (folder / CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
        (folder / RUN_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return {
        "run_id": run_id,
        "started_from": started.started_from or "base",
        "epochs": config.run.epochs,
        "source": config.model.source,
        "revision": config.model.revision,
        "version": version,
    }


def settle_start(start_from: str, config: Config) -> str:
    """The policy that a run starts from, `promoted` or `base`: its parameter's word, or else its configuration's.

    Raises:
        ConfigError: If the parameter is neither empty nor one of `StartChoice`.
    """
    choices = get_args(StartChoice)
    if start_from and start_from not in choices:
        raise ConfigError(
            "start_from",
            expected=f"one of {', '.join(choices)}",
            got=start_from,
            fix=f"choose one of them{suggest(start_from.strip().lower(), choices)}",
        )
    return config.run.start_from if start_from in ("", "as configured") else start_from


def check_prompts(config: Config) -> None:
    """Refuse prompts that evaluation can't use, where the configuration has them all; files are for `prepare`.

    Raises:
        ConfigError: If a prompt occurs twice, too few are left, or `evaluation.num_samples` does not fit their number.
    """
    prompts = config.prompts
    if prompts and not prompts.evaluation_source and (prompts.texts or prompts.source == "animals"):
        resolve_prompts(prompts, seed=config.evaluation.seed).of_evaluation(config.evaluation.num_samples)


def check_shape(config: Config, *, num_epochs: int, epochs_per_step: int, evaluate_every: int, steered: bool) -> None:
    """Refuse a configuration of another shape than the pipeline's: what is unrolled can't be overridden at run time.

    Raises:
        ConfigError: If `run.epochs`, `run.epochs_per_step` or `evaluation.every` differs, or one has a diversity floor
            and the other none.
    """
    for field, compiled, configured in (
        ("run.epochs", num_epochs, config.run.epochs),
        ("run.epochs_per_step", epochs_per_step, config.run.epochs_per_step),
        ("evaluation.every", evaluate_every, config.evaluation.every),
    ):
        if compiled != configured:
            raise ConfigError(
                field,
                expected=f"{compiled}, which this pipeline was compiled for",
                got=configured,
                fix="compile the pipeline anew for that number: Kubeflow has no loop over a run-time one",
            )
    if steered != (config.diversity_floor is not None):
        raise ConfigError(
            "diversity_floor",
            expected="a floor: this pipeline has the step `steer`" if steered else "null: this one has no step `steer`",
            got=config.diversity_floor,
            fix="compile the pipeline anew: its step `steer` comes with a floor",
        )


def model_version(config: Config, run_id: str) -> str:
    """What changes whenever a base model's files may have: two fetches of one version bring the same.

    A shipped model and a pinned revision of the hub never change, a prefix of a bucket is known by its listing, and of
    a local folder nothing is known: it belongs to one run.

    Raises:
        StorageError: If the source is a bucket that can't be read, or nothing is there.
    """
    source = config.model.source
    if source.startswith("shipped:"):
        return __version__
    if source.startswith("hf:"):
        return config.model.revision
    if source.startswith("s3://"):
        return Storage.open(source).contents_digest()
    return run_id
