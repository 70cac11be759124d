"""Promote: put the candidate before the gate, and move the promoted pointer if it passes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.distributed.progress import emit
from hrf.evaluation.record import EvaluationRecord, StartRecord
from hrf.policies.architecture import Architecture
from hrf.policies.folders import evaluated_from
from hrf.policies.policy_folder import EVALUATED
from hrf.policies.strength import fold_strength
from hrf.promotion.protocol import Candidate, FreshSeeds
from hrf.promotion.protocol import promote as promote_candidate
from hrf.steps.context import RunContext, step
from hrf.steps.history import add_updates, extend_history
from hrf.steps.tracking import track
from hrf.steps.verdict import VerdictBench
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import BASELINE_FILE, CONFIG_FILE, EVALUATION_FILE, GRID_FILE, POLICY_FILE, START_FILE
from hrf.storage.objects import Storage
from hrf.storage.secrets import SCORING_SECRETS


@step("promote", when_stopped={"new_history": "history"}, secrets=SCORING_SECRETS)
def promote(
    *,
    run: str,
    base: str,
    policy: str,
    baseline: str,
    evaluation: str,
    epoch: int,
    new_history: str,
    history: str | None = None,
    fresh_seeds: bool = True,
) -> dict[str, Any]:
    """Decide on a candidate and record the decision.

    With `fresh_seeds`, a candidate that looks good on the fixed seeds is measured on those of a verdict; a study
    decides on the fixed ones.
    """
    context = RunContext.read(run)
    about, config = context.about, context.config
    baseline_folder, evaluation_folder, policy_folder = (read_folder(path) for path in (baseline, evaluation, policy))
    record = EvaluationRecord.read(evaluation_folder / EVALUATION_FILE)
    start = StartRecord.read(baseline_folder / START_FILE)
    base_folder = read_folder(base)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "candidate"
        with writing_folder(weights, producer=context.producer("promote", epoch)) as folder:
            _write_candidate(policy_folder, base_folder, context, record, folder)
        storage = Storage.open(about["storage"])
        bench = VerdictBench(context=context, storage=storage, base=base_folder, candidate=weights, record=record)
        verdict = FreshSeeds(error=config.gate.error, comparable=bench.comparable, measure=bench.measure)
        decided = promote_candidate(
            storage,
            about["experiment"],
            Candidate(
                run_id=about["run_id"],
                epoch=epoch,
                folder=weights,
                evaluation=record,
                evaluation_digest=about["evaluation_digest"],
            ),
            base_rewards=EvaluationRecord.read(baseline_folder / BASELINE_FILE).rewards,
            known_incumbents={about["started_from"]: start.rewards} if about["started_from"] else {},
            diversity_floor=config.gate_floor,
            confidence=config.evaluation.confidence,
            fresh_seeds=verdict if fresh_seeds else None,
        )
    with writing_folder(new_history, producer=context.producer("promote", epoch)) as folder:
        target = extend_history(history, folder, epoch, {"evaluation": record, "decision": decided})
        add_updates(policy_folder, folder)
        shutil.copyfile(evaluation_folder / GRID_FILE, target / GRID_FILE)
    emit("epoch-decided", epoch=epoch, outcome=decided.outcome)
    track(context, history=new_history, baseline=baseline)
    metrics: dict[str, Any] = {
        "outcome": decided.outcome,
        "promoted": int(decided.outcome == "promoted"),
        "candidate_id": decided.candidate_id,
    }
    if decided.reward_vs_incumbent:
        metrics["reward_vs_incumbent"] = decided.reward_vs_incumbent.value
        metrics["reward_vs_incumbent_low"] = decided.reward_vs_incumbent.low
    if decided.number is not None:
        metrics["verdict"], metrics["level"] = decided.number, decided.level
    return metrics


def _write_candidate(policy: Path, base: Path, context: RunContext, evaluation: EvaluationRecord, target: Path) -> None:
    """A policy as it would be shipped: diffusers' layout with the weights that were evaluated, and their origin."""
    fold_strength(policy, base, target, evaluation.strength)
    _say_how_evaluated(context.config, base, target / POLICY_FILE)
    shutil.copyfile(context.folder / CONFIG_FILE, target / CONFIG_FILE)
    evaluation.write(target / EVALUATION_FILE)


def _say_how_evaluated(config: Config, base: Path, policy_file: Path) -> None:
    """Tell the steps of evaluations, and from which of them on the weights are used, where training's are others."""
    if config.evaluation.steps is None:
        return
    about = json.loads(policy_file.read_text(encoding="utf-8"))
    about[EVALUATED] = {
        "steps": config.evaluation_steps,
        "eta": config.evaluation.eta,
        "switch_step": evaluated_from(Architecture.of(base), config, about["switch_step"]),
    }
    policy_file.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
