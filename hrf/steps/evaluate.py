"""Evaluate: the candidate on the fixed seeds, against the base."""

from __future__ import annotations

from typing import Any

from hrf.distributed.progress import advance_reporter, emit
from hrf.evaluation.measure import evaluation_record
from hrf.evaluation.measured import Measured
from hrf.evaluation.samples import EvaluationStarts, measure_policy
from hrf.policies.folders import load_policy
from hrf.steps.context import RunContext, step
from hrf.steps.history import read_update
from hrf.steps.numbers import evaluation_metrics
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import EVALUATION_FILE, GRID_FILE
from hrf.storage.secrets import SCORING_SECRETS


@step("evaluate", when_stopped={"evaluation": ""}, secrets=SCORING_SECRETS)
def evaluate(*, run: str, base: str, policy: str, baseline: str, epoch: int, evaluation: str) -> dict[str, Any]:
    """Measure reward, diversity, fidelity and drift of a candidate.

    Args:
        run: Folder of the run.
        base: Folder of the base model.
        policy: Folder of the candidate; its averaged weights are measured where it has them.
        baseline: Folder of the baseline.
        epoch: From 0.
        evaluation: Output folder: `evaluation.json` and the sample grid.

    Returns:
        The record in flat numbers.
    """
    context = RunContext.read(run)
    config = context.config
    baseline_folder = read_folder(baseline)
    policy_folder = read_folder(policy)
    candidate = load_policy(config, read_folder(base), policy_folder, average=True, prompts=context.prompts_folder)
    starts = EvaluationStarts.load(baseline_folder)
    total = len(starts.states) * (config.sampler.steps - starts.step) * config.forwards
    measured, pictures = measure_policy(
        candidate,
        starts,
        config,
        classifier_folder=context.classifier,
        prompts=context.prompts,
        on_advance=advance_reporter("evaluate", epoch, total),
    )
    record = evaluation_record(
        measured,
        Measured.load(baseline_folder / "base"),
        settings=config.evaluation,
        limits=config.gate.monitors,
        epoch=epoch,
        num_evaluations=read_update(policy_folder, epoch).num_evaluations,
    )
    with writing_folder(evaluation, producer=context.producer("evaluate", epoch)) as folder:
        record.write(folder / EVALUATION_FILE)
        pictures.save(folder / GRID_FILE)
    reward, ratio = record.reward.as_json(), record.diversity.vendi_order2_ratio.as_json()
    emit("epoch-evaluated", epoch=epoch, reward=reward, diversity=ratio)
    return evaluation_metrics(record)
