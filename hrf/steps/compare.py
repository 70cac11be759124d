"""Compare: finished runs side by side, at the same cost. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hrf import __version__
from hrf.distributed.progress import emit
from hrf.report import compare_table, render_compare
from hrf.steps.context import step
from hrf.storage.folders import read_folder, writing_folder
from hrf.storage.names import SUMMARY_FILE


@step("compare")
def compare(*, arms: list[tuple[str, str]], report: str, summary: str) -> dict[str, Any]:
    """Put runs side by side.

    Args:
        arms: Names and summary folders.
        report: Output file: the report, one self-contained page.
        summary: Output folder: `compare.json`, the table as data.

    Returns:
        Reward and diversity of each arm, as flat numbers named after it.
    """
    folders = [(name, read_folder(folder)) for name, folder in arms]
    table = compare_table(folders)
    with writing_folder(summary, producer={"step": "compare", "hrf": __version__}) as folder:
        (folder / "compare.json").write_text(json.dumps({"arms": table}, indent=1) + "\n", encoding="utf-8")
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    Path(report).write_text(render_compare(folders), encoding="utf-8")
    emit("reported", report=report, summary=summary)
    metrics: dict[str, Any] = {}
    for name, folder in folders:
        record = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        last = next(epoch["evaluation"] for epoch in reversed(record["epochs"]) if epoch["evaluation"])
        metrics[f"{name}_reward_vs_base"] = last["reward_vs_base"]["value"]
        metrics[f"{name}_vendi_order2_ratio"] = last["diversity"]["vendi_order2_ratio"]["value"]
    return metrics
