"""MkDocs' hooks: the files of the site beside docs/, what is generated, and links as they have to be there.

Pages are written to be read where they lie, with links from file to file. Here such links are turned to the site's
pages; a link to a file that is no page keeps its text alone.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# MkDocs runs hooks by their file, from anywhere.
sys.path.insert(0, str(ROOT))

from tools.docs import commands, configuration  # noqa: E402

OUTSIDE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "images.md": "images/README.md",
    "manifests.md": "manifests/README.md",
    "model-card.md": "hrf/assets/avatars-32/README.md",
    "second-classifier.md": "hrf/assets/second-classifier/README.md",
    "studies.md": "benchmarks/studies/README.md",
}
"""Pages of the site whose files lie outside docs/."""
GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "fields": configuration.page,
    "presets": configuration.presets,
}
"""What stands in a page in place of `<!-- generated: NAME -->`."""
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_NAME = re.compile(r"(?<!\[)`(hrf(?:\.\w+){2,})`")
_SOURCE = re.compile(r'src="([^"]+)"')


def packages() -> list[str]:
    """Names of the library's packages, each a page of the reference."""
    return [f"hrf.{path.parent.name}" for path in sorted((ROOT / "hrf").glob("*/__init__.py"))]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The reference in the navigation."""
    assert config.nav is not None
    config.nav.append({"API reference": ["api/index.md", *({name: f"api/{name}.md"} for name in packages())]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that lie elsewhere, and those of the reference."""
    for uri, path in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for name in packages():
        files.append(File.generated(config, f"api/{name}.md", content=f"::: {name}\n"))
    lines = [f"| [`{name}`]({name}.md) | {_first_line(name)} |" for name in packages()]
    index = "# API reference\n\nThe rooms of the library.\n\n| package | what it is |\n|---|---|\n" + "\n".join(lines)
    files.append(File.generated(config, "api/index.md", content=index))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page with what is generated, and with the site's links."""
    del config
    for name, make in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    uri = page.file.src_uri
    if uri.startswith("api/"):
        return markdown
    here = ROOT / OUTSIDE.get(uri, f"docs/{uri}")
    parts = _FENCED.split(markdown)
    parts[::2] = [_with_site_links(_NAME.sub(_reference, part), here, uri, files) for part in parts[::2]]
    return "".join(parts)


def _reference(match: re.Match[str]) -> str:
    """A name of the library as a link into the reference, which has to have it."""
    return f"[{match[0]}][{match[1]}]" if ".".join(match[1].split(".")[:2]) in packages() else match[0]


def _first_line(package: str) -> str:
    text = (ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    return text.removeprefix('"""').partition("\n")[0].removesuffix('"""')


def _with_site_links(text: str, here: Path, uri: str, files: Files) -> str:
    def link(match: re.Match[str]) -> str:
        image, said, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        there = _on_site(target, here, uri, files)
        return said if there is None else f"{image}[{said}]({there})"

    def source(match: re.Match[str]) -> str:
        there = _on_site(match[1], here, uri, files)
        assert there is not None, f"{here}: {match[1]}"
        return f'src="{there}"'

    return _SOURCE.sub(source, _LINK.sub(link, text))


def _on_site(target: str, here: Path, uri: str, files: Files) -> str | None:
    """The link as it has to be in the site's page; None for a file of the project that is none of the site's."""
    path, _, anchor = target.partition("#")
    inside = os.path.relpath(os.path.normpath(here.parent / path), ROOT)
    if inside.startswith("hrf/presets/") and inside.endswith(".yaml"):
        anchor, inside = Path(inside).stem, "docs/presets.md"
    elsewhere = {path: uri for uri, path in OUTSIDE.items()}
    there = elsewhere.get(inside, inside.removeprefix("docs/") if inside.startswith("docs/") else "")
    if module := re.fullmatch(r"hrf/(\w+)/(\w+)\.py", inside):
        there, anchor = f"api/hrf.{module[1]}.md", f"hrf.{module[1]}.{module[2]}"
    if files.get_file_from_path(there) is None:
        # A page of docs/ that is absent is left for MkDocs to complain about.
        return target if inside.startswith("docs/") or not (ROOT / inside).exists() else None
    return posixpath.relpath(there, posixpath.dirname(uri) or ".") + (f"#{anchor}" if anchor else "")
