"""The charts of a report, made from one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from hrf.evaluation.record import EvaluationRecord, Interval
from hrf.networks.labels import UNRECOGNISED
from hrf.report.charts import Axis, Bars, Point, Rule, Series, bar_chart, legend, line_chart
from hrf.report.formatting import in_unit, interval, significant
from hrf.report.fronts import floor_rules, gain_axis
from hrf.report.page import Figure
from hrf.report.summary import ReportedRun
from hrf.rewards import reward_unit
from hrf.trainer.record import EpochRecord, UpdateMetrics

BASE = "base"
NOT_EVALUATED = "No epoch was evaluated."


def _point(x: float, estimate: Interval, *, text: str) -> Point:
    return Point(x=x, y=estimate.value, y_range=(estimate.low, estimate.high), text=text)


def _history(summary: ReportedRun) -> list[tuple[str, float, EvaluationRecord]]:
    """(name, place on the epoch axis, evaluation) of the base and of every evaluated epoch."""
    places = {id(entry): float(index + 1) for index, entry in enumerate(summary.epochs)}
    tuned = [(f"epoch {entry.epoch}", places[id(entry)], evaluation) for entry, evaluation in summary.evaluated]
    return [(BASE, 0.0, summary.base), *tuned]


def _epoch_axis(summary: ReportedRun) -> Axis:
    labels = [(0.0, BASE), *((index + 1.0, str(entry.epoch)) for index, entry in enumerate(summary.epochs))]
    return Axis(name="epoch", labels=labels)


def per_epoch(
    summary: ReportedRun,
    title: str,
    quantity: Callable[[EvaluationRecord], Interval | None],
    *,
    decimals: int,
    rules: Sequence[Rule] = (),
    colour: int = 0,
) -> Figure:
    """One quantity with its interval against the epoch, the base first."""
    points = []
    for name, place, evaluation in _history(summary):
        estimate = quantity(evaluation)
        if estimate is not None:
            points.append(_point(place, estimate, text=f"{name}: {interval(estimate, decimals)}"))
    described = f"{title}. " + "; ".join(point.text for point in points)
    drawn = line_chart(
        [Series(name=title, points=points, colour=colour)], description=described, x=_epoch_axis(summary), rules=rules
    )
    return Figure(title=title, chart=drawn, absent=NOT_EVALUATED)


def plane(summary: ReportedRun, floor: float | None, *, unit: str) -> Figure:
    """Reward gain to the right, diversity ratio upwards: the run's path from the base on."""
    run_id, history = summary.run["run_id"], _history(summary)
    points = []
    for index, (name, _, evaluation) in enumerate(history):
        gain, ratio = evaluation.reward_vs_base, evaluation.diversity.vendi_order2_ratio
        is_last = index == len(history) - 1
        points.append(
            Point(
                x=gain.value,
                y=ratio.value,
                x_range=(gain.low, gain.high) if is_last and index else None,
                y_range=(ratio.low, ratio.high) if is_last and index else None,
                label=name.removeprefix("epoch ") if index == 0 or is_last or len(history) <= 8 else "",
                text=f"{run_id}, {name}: gain {interval(gain, sign=True)}, ratio {interval(ratio, 2)}",
            )
        )
    drawn = line_chart(
        [Series(name=run_id, points=points, bars=True)],
        description="Diversity ratio against reward gain, the path from the base over the epochs. " + points[-1].text,
        x=gain_axis(unit),
        y=Axis(includes=[1.0]),
        rules=floor_rules(floor, shade=True),
    )
    note = "Up and to the right is better; crosses are the intervals of each path's last point."
    return Figure(title="Diversity ratio against reward gain", chart=drawn, note=note)


def modes(measured: Sequence[tuple[str, int, EvaluationRecord]]) -> Figure:
    """Mode histograms side by side, of (name, colour, evaluation) each; those without modes are left out."""
    title = "Samples per mode"
    known = [(name, colour, evaluation.modes) for name, colour, evaluation in measured if evaluation.modes]
    names = list(dict.fromkeys(mode for _, _, histogram in known for mode in histogram if mode != UNRECOGNISED))
    if any(UNRECOGNISED in histogram for _, _, histogram in known):
        names.append(UNRECOGNISED)
    groups = [
        Bars(name=name, colour=colour, values=[histogram.get(mode) for mode in names])
        for name, colour, histogram in known
    ]
    described = "Samples per mode. " + "; ".join(
        f"{name}: " + ", ".join(f"{mode} {size}" for mode, size in histogram.items()) for name, _, histogram in known
    )
    drawn = bar_chart(names, groups, description=described) if known else None
    absent = "This run has no mode histogram: its features are not a classifier's."
    return Figure(title=title, chart=drawn, legend=legend([(name, colour) for name, colour, _ in known]), absent=absent)


def training_health(summary: ReportedRun) -> list[Figure]:
    """Loss, what the trust region held, approximate KL and gradient norm per optimizer update.

    What no update recorded has no figure: an objective without ratios has no trust region.
    """
    updates = [update for entry in summary.epochs for update in entry.update.updates]
    quantities: tuple[tuple[str, Callable[[UpdateMetrics], float | None]], ...] = (
        ("Loss", lambda update: update.loss),
        ("Clip fraction", lambda update: update.clip_fraction),
        ("Approximate KL", lambda update: update.approx_kl),
        ("Dropped fraction", lambda update: update.dropped_fraction),
        ("Gradient norm, before clipping", lambda update: update.grad_norm),
    )
    penalties = [update.kl_to_reference for update in updates if update.kl_to_reference]
    if penalties:
        quantities = (*quantities, ("KL to the reference", lambda update: update.kl_to_reference))
    if len({update.learning_rate for update in updates}) > 1:
        quantities = (*quantities, ("Learning rate", lambda update: update.learning_rate))
    figures = []
    for title, quantity in quantities:
        points = [
            Point(x=float(place), y=value, text=f"update {place}: {significant(value)}")
            for place, update in enumerate(updates, start=1)
            if (value := quantity(update)) is not None
        ]
        if not points:
            continue
        described = (
            f"{title} over {len(points)} updates, from {significant(points[0].y)} to {significant(points[-1].y)}."
        )
        drawn = line_chart([Series(name=title, points=points)], description=described, x=Axis(name="update"))
        figures.append(Figure(title=title, chart=drawn, absent="No update recorded it."))
    return figures


def gradient_by_step(summary: ReportedRun) -> Figure:
    """Gradient norm per trained sampler step in the first and in the last epoch that recorded it."""
    title = "Gradient norm by sampler step"
    recorded = [entry.update for entry in summary.epochs if entry.update.grad_norm_by_step]
    chosen = recorded[:1] + recorded[1:][-1:]
    all_series = [
        Series(name=f"epoch {update.epoch}", points=_norms(update), colour=colour)
        for colour, update in enumerate(chosen)
    ]
    if not all_series:
        return Figure(title=title, chart=None, absent="No update recorded it.")
    last = [point.y for point in all_series[-1].points]
    note = ""
    if median(last) > 0:
        note = (
            f"In the first update of an epoch. Largest step over the median step in epoch {chosen[-1].epoch}: "
            f"{max(last) / median(last):.1f}."
        )
    drawn = line_chart(
        all_series, description=f"{title}. {note}", x=Axis(name="sampler step (0 = noisiest)"), y=Axis(includes=[0.0])
    )
    return Figure(
        title=title, chart=drawn, legend=legend([(series.name, series.colour) for series in all_series]), note=note
    )


def _norms(update: EpochRecord) -> list[Point]:
    return [
        Point(x=step, y=norm, text=f"epoch {update.epoch}, step {step}: {significant(norm)}")
        for step, norm in sorted(update.grad_norm_by_step.items())
    ]


def reward_title(evaluation: EvaluationRecord) -> str:
    """Title of a reward chart, with the unit."""
    return in_unit("Reward", reward_unit(evaluation.reward.name))
