"""The page of a study."""

from pathlib import Path


def render_study(folder: Path) -> str:
    return "<html></html>"
