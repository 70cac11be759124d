"""The README and the site's pages against the code: links, names, and that the site is built without a complaint."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from hrf import errors
from hrf.config import list_presets
from hrf_pipelines.placement import ROLES
from tests.docs.pages import FENCE, OTHER_PAGES, PAGES, ROOT

README = PAGES["README.md"]


def links() -> list[tuple[str, str]]:
    """(page, link) of all links that stay within the project."""
    found = {
        (page, link)
        for page, text in {**PAGES, **OTHER_PAGES}.items()
        for link in [*re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)), *re.findall(r'src="([^"]+)"', text)]
    }
    return sorted((page, link) for page, link in found if not link.startswith("http"))


def anchors(page: Path) -> set[str]:
    """Of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestPages:
    @pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
    def test_what_is_announced_follows(self, page: str) -> None:
        """A colon before a heading, or a heading before one of no lower level, and something has been forgotten."""
        blocks = [block for block in FENCE.sub("(code)", {**PAGES, **OTHER_PAGES}[page]).split("\n\n") if block.strip()]
        for block, after in pairwise(blocks):
            level, level_after = (len(re.match(r"\s*(#*)", text)[1]) for text in (block, after))  # type: ignore[index]
            if level_after:
                assert not block.rstrip().endswith(":"), block
                assert level == 0 or level < level_after, block


def named_paths() -> list[tuple[str, str]]:
    """(page, path) of all that the pages name in the project's folders."""
    folders = "hrf|components|pipelines|images|manifests|tests|benchmarks|tools|docs"
    path = re.compile(rf"(?<![\w/.-])((?:{folders})/[\w./-]*[\w/])")
    return sorted({(page, named) for page, text in PAGES.items() for named in path.findall(text)})


class TestPaths:
    @pytest.mark.parametrize("page", sorted({page for page, _ in named_paths()}))
    def test_what_is_named_is_there(self, page: str) -> None:
        assert [path for of, path in named_paths() if of == page and not (ROOT / path).exists()] == []


class TestReadme:
    def test_it_is_one_page(self) -> None:
        assert len(README.splitlines()) <= 250

    def test_every_preset_is_listed(self) -> None:
        rows = re.findall(r"^\| \[`([\w-]+)`\]", README, re.MULTILINE)
        assert sorted(rows) == sorted(preset.name for preset in list_presets())

    def test_the_drawing_of_a_run_has_its_steps(self) -> None:
        drawing = (ROOT / "docs" / "figures" / "run.svg").read_text(encoding="utf-8")
        drawn = set(re.findall(r'<text class="name"[^>]*>(\w+)</text>', drawing))
        # They do what drawn steps do, for several of them at once; and few runs have replicas to merge.
        assert drawn == set(ROLES) - {"gather", "train", "merge"}


class TestImages:
    def test_each_image_is_said_to_run_the_steps_of_its_role(self) -> None:
        rows = re.findall(r"^\| `hrf-(\w+)` \| ([\w, ]+) \|", OTHER_PAGES["images/README.md"], re.MULTILINE)
        assert {step: role for role, steps in rows for step in steps.split(", ")} == ROLES


class TestLinks:
    @pytest.mark.parametrize(("page", "link"), links())
    def test_a_link_leads_to_a_file_and_to_a_heading_in_it(self, page: str, link: str) -> None:
        path, _, anchor = link.partition("#")
        target = ROOT / page if not path else (ROOT / page).parent / path
        assert target.is_file()
        assert not anchor or anchor in anchors(target)


class TestExitCodes:
    def test_the_table_has_the_codes_of_the_errors(self) -> None:
        rows = dict(re.findall(r"^\| (\d+) \| .*\(`(\w+)`\) \|$", PAGES["docs/exit-codes.md"], re.MULTILINE))
        kinds = [entry for entry in vars(errors).values() if isinstance(entry, type)]
        classes = [entry for entry in kinds if issubclass(entry, errors.HrfError)]
        assert rows == {
            str(error.exit_code): error.__name__
            for error in classes
            if error.__subclasses__() == [] or error.exit_code > 1
        }


class TestEquations:
    ROWS = re.findall(r"\| `(hrf\.[\w.]+)` \|", PAGES["docs/method.md"])

    def test_there_are_some(self) -> None:
        assert len(self.ROWS) > 10

    @pytest.mark.parametrize("dotted", ROWS)
    def test_the_function_exists(self, dotted: str) -> None:
        module, _, name = dotted.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


PACKAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("hrf", "components", "pipelines", "images", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("__init__.py")
)


class TestPackages:
    @pytest.mark.parametrize("path", PACKAGES)
    def test_each_says_its_line(self, path: str) -> None:
        """It stands in the list of rooms and in the reference's."""
        said = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        assert said.partition("\n")[0].endswith("."), f"{path}: its docstring has no first line that is a sentence"


FOUND = re.findall(r"^\| (.*\?) \| (.*) \|$", PAGES["CONTRIBUTING.md"], re.MULTILINE)


class TestFindTheFile:
    def test_there_are_ten_questions(self) -> None:
        assert len(FOUND) == 10

    @pytest.mark.parametrize(("question", "answer"), FOUND)
    def test_names_are_those_of_the_file_before_them(self, question: str, answer: str) -> None:
        """Links are held with all others."""
        files = re.split(r"\[[^\]]+\]\(([^)]+)\)", answer)
        assert len(files) > 1, question
        for path, said in zip(files[1::2], files[2::2], strict=True):
            if path.endswith(".py"):
                names = set(re.findall(r"`(\w+)`", said))
                assert names - defined(path) == set()


def defined(path: str) -> set[str]:
    """Names that a module defines."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


class TestSite:
    @pytest.fixture(scope="class")
    def site(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Built as `make docs` does: any link, anchor or reference that leads nowhere ends it."""
        folder = tmp_path_factory.mktemp("site")
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
        return folder

    @pytest.mark.slow
    def test_no_page_asks_another_server_for_anything(self, site: Path) -> None:
        pages = list(site.rglob("*.html"))
        assert len(pages) > 30
        for page in pages:
            text = page.read_text(encoding="utf-8")
            assert re.findall(r'(?:src|<link[^>]+href)="((?:https?:)?//[^"]+)"', text) == [], page
            assert 'class="mermaid"' not in text, f"{page}: the theme would fetch what draws it"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("page", "anchor"),
        [
            ("configuration", "update.clip_range"),
            ("configuration", "gate.monitors.edge_density"),
            ("configuration", "weighted_sum.terms"),
            ("commands", "hrf-runs-show"),
            ("presets", "avatars-hrf"),
            ("api/hrf.core", "hrf.core.objective.clipped_surrogate"),
        ],
    )
    def test_what_is_generated_is_there(self, site: Path, page: str, anchor: str) -> None:
        assert f'id="{anchor}"' in (site / page / "index.html").read_text(encoding="utf-8")
