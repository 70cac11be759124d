"""The report that sets several arms side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrf.errors import ConfigError
from hrf.report import curves
from hrf.report.charts import NEUTRAL
from hrf.report.curves import Arm
from hrf.report.formatting import count, fraction, number, reward_unit, with_unit
from hrf.report.page import Cell, Table, estimate_cell, render
from hrf.report.pictures import Picture, embed
from hrf.report.summary import Epoch, Evaluation, Summary, read_summary
from hrf.report.tables import flatten, outcome_cell
from hrf.report.wording import method_name, reward_words

ALL_GRIDS_BYTES = 1_900_000
# Epochs of different arms end at different counts; this much over the shared budget still counts as equal.
EQUAL_WORK = 1.05


def _read_arms(arms: Sequence[tuple[str, Path]]) -> list[Arm]:
    if not arms:
        raise ConfigError("arms", expected="at least one arm", got=[], fix="name the summary folders to compare")
    names = [name for name, _ in arms]
    if len(set(names)) < len(names):
        raise ConfigError("arms", expected="a different name for each arm", got=names, fix="rename one of them")
    return [(name, read_summary(Path(folder))) for name, folder in arms]


def compare_table(arms: Sequence[tuple[str, Path]]) -> list[dict[str, object]]:
    """The comparison in numbers: one flat record per arm.

    Args:
        arms: (name, summary folder) of each.

    Returns:
        Per arm: `arm`, `method`, `outcome` (promoted if any epoch was, else of the last promotion decision),
        `evaluations`, `base_reward`, and under the prefixes `last_` (last evaluated epoch), `equal_` (last evaluated
        epoch within the work that all arms have spent) and `best_` (highest reward among the epochs whose diversity
        ratio has its lower bound above the floor): `epoch`, `evaluations`, `reward`, `gain`, `diversity_ratio` (each
        of these three with `_low` and `_high` too), `mode_entropy`, `unrecognised_fraction`, `coverage`. Values that
        do not exist are None.

    Raises:
        ConfigError: There is no arm, or two have one name.
        ArtifactError: A summary is absent or lacks a field.
    """
    read = _read_arms(arms)
    budget = shared_budget(read)
    return [_row(name, summary, budget) for name, summary in read]


def shared_budget(arms: Sequence[Arm]) -> int | None:
    """Denoiser evaluations that every arm has spent by its last evaluated epoch; None if an arm's are not known."""
    spent = [summary.num_evaluations_after(summary.evaluated[-1][0]) for _, summary in arms if summary.evaluated]
    known = [evaluations for evaluations in spent if evaluations is not None]
    return min(known) if len(known) == len(arms) else None


def _at_equal_work(summary: Summary, budget: int | None) -> tuple[Epoch, Evaluation] | None:
    return None if budget is None else summary.last_within(budget * EQUAL_WORK)


def _row(name: str, summary: Summary, budget: int | None) -> dict[str, object]:
    return {
        "arm": name,
        "method": method_name(summary),
        "outcome": arm_outcome(summary),
        "evaluations": summary.num_evaluations,
        "base_reward": summary.base.reward.value,
        **_measured("last", summary, summary.evaluated[-1] if summary.evaluated else None),
        **_measured("equal", summary, _at_equal_work(summary, budget)),
        **_measured("best", summary, summary.best_within_floor),
    }


def arm_outcome(summary: Summary) -> str | None:
    """`promoted` if any epoch was, else the outcome of the last decision; None without decisions."""
    if summary.promoted_epochs:
        return "promoted"
    return summary.decided[-1][1].outcome if summary.decided else None


def _measured(prefix: str, summary: Summary, pair: tuple[Epoch, Evaluation] | None) -> dict[str, object]:
    record = pair[1] if pair else None
    values: dict[str, object] = {
        "epoch": pair[0].epoch if pair else None,
        "evaluations": summary.num_evaluations_after(pair[0]) if pair else None,
    }
    estimates = {
        "reward": record.reward if record else None,
        "gain": record.reward_vs_base if record else None,
        "diversity_ratio": record.diversity.vendi_order2_ratio if record else None,
    }
    for key, estimate in estimates.items():
        values[key] = estimate.value if estimate else None
        values[f"{key}_low"] = estimate.low if estimate else None
        values[f"{key}_high"] = estimate.high if estimate else None
    values["mode_entropy"] = record.mode_entropy if record else None
    values["unrecognised_fraction"] = record.unrecognised_fraction if record else None
    values["coverage"] = record.fidelity.coverage if record else None
    return {f"{prefix}_{key}": value for key, value in values.items()}


def render_compare(arms: Sequence[tuple[str, Path]]) -> str:
    """The comparison of several arms as a self-contained HTML page under 3 MB.

    Args:
        arms: (name, summary folder) of each; the first gives the base that is shown.

    Raises:
        ConfigError: There is no arm, or two have one name.
        ArtifactError: A file of a folder is absent, unreadable or lacks a field.
    """
    read = _read_arms(arms)
    first = read[0][1]
    unit = reward_unit(first.base.reward.name)
    floors = {summary.diversity_floor for _, summary in read}
    floor = floors.pop() if len(floors) == 1 else None
    last = [
        (name, colour, summary.evaluated[-1][1]) for colour, (name, summary) in enumerate(read) if summary.evaluated
    ]
    return render(
        "compare.html",
        title="Comparison of " + ", ".join(name for name, _ in read),
        num_arms=len(read),
        reward=reward_words(first),
        num_samples=first.base.num_samples,
        notices=notices(read),
        results=result_tables(read, unit),
        figures=[
            curves.against_evaluations(read, curves.reward_title(first.base), lambda record: record.reward, decimals=3),
            curves.against_evaluations(
                read,
                "Diversity ratio to the base",
                lambda record: record.diversity.vendi_order2_ratio,
                decimals=2,
                rules=curves.floor_rules(floor),
            ),
            curves.plane(read, floor, unit=unit),
        ],
        grids=grids(read),
        modes=curves.modes([*last, ("base", NEUTRAL, first.base)]),
        differences=differences(read),
        methods=[(name, method_name(summary)) for name, summary in read],
    )


def notices(arms: Sequence[Arm]) -> list[str]:
    """What stands between the arms and a fair comparison; empty if nothing is known to."""
    found = []
    first = arms[0][1]
    for name, summary in arms[1:]:
        ours, theirs = first.base, summary.base
        if ours.reward.name != theirs.reward.name:
            found.append(
                f"{name} was trained on another reward ({theirs.reward.name}) than {arms[0][0]} ({ours.reward.name})."
            )
        elif (ours.num_samples, ours.eta, ours.evaluation_seed) != (
            theirs.num_samples,
            theirs.eta,
            theirs.evaluation_seed,
        ):
            found.append(f"{name} was evaluated with other samples than {arms[0][0]}: number, seed or η differ.")
        elif ours.reward.value != theirs.reward.value:
            found.append(
                f"{name} has another base than {arms[0][0]}, or was measured differently: the base's reward differs."
            )
    floors = {summary.diversity_floor for _, summary in arms}
    if len(floors) > 1:
        found.append("The arms have different diversity floors, so no floor is drawn.")
    spent = [summary.num_evaluations for _, summary in arms]
    known = [value for value in spent if value]
    if known and max(known) > 1.25 * min(known):
        found.append("The arms spent different amounts of work: compare them at equal work.")
    return found


def result_tables(arms: Sequence[Arm], unit: str) -> list[Table]:
    """Of each arm: the last evaluated epoch, the last within equal work, and the best that kept the diversity floor."""
    suffix = f", {unit}" if unit else ""
    header = (
        "Arm",
        "Epoch",
        "Denoiser evaluations",
        f"Reward{suffix}",
        f"Gain over the base{suffix}",
        "Diversity ratio",
        "Mode entropy",
        "Unrecognised",
        "Coverage",
        "Outcome",
    )
    last = [_result_row(name, s, s.evaluated[-1] if s.evaluated else None, "not evaluated") for name, s in arms]
    budget = shared_budget(arms)
    equal = [_result_row(name, s, _at_equal_work(s, budget), "no epoch within the budget") for name, s in arms]
    best = [_result_row(name, s, s.best_within_floor, "no epoch kept the floor") for name, s in arms]
    return [
        Table(caption="Last evaluated epoch of each arm", header=header, rows=last),
        *(
            [
                Table(
                    caption=f"At equal work: {count(budget)} denoiser evaluations, within 5 %",
                    header=header,
                    rows=equal,
                )
            ]
            if budget is not None and len(arms) > 1
            else []
        ),
        Table(
            caption="Highest reward that kept the diversity floor (chosen on these same seeds, hence optimistic)",
            header=header,
            rows=best,
        ),
    ]


def _result_row(name: str, summary: Summary, pair: tuple[Epoch, Evaluation] | None, absent: str) -> list[str | Cell]:
    if pair is None:
        return [name, Cell(absent, "muted"), *["–"] * 8]
    entry, record = pair
    return [
        name,
        str(entry.epoch),
        count(summary.num_evaluations_after(entry)),
        estimate_cell(record.reward),
        estimate_cell(record.reward_vs_base, sign=True),
        estimate_cell(record.diversity.vendi_order2_ratio, 2),
        number(record.mode_entropy, 2),
        fraction(record.unrecognised_fraction),
        number(record.fidelity.coverage, 3),
        outcome_cell(entry.decision),
    ]


def grids(arms: Sequence[Arm]) -> list[Picture]:
    """Samples of the base (the first arm's) and of each arm's last evaluated epoch, from the same seeds."""
    budget = ALL_GRIDS_BYTES // (len(arms) + 1)
    base = arms[0][1]
    pictures = [
        embed(
            base.grid_file(None),
            alt="Samples of the base from the first fixed seeds",
            caption="Base",
            at_most_bytes=budget,
        )
    ]
    for name, summary in arms:
        if not summary.evaluated:
            continue
        entry, record = summary.evaluated[-1]
        gain = with_unit(number(record.reward_vs_base.value, sign=True), reward_unit(record.reward.name))
        ratio = number(record.diversity.vendi_order2_ratio.value, 2)
        pictures.append(
            embed(
                summary.grid_file(entry),
                alt=f"Samples of arm {name} after epoch {entry.epoch} from the same seeds, in the same order",
                caption=f"{name}, epoch {entry.epoch}: gain {gain}, diversity ratio {ratio}",
                at_most_bytes=budget,
            )
        )
    return [picture for picture in pictures if picture is not None]


def differences(arms: Sequence[Arm]) -> Table | None:
    """The configuration fields in which the arms differ; None if they agree in all."""
    flat = [dict(flatten(summary.config)) for _, summary in arms]
    fields = [field for field in dict.fromkeys(key for config in flat for key in config) if field != "description"]
    absent = "not set"
    rows = []
    for field in fields:
        values = [str(config.get(field, absent)) for config in flat]
        if len(set(values)) > 1:
            rows.append([field, *values])
    header = ("Field", *(name for name, _ in arms))
    return Table(caption="Configuration fields that differ", header=header, rows=rows, is_text=True) if rows else None
