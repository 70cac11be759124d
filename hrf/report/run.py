"""The report of one run."""

from __future__ import annotations

from pathlib import Path

import yaml

from hrf.promotion.records import Promotion
from hrf.report import curves, tables
from hrf.report.charts import NEUTRAL
from hrf.report.formatting import bounds, count, duration, in_unit, number, with_unit, words
from hrf.report.fronts import floor_rules, fronts
from hrf.report.page import Figure, Tile, render
from hrf.report.pictures import Picture, embed
from hrf.report.summary import ReportedRun
from hrf.report.wording import method_name, what_was_run
from hrf.rewards import reward_unit

GRID_BYTES = 450_000
FILMSTRIP_BYTES = 110_000
FILMSTRIP_LENGTH = 6


def render_run(summary_folder: Path) -> str:
    """The report of one run as a self-contained HTML page under 3 MB.

    Args:
        summary_folder: Output of the `summarize` step; its layout is in `hrf.report.summary`.

    Raises:
        ArtifactError: A file of the folder is absent, unreadable or lacks a field.
    """
    summary = ReportedRun.load(Path(summary_folder))
    unit = reward_unit(summary.base.reward.name)
    floor = summary.diversity_floor
    shown = summary.shown
    weighed = [(f"epoch {entry.epoch}", record.front) for entry, record in summary.evaluated if len(record.front) > 1]
    return render(
        "run.html",
        title=f"{summary.run['run_id']}: {method_name(summary)}",
        summary=summary,
        method=method_name(summary),
        sentences=what_was_run(summary),
        verdict=verdict(summary),
        tiles=tiles(summary),
        grids=grids(summary),
        filmstrip=filmstrip(summary),
        progress=[
            curves.per_epoch(summary, curves.reward_title(summary.base), lambda record: record.reward, decimals=3),
            curves.per_epoch(
                summary,
                "Diversity ratio to the base",
                lambda record: record.diversity.vendi_order2_ratio,
                decimals=2,
                rules=floor_rules(floor),
                colour=2,
            ),
            curves.plane(summary, floor, unit=unit),
            *([fronts(weighed, floor, unit=unit)] if weighed else []),
        ],
        epochs=tables.epoch_table(summary),
        modes=curves.modes(
            [("base", NEUTRAL, summary.base), *([(f"epoch {shown[0].epoch}", 0, shown[1])] if shown else [])]
        ),
        held_out=held_out(summary),
        metrics=tables.metric_table(summary),
        monitors=tables.monitor_table(summary),
        health=[*curves.training_health(summary), curves.gradient_by_step(summary)],
        decisions=[tables.decision_context(entry, decision, unit) for entry, decision in summary.decided],
        steering=tables.steering_table(summary),
        replicas=tables.replica_table(summary),
        identity=tables.identity_table(summary),
        totals=tables.facts("Totals", summary.totals),
        versions=tables.facts("Versions", summary.versions),
        pointer=tables.facts("The promoted policy when this run ended", _scalars(summary.promoted)),
        config=yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True),
    )


def verdict(summary: ReportedRun) -> Tile:
    """The headline: what became of the run's candidates."""
    promoted, decided = summary.promoted_epochs, summary.decided
    if promoted:
        later = [entry.epoch for entry, decision in decided if entry.epoch > promoted[-1].epoch]
        detail = "The policy after this epoch became the promoted one."
        if later:
            detail += f" {len(later)} later candidate{'s were' if len(later) > 1 else ' was'} not promoted."
        return Tile(label="Verdict", value=f"Promoted, epoch {promoted[-1].epoch}", detail=detail, tone="good")
    if decided:
        entry, decision = decided[-1]
        reasons = "; ".join(decision.reasons) or "no reason was recorded"
        value = "Not promoted" if decision.outcome == "rejected" else f"Not promoted: {decision.outcome}"
        return Tile(label="Verdict", value=value, detail=f"Epoch {entry.epoch}: {reasons}", tone="bad")
    if summary.evaluated:
        return Tile(
            label="Verdict", value="Not put to the gate", detail="No promotion was decided in this run.", tone="muted"
        )
    return Tile(label="Verdict", value="Not evaluated", detail="No epoch of this run was evaluated.", tone="muted")


def tiles(summary: ReportedRun) -> list[Tile]:
    """The headline numbers of the shown epoch; none without an evaluation."""
    if summary.shown is None:
        return []
    entry, record = summary.shown
    unit = reward_unit(record.reward.name)
    gain, ratio, floor = record.reward_vs_base, record.diversity.vendi_order2_ratio, summary.diversity_floor
    before_after = f"{number(summary.base.reward.value)} → {with_unit(number(record.reward.value), unit)}"
    floor_words, floor_tone = "no floor was set", ""
    if floor is not None:
        is_kept = ratio.low > floor
        floor_words = f"lower bound {'above' if is_kept else 'not above'} the floor of {number(floor, 2)}"
        floor_tone = "good" if is_kept else "bad"
    at = f", strength {record.strength:.3g}" if record.front else ""
    gain_tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else ""
    return [
        Tile(
            label=f"Reward gain, epoch {entry.epoch}{at}",
            value=with_unit(number(gain.value, sign=True), unit),
            detail=f"{bounds(gain, sign=True)}; {before_after}",
            tone=gain_tone,
        ),
        Tile(
            label=f"Diversity ratio, epoch {entry.epoch}{at}",
            value=number(ratio.value, 2),
            detail=f"{bounds(ratio, 2)}; {floor_words}",
            tone=floor_tone,
        ),
        Tile(
            label="Work",
            value=count(summary.num_evaluations),
            detail=f"denoiser evaluations in {len(summary.epochs)} epochs, {duration(summary.seconds)}",
        ),
    ]


def grids(summary: ReportedRun) -> list[Picture]:
    """Samples of the base and of the shown epoch from the same seeds; those whose picture is absent are left out."""
    pictures = [
        embed(
            summary.grid_file(None),
            alt="Samples of the base from the first fixed seeds",
            caption="Base",
            at_most_bytes=GRID_BYTES,
        )
    ]
    if summary.shown is not None:
        epoch = summary.shown[0]
        promoted = ", promoted" if epoch in summary.promoted_epochs else ""
        pictures.append(
            embed(
                summary.grid_file(epoch),
                alt=f"Samples of the tuned policy after epoch {epoch.epoch} from the same seeds, in the same order",
                caption=f"Tuned, epoch {epoch.epoch}{promoted}",
                at_most_bytes=GRID_BYTES,
            )
        )
    return [picture for picture in pictures if picture is not None]


def filmstrip(summary: ReportedRun) -> list[Picture]:
    """Samples of up to six evaluated epochs, evenly spread and the last included."""
    entries = [entry for entry, _ in summary.evaluated if summary.grid_file(entry) is not None]
    if len(entries) < 2:
        return []
    length = min(FILMSTRIP_LENGTH, len(entries))
    chosen = [entries[round(position * (len(entries) - 1) / (length - 1))] for position in range(length)]
    pictures = [
        embed(
            summary.grid_file(entry),
            alt=f"Samples after epoch {entry.epoch} from the fixed seeds",
            caption=f"Epoch {entry.epoch}",
            at_most_bytes=FILMSTRIP_BYTES,
        )
        for entry in chosen
    ]
    return [picture for picture in pictures if picture is not None]


def held_out(summary: ReportedRun) -> list[Figure]:
    """The held-out reward per epoch, if the run has one."""
    if summary.base.held_out_reward is None:
        return []
    name = summary.base.held_out_reward.name
    title = in_unit(f"Held-out reward ({words(name)})", reward_unit(name))
    return [curves.per_epoch(summary, title, lambda record: record.held_out_reward, decimals=3, colour=3)]


def _scalars(pointer: Promotion | None) -> dict[str, object]:
    """The pointer's own fields; the decision inside it stands among the decisions."""
    return pointer.model_dump(exclude={"decision"}) if pointer else {}
