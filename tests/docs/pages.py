"""The README and the site's pages as text, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _read(*paths: Path) -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


PAGES = _read(ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
#: With configurations of other programs, with tables that other tests check, and with what has been and is gone.
OTHER_PAGES = _read(
    ROOT / "CHANGELOG.md",
    *(ROOT / folder / "README.md" for folder in ("images", "manifests", "benchmarks/studies")),
    *(ROOT / "hrf" / "assets").glob("*/README.md"),
)
ALL_PAGES = "\n".join(PAGES.values())
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTSIDE_FENCES = FENCE.sub("", ALL_PAGES)


def fenced(language: str, text: str = ALL_PAGES) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return [body for kind, body in FENCE.findall(text) if kind == language]
