"""The tables of a run's report."""

from __future__ import annotations

from hrf.evaluation.monitors import MONITORS
from hrf.evaluation.record import Diversity, EvaluationRecord, MonitorReading
from hrf.promotion.records import DecisionRecord, HistoryEntry
from hrf.report.formatting import (
    count,
    duration,
    fraction,
    in_unit,
    interval,
    number,
    shortened,
    significant,
    steps,
    with_unit,
    words,
)
from hrf.report.page import Cell, Table, estimate_cell
from hrf.report.summary import ReportedRun
from hrf.rewards import reward_unit

_STEERING_TONES = {"keep": "good", "back_up": "bad", "stop": "muted"}
_NOT_EVALUATED: list[str | Cell] = [Cell("not evaluated", "muted"), *["–"] * 7]


def epoch_table(summary: ReportedRun) -> Table:
    """One row per epoch, the base first; columns in which no epoch has anything are left out."""
    unit = reward_unit(summary.base.reward.name)
    header = (
        "Epoch",
        "Outcome",
        "Start window",
        "Denoiser evaluations, time",
        in_unit("Rollout reward", unit),
        "Rollout shaping",
        in_unit("Reward", unit),
        in_unit("Gain", unit),
        "Vendi, order 2",
        "Diversity ratio",
        "Mode entropy",
        "Unrecog\u00adnised",
        "Held-out gain",
        "Strength",
    )
    rows: list[list[str | Cell]] = [["base", "–", "–", "0", "–", "–", *_measured_cells(summary.base, is_base=True)]]
    for entry in summary.epochs:
        update = entry.update
        rows.append(
            [
                str(entry.epoch),
                outcome_cell(entry.decision),
                steps(update.window),
                Cell(count(update.num_evaluations), detail=duration(sum(update.seconds.values()))),
                Cell(number(update.reward_mean), detail=f"± {number(update.reward_std)}"),
                number(update.shaping_mean),
                *(_measured_cells(entry.evaluation) if entry.evaluation else _NOT_EVALUATED),
            ]
        )
    kept = [column for column in range(len(header)) if any(_plain_text(row[column]) != "–" for row in rows)]
    return Table(
        caption="Every epoch; square brackets hold confidence intervals",
        header=[header[column] for column in kept],
        rows=[[row[column] for column in kept] for row in rows],
    )


def _plain_text(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def _measured_cells(record: EvaluationRecord, *, is_base: bool = False) -> list[str | Cell]:
    held_out = None if is_base else record.held_out_reward_vs_base
    return [
        estimate_cell(record.reward),
        "–" if is_base else estimate_cell(record.reward_vs_base, sign=True),
        estimate_cell(record.diversity.vendi_order2, 2),
        "1" if is_base else estimate_cell(record.diversity.vendi_order2_ratio, 2),
        number(record.mode_entropy, 2),
        fraction(record.unrecognised_fraction),
        estimate_cell(held_out, sign=True),
        f"{record.strength:.3g}" if record.front else "–",
    ]


def outcome_cell(decision: DecisionRecord | None) -> str | Cell:
    """The outcome of a decision; a dash without one."""
    if decision is None:
        return "–"
    return Cell(decision.outcome, "good" if decision.outcome == "promoted" else "bad")


def metric_table(summary: ReportedRun) -> Table:
    """Every metric of the base beside the shown epoch's."""
    header = ["Metric", "Base"]
    columns = [_metric_column(summary.base)]
    if summary.shown is not None:
        header.append(f"Epoch {summary.shown[0].epoch}")
        columns.append(_metric_column(summary.shown[1]))
    rows = [[pairs[0][0], *(value for _, value in pairs)] for pairs in zip(*columns, strict=True)]
    return Table(caption="All metrics of the base and of the epoch shown", header=header, rows=rows)


def _vendi_name(diversity: Diversity) -> str:
    return "Vendi score" if diversity.across_prompts_vendi_order2 is None else "Vendi score within prompts"


def _across_prompts(diversity: Diversity) -> list[tuple[str, str | Cell]]:
    score = diversity.across_prompts_vendi_order2
    return [] if score is None else [("Vendi score across prompts, order 2", number(score, 2))]


def _metric_column(record: EvaluationRecord) -> list[tuple[str, str | Cell]]:
    diversity, fidelity = record.diversity, record.fidelity
    score = fidelity.classifier_inception_score
    return [
        ("Reward", estimate_cell(record.reward, unit=reward_unit(record.reward.name))),
        ("Held-out reward", estimate_cell(record.held_out_reward)),
        (
            f"{_vendi_name(diversity)}, order 2 ({diversity.features})",
            estimate_cell(diversity.vendi_order2, 2),
        ),
        *_across_prompts(diversity),
        (f"Vendi score, order 1, at n = {record.num_samples}", number(diversity.vendi_order1, 2)),
        ("Mean pairwise cosine distance", number(diversity.mean_pairwise_distance, 3)),
        ("Mode entropy, nats", number(record.mode_entropy, 2)),
        ("Mean confidence of the classifier", number(record.mean_confidence, 3)),
        ("Coverage of the base's samples", number(fidelity.coverage, 3)),
        ("Density", number(fidelity.density, 3)),
        ("Fréchet distance to the base (classifier)", significant(fidelity.classifier_frechet_distance)),
        ("Inception score (classifier)", "–" if score is None else f"{number(score.mean, 2)} ± {number(score.std, 2)}"),
    ]


def monitor_table(summary: ReportedRun) -> Table | None:
    """Drift monitors at the shown epoch, and the epochs at which each was past its limit; None if there are none."""
    if summary.shown is None:
        return None
    entry, record = summary.shown
    rows: list[list[str | Cell]] = []
    for name, monitor in record.monitors.items():
        tripped = [str(other.epoch) for other, measured in summary.evaluated if name in measured.tripped_monitors]
        if monitor.limit is None:
            state = Cell("reported only", "muted")
        else:
            state = Cell("past the limit", "bad") if monitor.tripped else Cell("within", "good")
        values = (
            significant(monitor.base),
            significant(monitor.value),
            *_change_and_limit(name, monitor),
        )
        rows.append([words(name), *values, state, ", ".join(tripped) or "none"])
    header = ("Monitor", "Base", f"Epoch {entry.epoch}", "Change", "Limit", "State", "Epochs past the limit")
    return Table(caption="Drift monitors", header=header, rows=rows) if rows else None


_SCALES = {"absolute": (1, 3, ""), "relative": (100, 1, " %"), "circular": (1, 1, "°")}
"""How a kind of change is written: what it is multiplied by, its decimals, its unit."""


def _change_and_limit(name: str, monitor: MonitorReading) -> tuple[str, str]:
    """The change in its unit, and the limit in words, such as `rise of 0.15`; see `hrf.evaluation.monitors`."""
    kind = MONITORS.get(name)
    scale, decimals, unit = _SCALES["absolute" if kind is None else kind.change]
    change = "–" if monitor.change is None else number(scale * monitor.change, decimals, sign=True) + unit
    limit = f"{scale * (monitor.limit or 0):g}{unit}"
    if monitor.limit is None:
        return change, "none"
    directions = {"increase": "rise of ", "decrease": "fall of ", "either": "change of "}
    return change, directions.get(kind.direction if kind is not None else "", "") + limit


def _of_fresh_seeds(decision: DecisionRecord, unit: str) -> list[tuple[str, str]]:
    """Which verdict it was; or that the fixed seeds sufficed."""
    if decision.number is None:
        return [("Measured on", "the fixed seeds, those of selection")]
    return [
        ("Measured on", f"fresh seeds, those of verdict {decision.number}"),
        ("Level of each test", significant(decision.level)),
        ("Reward over the base", with_unit(interval(decision.reward_vs_base, 4, sign=True), unit)),
    ]


def decision_context(entry: HistoryEntry, decision: DecisionRecord, unit: str) -> dict[str, object]:
    """One promotion decision, as the template prints it."""
    error = decision.reward_vs_incumbent.standard_error if decision.reward_vs_incumbent else None
    confidence = "–" if decision.confidence is None else f"{100 * decision.confidence:g} %"
    facts_of_it = [
        ("Candidate", decision.candidate_id),
        ("Incumbent", decision.incumbent_id or "none: judged against the base"),
        ("Reward over the incumbent", with_unit(interval(decision.reward_vs_incumbent, 4, sign=True), unit)),
        ("Its standard error", number(error, 4)),
        ("Diversity ratio to the base", interval(decision.diversity_ratio, 3)),
        ("Diversity floor", number(decision.diversity_floor, 3)),
        ("Monitors past their limit", ", ".join(map(words, decision.monitors_tripped)) or "none"),
        ("Confidence of the intervals", confidence),
        *_of_fresh_seeds(decision, unit),
        ("Attempts", count(decision.attempts)),
        ("Sequence number", "–" if decision.sequence is None else str(decision.sequence)),
        ("Time", decision.time),
        ("Digest of the policy", shortened(decision.candidate_digest)),
        ("Digest of the evaluation", shortened(decision.evaluation_digest)),
    ]
    checks: list[list[str | Cell]] = [
        [words(check.name), Cell("passed", "good") if check.passed else Cell("failed", "bad"), check.detail]
        for check in decision.checks
    ]
    return {
        "epoch": entry.epoch,
        "outcome": outcome_cell(decision),
        "facts": facts_of_it,
        "checks": Table(
            caption=f"Checks of epoch {entry.epoch}", header=("Check", "Result", "Detail"), rows=checks, is_text=True
        ),
        # A promotion's reasons are the details of its checks once more.
        "reasons": [] if decision.outcome == "promoted" and decision.checks else decision.reasons,
    }


def steering_table(summary: ReportedRun) -> Table | None:
    """What the rule of a diversity floor did, a row per evaluation; None for a run without a floor."""
    rate = summary.setting("update.learning_rate")
    rows: list[list[str | Cell]] = [
        [
            str(entry.epoch),
            number(record.diversity.vendi_order2_ratio.low, 3),
            number(steering.floor, 3),
            Cell(words(steering.action), _STEERING_TONES.get(steering.action, "")),
            str(steering.steering.switch_step),
            "–" if rate is None else significant(float(rate) * steering.steering.rate_scale, 3),
            steering.reason,
        ]
        for entry, record, steering in summary.steered
    ]
    header = ("Epoch", "Lower bound", "Floor", "Action", "Switch step after it", "Learning rate after it", "Reason")
    caption = "After every evaluation: go on, more carefully, from an earlier candidate, or not at all"
    return Table(caption=caption, header=header, rows=rows, is_text=True) if rows else None


def replica_table(summary: ReportedRun) -> Table | None:
    """What each replica's rollouts were worth in an epoch, and which weights were averaged; None without replicas."""
    rows: list[list[str | Cell]] = [
        [
            str(entry.epoch),
            str(replica),
            steps(record.window),
            Cell(number(record.reward_mean), detail=f"± {number(record.reward_std)}"),
            significant(record.updates[-1].loss, 3) if record.updates else "–",
            count(record.num_evaluations),
            entry.merge.parents[replica].weights[:12] if entry.merge else "–",
        ]
        for entry in summary.epochs
        for replica, record in enumerate(entry.update.replicas)
    ]
    header = (
        "Epoch",
        "Replica",
        "Start window",
        "Rollout reward",
        "Last loss",
        "Denoiser evaluations",
        "Merged weights",
    )
    caption = "The chains whose weights are averaged before an evaluation; weights by their sha256"
    return Table(caption=caption, header=header, rows=rows) if rows else None


def identity_table(summary: ReportedRun) -> Table:
    """Who this run is."""
    run = summary.run
    rows = [
        ("Run", run["run_id"]),
        ("Experiment", run["experiment"]),
        ("Storage", run["storage"]),
        ("Preset", run["preset"] or "none"),
        ("Run seed", str(run["run_seed"])),
        ("Started from", run["started_from"] or "the base"),
    ]
    return Table(caption="Identity", header=("Field", "Value"), rows=rows, is_text=True)


def facts(caption: str, content: dict[str, object]) -> Table | None:
    """A flat table of a free-form record; None if it is empty."""
    rows = [(path, _plain(value)) for path, value in flatten(content) if value is not None]
    return Table(caption=caption, header=("Field", "Value"), rows=rows, is_text=True) if rows else None


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    return significant(value, 4) if isinstance(value, float) else str(value)


def flatten(content: object, path: str = "") -> list[tuple[str, object]]:
    """Nested mappings as (dotted path, value); lists stay values."""
    if not isinstance(content, dict):
        return [(path, content)]
    return [pair for key, value in content.items() for pair in flatten(value, f"{path}.{key}" if path else str(key))]
