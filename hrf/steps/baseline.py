"""Baseline: what every candidate is compared with, and the states that a split policy's runs share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hrf.config import Config
from hrf.distributed.progress import advance_reporter
from hrf.evaluation.measure import evaluation_record
from hrf.evaluation.measured import Measured
from hrf.evaluation.record import EvaluationRecord, StartRecord
from hrf.evaluation.samples import evaluation_starts, measure_policy
from hrf.planning.cost import pool_evaluations
from hrf.policies.folders import load_policy
from hrf.steps.context import RunContext, step
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import BASE_GRID_FILE, BASELINE_FILE, START_FILE
from hrf.storage.secrets import SCORING_SECRETS
from hrf.trainer.starts import draw_prefix_pool
from hrf.trainer.state import save_prefix_pool


@step("baseline", secrets=SCORING_SECRETS)
def baseline(*, run: str, base: str, policy: str, baseline: str) -> dict[str, Any]:
    """Measure the base and, where the run goes on from another policy, that one, on the fixed seeds.

    Returns:
        The base's reward and diversity.
    """
    context = RunContext.read(run)
    config, about = context.config, context.about
    base_folder, policy_folder = read_folder(base), read_folder(policy)
    untrained = load_policy(config, base_folder, base_folder, prompts=context.prompts_folder)
    report = advance_reporter("baseline", None, _num_evaluations(context, untrained.as_evaluated().switch_step))
    starts = evaluation_starts(untrained, config, report, context.prompts)
    measure = partial(
        measure_policy,
        starts=starts,
        config=config,
        classifier_folder=context.classifier,
        prompts=context.prompts,
        on_advance=report,
    )
    measured, pictures = measure(untrained)
    record = _evaluation(config, measured, measured)
    start, switch_step = record, untrained.switch_step
    if about["started_from"]:
        incumbent = load_policy(config, base_folder, policy_folder, prompts=context.prompts_folder)
        start, switch_step = _evaluation(config, measure(incumbent)[0], measured), incumbent.switch_step
    with writing_folder(baseline, producer=context.producer("baseline")) as folder:
        (folder / "base").mkdir()
        measured.save(folder / "base")
        starts.save(folder)
        if config.policy.prefix_pool:
            pool = draw_prefix_pool(
                untrained, config, run_seed=context.run_seed, prompts=context.prompts, on_advance=report
            )
            save_prefix_pool(pool, folder)
        record.write(folder / BASELINE_FILE)
        StartRecord(**dict(start), switch_step=switch_step).write(folder / START_FILE)
        pictures.save(folder / BASE_GRID_FILE)
    return {
        "reward": record.reward.value,
        "vendi_order2": record.diversity.vendi_order2.value,
        "prefix_pool": config.policy.prefix_pool,
    }


def _evaluation(config: Config, measured: Measured, base: Measured) -> EvaluationRecord:
    """The evaluation record of what this run has not trained yet."""
    return evaluation_record(
        measured, base, settings=config.evaluation, limits=config.gate.monitors, epoch=-1, num_evaluations=0
    )


def _num_evaluations(context: RunContext, evaluated_from: int) -> int:
    """Denoiser evaluations of this step, for the progress display."""
    config = context.config
    policies = 2 if context.about["started_from"] else 1
    each = evaluated_from + policies * (config.evaluation_steps - evaluated_from)
    return config.evaluation.num_samples * each * config.forwards + pool_evaluations(config)


def read_baseline(path: str) -> tuple[Path, EvaluationRecord]:
    """Verify a baseline folder; returns it and the base's evaluation record."""
    folder = read_folder(path)
    return folder, EvaluationRecord.read(folder / BASELINE_FILE)
