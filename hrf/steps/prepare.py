"""Prepare: put together what the run works with, and check it, before a minute of training is spent."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hrf import __version__
from hrf.config import Config
from hrf.core.schedule import NoiseSchedule
from hrf.errors import ConfigError
from hrf.networks.classifier import classifier_folder
from hrf.networks.features import build_embedder
from hrf.policies.architecture import Architecture
from hrf.policies.folders import evaluated_from, save_fresh_policy, schedule_of
from hrf.policies.kinds import kind_of, picture_size
from hrf.policies.policy_folder import copy_policy, split_at
from hrf.policies.prompts import PromptTable, resolve_prompts
from hrf.promotion.pointer import fetch_incumbent
from hrf.promotion.runs import RunRecords
from hrf.rewards import build_reward, missing_prompts
from hrf.rewards.family import RewardFamily
from hrf.seeds import derive_seed, replica_seed
from hrf.steps.check import check_numbers, settle_config
from hrf.steps.context import step
from hrf.steps.picture_size import check_classifier, check_pixel_grid
from hrf.storage.folders import canonical_json, read_folder, read_manifest, writing_folder
from hrf.storage.names import CONFIG_FILE, POLICY_FILE, RUN_FILE
from hrf.storage.objects import Storage
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.state import save_fresh_state

_WHERE_SET = ("embedded_guidance", "picture_size")
"""Fields of `model` that a policy tells of only where they are."""
_NOT_MEASURED = ("every", "confidence", "num_strengths")
"""Fields of `evaluation` that change nothing of what is measured on a seed."""


@step("prepare", secrets=SCORING_SECRETS)
def prepare(
    *,
    preset: str,
    overrides: str,
    learning_rate: float,
    seed: int,
    experiment: str,
    run_id: str,
    storage: str,
    base: str,
    run: str,
    policy: str,
    training_state: str,
) -> dict[str, Any]:
    """Check the configuration against the model, pack classifiers, and fetch the policy to start from.

    Where the run starts is what its record in the storage says, which `check` has written: it stays the same however
    often the run is resumed.

    Returns:
        What the run is, as flat values.

    Raises:
        HrfError: For whatever can't work.
    """
    config = settle_config(preset, overrides, learning_rate=learning_rate, seed=seed)
    started = RunRecords(storage=Storage.open(storage), experiment=experiment, run_id=run_id).settled(config.digest())
    parent, pointer = started.started_from, started.incumbent
    base_folder, base_digest = read_folder(base), read_manifest(base).content_digest()
    model = Architecture.of(base_folder)
    kind_of(base_folder).check(config, model)
    check_pixel_grid(config, picture_size(model, config))
    prompts = run_prompts(config)
    schedule = schedule_of(model, config)
    # From here on the model's steps are known: what is given by noise level is one of them.
    config = config.in_steps(schedule.sigmas, schedule.num_trained_steps)
    config.window_schedule(schedule.num_trained_steps)
    _check_evaluation(config, model, schedule)
    identity = policy_identity(config, base_digest)
    seed_of_all = run_seed(config.run.seed, parent, started.noise_tag)
    about: dict[str, Any] = {
        "run_id": run_id,
        "experiment": experiment,
        "storage": storage,
        "preset": preset,
        "started_from": parent,
        "noise_tag": started.noise_tag,
        "run_seed": seed_of_all,
        "replica_seeds": [replica_seed(seed_of_all, replica) for replica in range(config.run.replicas)],
        "num_epochs": config.run.epochs,
        "num_trained_steps": schedule.num_trained_steps,
        "policy": identity,
        "evaluation_digest": _evaluation_digest(config, identity, prompts),
        "versions": _versions(),
    }
    producer = {"step": "prepare", "run": run_id, "hrf": __version__, "config": config.digest()}
    with writing_folder(run, producer=producer) as folder:
        (folder / CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
        (folder / RUN_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        pack_inputs(config, base_folder, prompts, folder)
    with writing_folder(policy, producer=producer) as folder:
        if pointer:
            with tempfile.TemporaryDirectory() as scratch:
                incumbent = fetch_incumbent(Storage.open(storage), pointer, Path(scratch) / "incumbent")
                switch_step = _check_incumbent(incumbent, identity, parent, config)
                config.window_schedule(schedule.num_trained_steps, switch_step=switch_step)
                copy_policy(incumbent, folder)
        else:
            save_fresh_policy(folder, config, base_folder, identity, run_seed=about["run_seed"])
    with writing_folder(training_state, producer=producer) as folder:
        save_fresh_state(folder)
    return {"run_id": run_id, "trained_steps": schedule.num_trained_steps}


def pack_inputs(config: Config, base: Path, prompts: PromptTable | None, folder: Path) -> None:
    """Put what scores and asks into a run's folder: its classifiers, and its prompts with their embeddings.

    Raises:
        HrfError: For whatever can't work.
    """
    _pack_classifiers(config, folder / "classifiers", base, prompts)
    if config.prompts and prompts:
        (folder / "prompts").mkdir()
        prompts.save(folder / "prompts")
        kind_of(base).embed_prompts(base, prompts.texts, negative=config.prompts.negative).save(folder / "prompts")


def run_seed(seed: int, parent: str | None, noise_tag: str) -> int:
    """Seed of all of a run's training noise.

    It is another one for another start, so that a chain of promotions never trains on the same noise twice, and for
    another tag, so that a schedule does not repeat a candidate that was rejected.
    """
    told_apart = [part for part in (parent, noise_tag) if part]
    return derive_seed(seed, *told_apart) if told_apart else seed


def policy_identity(config: Config, base_digest: str) -> dict[str, Any]:
    """What a policy folder says of itself: the sampler and the reference that its weights belong to."""
    text_to_image = {}
    if config.prompts:
        text_to_image = {
            "guidance_scale": config.model.guidance_scale,
            **{name: value for name in _WHERE_SET if (value := getattr(config.model, name)) is not None},
            "lora": config.policy.lora.model_dump(mode="json") if config.policy.lora else None,
        }
    return {
        **split_at(config.switch_step),
        "sampler": config.recorded()["sampler"],
        "base": {"source": config.model.source, "revision": config.model.revision, "digest": base_digest},
        **text_to_image,
    }


def run_prompts(config: Config) -> PromptTable | None:
    """The run's prompts; None for an unconditional model."""
    if config.prompts is None:
        return None
    table = resolve_prompts(config.prompts, seed=config.evaluation.seed)
    check_numbers(table, config)
    return table


def _pack_classifiers(config: Config, target: Path, base: Path, prompts: PromptTable | None) -> None:
    """Copy the classifiers that rewards and evaluation use; build all that scores: a typo should cost seconds."""
    size = picture_size(Architecture.of(base), config)
    if config.evaluation.classifier:
        _pack_classifier(config.evaluation.classifier, "evaluation", target / "evaluation", size)
    if config.evaluation.features in {"clip", "dinov2"}:
        build_embedder(config.evaluation, None, device="cpu")
    purposes = {"reward": "reward", "shaping.reward": "shaping", "evaluation.held_out_reward": "held_out"}
    for field, settings in config.rewards.items():
        _pack_reward(settings, field, target / purposes[field], base, size, prompts)


def _pack_classifier(classifier: str, field: str, target: Path, size: tuple[int, int]) -> None:
    shutil.copytree(classifier_folder(classifier, f"{field}.classifier"), target)
    check_classifier(target, field, size)


def _pack_reward(
    settings: RewardFamily, field: str, target: Path, base: Path, size: tuple[int, int], prompts: PromptTable | None
) -> None:
    """Copy a reward's classifiers and try the reward on the CPU.

    Weights of pretrained networks are not copied: they are large, and every step that needs them fetches and verifies
    them itself.
    """
    for folder, path in settings.pack_classifiers(field, target):
        check_classifier(folder, path, size)
    reward = build_reward(settings, target if target.is_dir() else None, field=field, device="cpu")
    if reward.needs_prompts and prompts is None:
        raise missing_prompts(reward.name, field)
    base_digest = read_manifest(base).content_digest()
    for section, path in settings.leaves(field):
        section.check_fitted(path, base=base_digest, prompts=prompts.training if prompts else ())


def _check_incumbent(folder: Path, identity: dict[str, Any], parent: str | None, config: Config) -> int:
    """Refuse to go on from a policy that was tuned under another sampler or from another base.

    A split run under a diversity floor goes on from a later switch step, where one before it may have ended.

    Returns:
        Its switch step.
    """
    tuned = json.loads((folder / POLICY_FILE).read_text(encoding="utf-8"))
    if config.diversity_floor is not None and 0 < identity["switch_step"] < tuned["switch_step"]:
        identity = {**identity, **split_at(tuned["switch_step"])}
    for field in ("kind", "switch_step", "sampler", "base", "guidance_scale", *_WHERE_SET, "lora"):
        mine, theirs = identity.get(field), tuned.get(field)
        if field == "base":
            mine, theirs = identity["base"]["digest"], tuned["base"]["digest"]
        if mine != theirs:
            raise ConfigError(
                "run.start_from",
                expected=f"a promoted policy with the same {field} as this configuration ({mine})",
                got=f"{parent} with {theirs}",
                fix="use another --experiment, or start from the base: run.start_from: base",
            )
    return int(tuned["switch_step"])


def _check_evaluation(config: Config, model: Architecture, schedule: NoiseSchedule) -> None:
    """Refuse evaluations with so few steps that the tuned weights take none, or none where a floor moves the switch."""
    evaluated_from(model, config)
    if config.switch_step and config.diversity_floor is not None:
        evaluated_from(model, config, schedule.num_trained_steps - config.narrowest_window)


def _evaluation_digest(config: Config, identity: dict[str, Any], prompts: PromptTable | None) -> str:
    """Two evaluations with equal digests measured the same thing on the same noise: rewards pair seed by seed."""
    held_out = config.evaluation.held_out_reward
    measured = {
        "evaluation": {
            **{name: value for name, value in config.recorded()["evaluation"].items() if name not in _NOT_MEASURED},
            "held_out_reward": held_out.measured() if held_out else None,
        },
        "reward": config.reward.measured(),
        "forward_dtype": config.model.forward_dtype,
        "policy": identity,
    }
    if config.prompts and prompts:
        measured["prompts"] = {"evaluation": prompts.evaluation, "negative": config.prompts.negative}
    return hashlib.sha256(canonical_json(measured)).hexdigest()


def _versions() -> dict[str, str]:
    names = ("torch", "diffusers", "pillow", "numpy", "safetensors")
    return {"hrf": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
