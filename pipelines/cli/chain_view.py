"""An experiment's runs and promotions in a terminal: one branch per run, then the chain back to the base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from hrf.promotion.chain import parse_time
from hrf.promotion.records import place_words
from hrf_pipelines.cli.tables import OUTCOME_COLOURS

STATE_COLOURS = {"finished": "green", "failed": "red", "terminated": "yellow", "unfinished": "cyan"}


def chain_view(chain: Mapping[str, Any]) -> RenderableType:
    """All of an experiment that has runs, for a terminal of 100 columns."""
    runs, promotions = chain["runs"], chain["promotions"]
    numbers = {link["candidate_id"]: link["sequence"] for link in promotions}
    presets = {run["preset"] for run in runs if run["preset"]}
    of_preset = f" of {escape(*presets)}" if len(presets) == 1 else ""
    count = f"{_count(len(runs), 'run')}{of_preset}, {_count(len(promotions), 'promotion')}"
    parts: list[RenderableType] = [f"Experiment {escape(chain['experiment'])}: {count}. Oldest first, times in UTC.\n"]
    parts += [_run_tree(run, numbers, with_preset=len(presets) > 1) for run in runs]
    if any(run["state"] == "unfinished" for run in runs):
        parts.append("\nunfinished: at work, paused or killed; the bucket can't tell which")
    return Group(*parts, *_links(chain))


def _run_tree(run: Mapping[str, Any], numbers: Mapping[str, int], *, with_preset: bool) -> Tree:
    """A run with one line per candidate, and what went wrong."""
    state = f"[{STATE_COLOURS[run['state']]}]{run['state']}[/]"
    start = "start not on record" if not run["start_known"] else f"from {_name(run['started_from'], numbers)}"
    about = [escape(run["run_id"]), state, start]
    about += [_minute(run["created"])] if run["created"] else []
    about += [escape(run["preset"])] if with_preset and run["preset"] else []
    about += [f"each candidate the mean of {run['replicas']} replicas"] if run["replicas"] > 1 else []
    tree = Tree("  ".join(about), highlight=False)
    for candidate in run["candidates"]:
        tree.add(_candidate_line(candidate, numbers))
        if candidate["number"] is not None:
            tree.children[-1].add(_verdict_line(candidate))
    failures = [_failure_words(failure) for failure in run["failures"][-1:]]
    for words in [run["error"]] if run["error"] else failures:
        tree.add(Text(words, style="red" if run["state"] == "failed" else ""))
    if not run["candidates"] and not tree.children:
        tree.add("no candidate")
    return tree


def _candidate_line(candidate: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    outcome = candidate["outcome"]
    word = f"promoted #{candidate['sequence']}" if outcome == "promoted" else outcome
    against = _name(candidate["incumbent_id"], numbers)
    gain = _signed(candidate["reward_vs_incumbent"]) if candidate["reward_vs_incumbent"] else ""
    words = {
        "promoted": f"{gain} over {against}",
        "rejected": f"{gain} against {against}: {escape(', '.join(candidate['failed_checks']))}",
        "lost": f"to {against}, which was evaluated under other settings",
        "undecided": "stored, not decided on",
    }[outcome]
    line = f"epoch {candidate['epoch']:<3} [{OUTCOME_COLOURS.get(outcome, 'cyan')}]{word:<13}[/] {words}"
    earlier = candidate["verdicts"] if outcome == "undecided" else candidate["verdicts"][:-1]
    if not earlier:
        return line
    overtaken = ", ".join(_name(verdict["incumbent_id"], numbers) for verdict in earlier)
    return f"{line}; judged before against {overtaken}"


def _verdict_line(candidate: Mapping[str, Any]) -> str:
    """The rest of what was decided on fresh seeds."""
    value, low, high = (f"{candidate['diversity_ratio'][end]:.3f}" for end in ("value", "low", "high"))
    level = f"{candidate['level']:.2g}"
    return escape(f"verdict {candidate['number']}, each test at level {level}; diversity {value} [{low}, {high}]")


def _links(chain: Mapping[str, Any]) -> list[RenderableType]:
    """The chain of promotions, newest first, down to the base."""
    base = chain["base"]
    revision = f"@{base['revision']}" if base and base["revision"] else ""
    named = f"the base: {base['source']}{revision}" if base else "the base"
    if not chain["promotions"]:
        return ["\nNothing is promoted yet: the next run starts from the base."]
    lines = [
        f"#{link['sequence']:<4} {escape(link['candidate_id'])}  {_minute(link['time'])}"
        for link in reversed(chain["promotions"])
    ]
    lines[0] += "  [green]the next run starts from it[/]"
    return ["\nPromotions, newest first; each beat the one below it", *lines, escape(f"      {named}")]


def _name(candidate_id: str | None, numbers: Mapping[str, int]) -> str:
    """A promoted candidate by its number, as `#3`."""
    if candidate_id is None:
        return "the base"
    return f"#{numbers[candidate_id]}" if candidate_id in numbers else escape(candidate_id)


def _signed(interval: Mapping[str, float]) -> str:
    """A difference with its interval, in as many digits as the interval is narrow."""
    width = max(interval["high"] - interval["low"], 1e-6)
    digits = max(3, -math.floor(math.log10(width)))
    value, low, high = (f"{interval[end]:+.{digits}f}" for end in ("value", "low", "high"))
    return escape(f"{value} [{low}, {high}]")


def _failure_words(failure: Mapping[str, Any]) -> str:
    where = place_words(failure["step"], failure["epoch"], failure["replica"])
    return f"{failure['error_type']} in {where}: {failure['message']}"


def _minute(text: str) -> str:
    return f"{parse_time(text).astimezone(UTC):%Y-%m-%d %H:%M}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
