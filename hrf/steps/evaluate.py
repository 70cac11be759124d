"""Evaluate: the candidate on the fixed seeds, against the base; and at which strength it goes before the gate."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image

from hrf.distributed.progress import advance_reporter, emit
from hrf.evaluation.bench import Bench
from hrf.evaluation.measured import Measured
from hrf.evaluation.record import EvaluationRecord, FrontPoint
from hrf.evaluation.samples import EvaluationStarts
from hrf.promotion.floor import smallest_strength
from hrf.promotion.strongest import choose, search
from hrf.steps.context import RunContext, step
from hrf.steps.history import read_update
from hrf.steps.numbers import evaluation_metrics
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import EVALUATION_FILE, GRID_FILE
from hrf.storage.secrets import SCORING_SECRETS


@step("evaluate", when_stopped={"evaluation": ""}, secrets=SCORING_SECRETS)
def evaluate(*, run: str, base: str, policy: str, baseline: str, epoch: int, evaluation: str) -> dict[str, Any]:
    """Measure reward, diversity, fidelity and drift of a candidate.

    Where `evaluation.num_strengths` says so and the candidate doesn't keep the diversity floor as it is, weaker ones
    are measured, too, and the record is that of the strongest that does.

    Of a policy with averaged weights, these are measured.

    Returns:
        The record in flat numbers.
    """
    context = RunContext.read(run)
    config = context.config
    policy_folder = read_folder(policy)
    bench = bench_of(context, base=base, baseline=baseline)
    most, floor = config.evaluation.num_strengths, config.gate_floor
    spent = read_update(policy_folder, epoch).num_evaluations
    # As many as there can be: how many it takes, only they tell.
    report = advance_reporter("evaluate", epoch, (1 + most) * bench.num_evaluations)
    taken: dict[float, tuple[EvaluationRecord, Image]] = {}

    def measure(strength: float) -> FrontPoint:
        taken[strength] = bench.measure(
            policy_folder, strength=strength, epoch=epoch, num_evaluations=spent, on_advance=report
        )
        return taken[strength][0].at_strength

    front = search(measure, floor=floor, most=most, smallest=smallest_strength(config.diversity_floor is not None))
    record, pictures = taken[choose(front, floor=floor).strength]
    if most:
        record = record.model_copy(update={"front": tuple(front)})
    with writing_folder(evaluation, producer=context.producer("evaluate", epoch)) as folder:
        record.write(folder / EVALUATION_FILE)
        pictures.save(folder / GRID_FILE)
    reward, ratio = record.reward.as_json(), record.diversity.vendi_order2_ratio.as_json()
    emit("epoch-evaluated", epoch=epoch, reward=reward, diversity=ratio, strength=record.strength)
    return evaluation_metrics(record)


def bench_of(context: RunContext, *, base: str, baseline: str) -> Bench:
    """Where a run's candidates are measured, of the folders of its base model and its baseline."""
    measured = read_folder(baseline)
    return Bench(
        config=context.config,
        base=read_folder(base),
        measured_base=Measured.load(measured / "base"),
        starts=EvaluationStarts.load(measured),
        classifier_folder=context.classifier,
        prompts_folder=context.prompts_folder,
    )
