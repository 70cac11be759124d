"""What a run did, in words."""

from __future__ import annotations

from hrf.core.window import first_step_from
from hrf.report.formatting import count, duration, number, significant, steps
from hrf.report.summary import ReportedRun
from hrf.rewards import reward_words

METHODS = {
    "noise": "DDPO: every episode starts from pure noise",
    "shared": "HRF without re-noising: the episodes of a group leave one state at the switch step",
    "window": (
        "HRF: every episode starts from a finished sample of the current policy, re-noised to a step of the window"
    ),
    "selected": (
        "HRF-D: every episode starts from a finished sample of the current policy, re-noised to a step chosen per root "
        "by reward gained against features lost"
    ),
}
METHOD_NAMES = {"noise": "DDPO", "shared": "HRF from shared starts", "window": "HRF", "selected": "HRF-D"}


def method_name(summary: ReportedRun) -> str:
    """Short name, such as `HRF, split at step 10 of 20`; what is not configured is left out."""
    kind = _method(summary) or "method not recorded"
    name = METHOD_NAMES.get(kind, kind)
    switch = switch_step(summary)
    return name if switch is None else f"{name}, split at step {switch} of {summary.setting('sampler.steps')}"


def _method(summary: ReportedRun) -> str:
    """What its episodes start from, a key of `METHODS`; empty where that is not recorded."""
    return "shared" if summary.setting("rollout.share_start") else str(summary.setting("starts.kind") or "")


def switch_step(summary: ReportedRun) -> int | None:
    """First step that the tuned weights take; None without a split policy."""
    split, num_steps = summary.setting("policy.split"), summary.setting("sampler.steps")
    return first_step_from(float(split), int(num_steps)) if split and num_steps else None


def window_schedule(summary: ReportedRun) -> str:
    """The windows as they were used, such as `[0, 10) in epochs 0 to 2, [10, 20) in epochs 3 to 5`."""
    stages: list[tuple[tuple[int, int], int, int]] = []
    for entry in summary.epochs:
        window = entry.update.window
        if window is None:
            continue
        if stages and stages[-1][0] == window:
            stages[-1] = (window, stages[-1][1], entry.epoch)
        else:
            stages.append((window, entry.epoch, entry.epoch))
    spans = [
        f"{steps(window)} in " + (f"epoch {first}" if first == last else f"epochs {first} to {last}")
        for window, first, last in stages
    ]
    return ", ".join(spans)


def what_was_run(summary: ReportedRun) -> list[str]:
    """The run in a few sentences; what a summary does not record is left out."""
    kind = _method(summary)
    sentences = [f"{METHODS.get(kind, f'Method: {kind}') if kind else 'The method is not recorded'}."]
    switch, num_steps = switch_step(summary), summary.setting("sampler.steps")
    if switch is not None:
        sentences.append(
            f"Split policy: the base's weights take the steps before {switch} of {num_steps}, the tuned ones the rest."
        )
    elif num_steps is not None:
        sentences.append(f"The tuned weights take all {num_steps} sampler steps.")
    schedule = window_schedule(summary)
    if schedule:
        sentences.append(f"Window of start steps (half-open): {schedule}.")
    if summary.steered:
        last, _, steering = summary.steered[-1]
        stopped = f"; it stopped the run after epoch {last.epoch}" if steering.action == "stop" else ""
        sentences.append(f"A rule held the run above a diversity floor of {number(steering.floor, 2)}{stopped}.")
    sentences.append(f"Reward: {reward_words(summary.setting('reward') or {}, summary.base.reward.name)}.")
    shaping = summary.setting("shaping")
    if shaping:
        # Which way is better, the weight's sign says.
        second = reward_words(shaping["reward"], shaping["reward"]["name"]).removesuffix(": larger is better")
        sentences.append(f"Trained on that plus {significant(shaping['weight'])} × a second reward: {second}.")
    model = summary.setting("model.source")
    if model:
        sentences.append(f"Base model: {model}.")
    sentences.append(_budget(summary))
    sentences.append(_measurement(summary))
    return sentences


def _budget(summary: ReportedRun) -> str:
    num_epochs = len(summary.epochs)
    parts = [f"{num_epochs} epoch{'' if num_epochs == 1 else 's'}"]
    roots, branches = summary.setting("rollout.roots"), summary.setting("rollout.branches")
    if roots and branches:
        episodes = f"{roots} roots × {branches} branches"
        parts.append(
            f"{int(roots) * int(branches)} episodes each" if summary.setting("starts.kind") == "noise" else episodes
        )
    updates = sum(len(entry.update.updates) for entry in summary.epochs)
    if updates:
        parts.append(f"{count(updates)} optimizer updates")
    parts.append(f"{count(summary.num_evaluations)} denoiser evaluations")
    parts.append(f"{duration(summary.seconds)} of sampling, scoring and updating")
    return f"Budget: {', '.join(parts)}."


def _measurement(summary: ReportedRun) -> str:
    base = summary.base
    confidence = summary.setting("evaluation.confidence")
    level = "Intervals" if confidence is None else f"Intervals of {100 * float(confidence):g} %"
    return (
        f"Measured on {base.num_samples} fixed seeds that the base and every epoch share (η = {number(base.eta, 1)}); "
        f"{level.lower()} hold sampling noise over these seeds, not differences between training runs."
    )
