"""Steer: hold a run above its diversity floor (see `hrf.promotion.floor`)."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.distributed.progress import emit
from hrf.evaluation.record import EvaluationRecord, StartRecord
from hrf.policies.folders import save_fresh_policy
from hrf.policies.policy_folder import copy_policy, split_at
from hrf.promotion.floor import Reading, Steering, SteeringDecision, replay
from hrf.promotion.pointer import fetch_candidate
from hrf.steps.context import TRAINED, RunContext, step
from hrf.steps.history import copy_updates, extend_history, read_epochs
from hrf.storage.folders import STOPPED, read_folder, writing_folder
from hrf.storage.names import POLICY_FILE, START_FILE, STATE_FILE
from hrf.storage.objects import Storage

MANIFEST_ONLY = shutil.ignore_patterns("manifest.json")


@step("steer", when_stopped={**TRAINED, "new_history": "history"})
def steer(
    *,
    run: str,
    base: str,
    policy: str,
    training_state: str,
    baseline: str,
    history: str,
    epoch: int,
    new_policy: str,
    new_training_state: str,
    new_history: str,
) -> dict[str, Any]:
    """Decide how a run under a diversity floor goes on after an evaluation, and do it.

    The manifest of the new policy says so if the run has stopped. With other weights the new state has fresh moments.

    Returns:
        The decision in flat values.
    """
    context = RunContext.read(run)
    policy_folder, state_folder = read_folder(policy), read_folder(training_state)
    decision = _decide(context, read_folder(baseline), read_folder(history))
    steering = decision.steering
    producer = context.producer("steer", epoch)
    if steering.stopped:
        producer[STOPPED] = True
    backs_up = decision.action == "back_up"
    with writing_folder(new_policy, producer=producer) as folder:
        if backs_up:
            _write_kept(context, steering.kept.candidate, read_folder(base), folder)
            copy_updates(policy_folder, folder)
        else:
            shutil.copytree(policy_folder, folder, dirs_exist_ok=True, ignore=MANIFEST_ONLY)
        _change(folder / POLICY_FILE, split_at(steering.switch_step))
    with writing_folder(new_training_state, producer=producer) as folder:
        # Moments belong to the weights that they were gathered on.
        if backs_up:
            shutil.copyfile(state_folder / STATE_FILE, folder / STATE_FILE)
        else:
            shutil.copytree(state_folder, folder, dirs_exist_ok=True, ignore=MANIFEST_ONLY)
        _change(folder / STATE_FILE, {"rate_scale": steering.rate_scale})
    with writing_folder(new_history, producer=producer) as folder:
        extend_history(history, folder, epoch, {"steering": decision})
    emit("epoch-steered", epoch=epoch, action=decision.action, reason=decision.reason)
    return {
        "action": decision.action,
        "reason": decision.reason,
        "switch_step": steering.switch_step,
        "rate_scale": steering.rate_scale,
        "kept_bound": steering.kept.bound,
        "kept_reward_vs_base": steering.kept.reward,
        "num_stalled": steering.num_stalled,
        "stopped": int(steering.stopped),
    }


def _decide(context: RunContext, baseline: Path, history: Path) -> SteeringDecision:
    """Apply the rule to all evaluations of the run: nothing is remembered but its records."""
    config, about = context.config, context.about
    if config.diversity_floor is None:
        raise ValueError("a run without a diversity floor is not steered")
    start = StartRecord.read(baseline / START_FILE)
    records = [entry.evaluation for entry in read_epochs(history) if entry.evaluation]
    floor = config.diversity_floor
    # A policy without a split has no switch step to move.
    last_step = about["num_trained_steps"] - config.narrowest_window if config.switch_step else 0
    return replay(
        Steering.start(_reading(start, about["started_from"]), switch_step=start.switch_step, floor=floor),
        [_reading(record, f"{about['run_id']}/epoch-{record.epoch:04d}") for record in records],
        floor=floor,
        last_step=last_step,
        by_strength=config.evaluation.num_strengths > 0,
    )


def _reading(evaluation: EvaluationRecord, candidate: str | None) -> Reading:
    return Reading(
        bound=evaluation.diversity.vendi_order2_ratio.low,
        reward=evaluation.reward_vs_base.value,
        candidate=candidate,
        monitors_tripped=tuple(evaluation.tripped_monitors),
        strength=evaluation.strength,
    )


def _write_kept(context: RunContext, candidate: str | None, base: Path, target: Path) -> None:
    """The weights that a run backs up to: a candidate's, as `promote` stored it, or those of an untrained policy."""
    about = context.about
    if candidate is None:
        save_fresh_policy(target, context.config, base, about["policy"], run_seed=context.run_seed)
        return
    with tempfile.TemporaryDirectory() as scratch:
        storage = Storage.open(about["storage"])
        copy_policy(fetch_candidate(storage, about["experiment"], candidate, Path(scratch) / "kept"), target)


def _change(file: Path, values: Mapping[str, Any]) -> None:
    """Replace values of a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}, indent=2) + "\n", encoding="utf-8")
