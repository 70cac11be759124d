"""Draws who imports whom: docs/rooms.svg, and the list of rooms in docs/architecture.md. Run it with `make rooms`.

Rooms are the packages in hrf/ and pipelines/, the loose files of hrf/, and components/. Their order, top to bottom, is
that of the `layers` contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import grimp

PROJECT = Path(__file__).resolve().parents[1]
PICTURE, PAGE = Path("docs/rooms.svg"), Path("docs/architecture.md")
_BEGIN, _END = "<!-- From here to the next mark written by `make rooms`. -->\n", "<!-- Written by hand again. -->\n"
#: Folders of the top level, as they are listed, with a line for those that are no packages.
_FOLDERS = {
    "pipelines": "",
    "components": "",
    "hrf": "",
    "images": "",
    "manifests": "What runs need in a Kubernetes namespace, as kustomize files; and the compiled pipeline.",
    "tests": "",
    "benchmarks": "",
    "tools": "",
    "docs": "These pages.",
}
_WITH_ROOMS = ("hrf", "pipelines")
#: The folders by the names that they are imported with, where these are others.
_PACKAGES = {"components": "hrf_components", "pipelines": "hrf_pipelines"}
_ROW_HEIGHT, _TEXT_WIDTH, _ARC_WIDTH, _UPWARDS_WIDTH = 24, 160, 260, 24

Arrow = tuple[str, str]


def main() -> None:
    """Write both."""
    (PROJECT / PICTURE).write_text(picture())
    (PROJECT / PAGE).write_text(page((PROJECT / PAGE).read_text()))


def rooms() -> list[str]:
    """All rooms, the highest layer first; the loose files of pipelines/ are one, `hrf_pipelines`."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return list(dict.fromkeys(_room(module) for layer in layers for module in re.split(r"\s*[|:]\s*", layer)))


def arrows() -> set[Arrow]:
    """Each pair of rooms of which a module of the first imports one of the second, from the code itself."""
    graph = grimp.build_graph("hrf", *_PACKAGES.values(), exclude_type_checking_imports=True, cache_dir=None)
    pairs = {
        (_room(module), _room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {
        (importer, imported)
        for importer, imported in pairs
        if importer != imported and "hrf" not in (importer, imported)
    }


def upwards(order: list[str], drawn: Iterable[Arrow]) -> set[Arrow]:
    """The arrows that should not be: from a room to one above it."""
    return {(importer, imported) for importer, imported in drawn if order.index(imported) < order.index(importer)}


def picture() -> str:
    """The SVG: rooms as lines of text; arrows down as arcs on their right, those upwards as red ones on their left."""
    order, drawn = rooms(), arrows()
    wrong = upwards(order, drawn)
    following = _following(drawn - wrong)
    # The dark ones last, over the pale ones.
    lines = sorted(drawn, key=lambda arrow: (arrow not in following, order.index(arrow[0]), order.index(arrow[1])))
    width, height = _UPWARDS_WIDTH + _TEXT_WIDTH + _ARC_WIDTH, _ROW_HEIGHT * len(order)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            'font-family="ui-monospace, monospace" font-size="13">',
            "<title>Who imports whom: every arrow goes down</title>",
            '<marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
            '<path d="M0 0L6 3L0 6z" fill="context-stroke"/></marker>',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *(
                _arc(order, arrow, "#d22" if arrow in wrong else "#d5dbe3" if arrow in following else "#345")
                for arrow in lines
            ),
            *(
                f'<text x="{_UPWARDS_WIDTH}" y="{row * _ROW_HEIGHT + 16}" fill="#123">{escape(_folder(room))}</text>'
                for row, room in enumerate(order)
            ),
            "</svg>\n",
        ]
    )


def page(text: str) -> str:
    """The page with its list written anew: every folder and room, and what is in it by its own docstring."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return "".join([before, _BEGIN, "\n", *_listing(), "\n", _END, after])


def _listing() -> Iterator[str]:
    for folder, line in _FOLDERS.items():
        yield f"- `{folder}/`: {line or _first_line(PROJECT / folder)}\n"
        if folder in _WITH_ROOMS:
            inner = [
                path for path in (PROJECT / folder).iterdir() if path.suffix in ("", ".py") and path.name[0] != "_"
            ]
            for path in sorted(inner, key=lambda path: (path.is_file(), path.name)):
                if path.is_file() or any(path.glob("*.py")):
                    yield f"    - `{path.name}{'/' if path.is_dir() else ''}`: {_first_line(path)}\n"


def _first_line(path: Path) -> str:
    """The first line of a module's or package's docstring."""
    source = path / "__init__.py" if path.is_dir() else path
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0]


def _room(module: str) -> str:
    """The room that a module belongs to."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    loose = package == "hrf_components" or (package == "hrf_pipelines" and not (PROJECT / package / name).is_dir())
    return package if loose or not name else f"{package}.{name}"


def _folder(room: str) -> str:
    """A room as it is called in the picture."""
    path = room.removeprefix("hrf_").replace(".", "/")
    return {"pipelines": "pipelines/*.py", "components": "components/"}.get(path, path)


def _following(downwards: set[Arrow]) -> set[Arrow]:
    """The arrows that follow from others: there is a longer way down, too."""
    reached: dict[str, set[str]] = {}

    def below(room: str) -> set[str]:
        if room not in reached:
            direct = {imported for importer, imported in downwards if importer == room}
            reached[room] = direct.union(*(below(imported) for imported in direct))
        return reached[room]

    return {
        (importer, imported)
        for importer, imported in downwards
        if any(imported in below(between) for start, between in downwards if start == importer)
    }


def _arc(order: list[str], arrow: Arrow, colour: str) -> str:
    """Half an ellipse from the middle of one line to that of the other, wider for a longer way."""
    start, end = (order.index(room) * _ROW_HEIGHT + _ROW_HEIGHT // 2 for room in arrow)
    down = end > start
    x, widest = (_UPWARDS_WIDTH + _TEXT_WIDTH, _ARC_WIDTH) if down else (_UPWARDS_WIDTH - 6, _UPWARDS_WIDTH)
    tall = abs(end - start) / 2
    wide = min(tall, widest * 2 * tall / (_ROW_HEIGHT * len(order)))
    path = f"M{x} {start + 3} A{wide:.0f} {tall:.0f} 0 0 1 {x} {end - 3}"
    return f'<path d="{path}" fill="none" stroke="{colour}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
