"""`hrf presets`."""

from __future__ import annotations

from rich.table import Table

from hrf_pipelines.cli.console import AsJson, console, print_json


def presets(as_json: AsJson = False) -> None:
    """List the presets that a run can start from."""
    from hrf.config import list_presets

    found = list_presets()
    if as_json:
        print_json([{"name": preset.name, "description": preset.description} for preset in found])
        return
    table = Table("preset", "what it is")
    for preset in found:
        table.add_row(preset.name, preset.description)
    console().print(table)
