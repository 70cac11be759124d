"""Check: refuse within seconds what can't work, and settle what the run is. Needs no torch and no model."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any, get_args

from hrf import __version__
from hrf.config import Config, StartChoice, resolve
from hrf.config.overrides import deep_merge
from hrf.errors import ConfigError
from hrf.policies.prompts import PromptTable, resolve_prompts
from hrf.promotion.pointer import check_name, read_pointer
from hrf.promotion.records import RunStart
from hrf.promotion.runs import RunRecords
from hrf.report.tracking import check_client
from hrf.steps.context import step
from hrf.storage.objects import Storage
from hrf.storage.validation import suggest
from hrf.storage.yaml_text import parse_yaml

GIT_SHA = "HRF_GIT_SHA"
"""Environment variable: the commit that an image was built from; a checkout has none."""
AS_CONFIGURED = "as configured"
"""Of the parameter `start_from`: what the configuration says."""
PRESETS_SEED = -1
"""Of the parameter `seed`: what the preset says. 0 is a seed."""


@step("check")
def check(
    *,
    preset: str,
    overrides: str,
    learning_rate: float,
    seed: int,
    num_epochs: int,
    epochs_per_step: int,
    evaluate_every: int,
    steered: bool,
    replicas: int,
    experiment: str,
    run_id: str,
    start_from: str,
    noise_tag: str,
    storage: str,
) -> dict[str, Any]:
    """Resolve and check the configuration, reach the storage, and find the candidate that the run starts from.

    From `num_epochs` to `replicas` it is told the shape that its pipeline was compiled for, and the configuration must
    have. An empty `start_from` means `as configured`, too. A `noise_tag` makes the training noise another one than that
    of runs with the same seed and start.

    Returns:
        What the run is, as flat values; with `source`, `revision` and `version`, which say what `fetch` has to bring.

    Raises:
        HrfError: For whatever can't work.
    """
    check_name(experiment, "experiment")
    check_name(run_id, "run_tag")
    if noise_tag:
        check_name(noise_tag, "noise_tag")
    config = settle_config(preset, overrides, learning_rate=learning_rate, seed=seed)
    check_prompts(config)
    check_shape(
        config,
        num_epochs=num_epochs,
        epochs_per_step=epochs_per_step,
        evaluate_every=evaluate_every,
        steered=steered,
        replicas=replicas,
    )
    start = settle_start(start_from, config)
    store = Storage.open(storage)
    store.check()
    check_client()
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
            replicas=replicas,
            code=code_version(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
    )
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
    return config.run.start_from if start_from in ("", AS_CONFIGURED) else start_from


def settle_config(preset: str, overrides: str, *, learning_rate: float = 0.0, seed: int = PRESETS_SEED) -> Config:
    """The configuration of a run, from the parameters of its pipeline.

    Args:
        preset: Name of a preset; empty if `overrides` is a whole configuration.
        overrides: YAML text over the preset.
        learning_rate: Laid over both; 0 leaves what they say.
        seed: Likewise; -1 leaves it.

    Raises:
        ConfigError: For whatever is wrong with them, or if two of them set the same field.
    """
    values = parse_yaml(overrides, origin="overrides")
    given: dict[str, dict[str, Any]] = {}
    if learning_rate:
        given["update"] = {"learning_rate": learning_rate}
    if seed != PRESETS_SEED:
        given["run"] = {"seed": seed}
    for section, fields in given.items():
        for name, value in fields.items():
            overridden = values.get(section)
            if preset and isinstance(overridden, dict) and name in overridden and overridden[name] != value:
                raise ConfigError(
                    name,
                    expected=f"{overridden[name]}, which overrides sets as {section}.{name}, or nothing",
                    got=value,
                    fix="say it in one place",
                )
    return resolve(preset, json.dumps(deep_merge(values, given)) if given else overrides)


def code_version() -> str:
    """What computes: this version, and the commit of the image that it runs in."""
    return " ".join(part for part in (__version__, os.environ.get(GIT_SHA, "")) if part)


def check_prompts(config: Config) -> None:
    """Refuse prompts that evaluation can't use, where the configuration has them all; files are for `prepare`.

    Raises:
        ConfigError: If a prompt occurs twice, too few are left, or a number of samples does not fit theirs.
    """
    prompts = config.prompts
    if prompts and not prompts.evaluation_source and (prompts.texts or prompts.source == "animals"):
        check_numbers(resolve_prompts(prompts, seed=config.evaluation.seed), config)


def check_numbers(prompts: PromptTable, config: Config) -> None:
    """Refuse numbers of samples that give the evaluation prompts unequally many.

    Raises:
        ConfigError: If one of the two does.
    """
    prompts.of_evaluation(config.evaluation.num_samples)
    prompts.of_evaluation(config.verdict_samples, field="gate.num_samples")


def shape_of(config: Config) -> dict[str, Any]:
    """What of a configuration is unrolled when its pipeline is compiled, by the parameters of `check`."""
    return {
        "num_epochs": config.run.epochs,
        "epochs_per_step": config.run.epochs_per_step,
        "evaluate_every": config.evaluation.every,
        "steered": config.diversity_floor is not None,
        "replicas": config.run.replicas,
    }


def check_shape(
    config: Config, *, num_epochs: int, epochs_per_step: int, evaluate_every: int, steered: bool, replicas: int
) -> None:
    """Refuse a configuration of another shape than the pipeline's: what is unrolled can't be overridden at run time.

    Raises:
        ConfigError: If `run.epochs`, `run.epochs_per_step`, `evaluation.every` or `run.replicas` differs, or one has a
            diversity floor and the other none.
    """
    for field, compiled, configured in (
        ("run.epochs", num_epochs, config.run.epochs),
        ("run.epochs_per_step", epochs_per_step, config.run.epochs_per_step),
        ("evaluation.every", evaluate_every, config.evaluation.every),
        ("run.replicas", replicas, config.run.replicas),
    ):
        if compiled != configured and configured != "auto":
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
