"""Evaluate: the candidate on the fixed seeds, against the base."""

from __future__ import annotations

from typing import Any

from hrf.distributed.progress import advance_reporter, emit
from hrf.evaluation.bench import Bench
from hrf.evaluation.measured import Measured
from hrf.evaluation.samples import EvaluationStarts
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
    bench = Bench(
        config=config,
        base=read_folder(base),
        measured_base=Measured.load(baseline_folder / "base"),
        starts=EvaluationStarts.load(baseline_folder),
        classifier_folder=context.classifier,
        prompts_folder=context.prompts_folder,
    )
    record, pictures = bench.measure(
        policy_folder,
        strength=1.0,
        epoch=epoch,
        num_evaluations=read_update(policy_folder, epoch).num_evaluations,
        on_advance=advance_reporter("evaluate", epoch, bench.num_evaluations),
    )
    with writing_folder(evaluation, producer=context.producer("evaluate", epoch)) as folder:
        record.write(folder / EVALUATION_FILE)
        pictures.save(folder / GRID_FILE)
    reward, ratio = record.reward.as_json(), record.diversity.vendi_order2_ratio.as_json()
    emit("epoch-evaluated", epoch=epoch, reward=reward, diversity=ratio)
    return evaluation_metrics(record)
