"""Commands, settings and configurations of the pages are those that `hrf` takes."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hrf.config import resolve
from hrf.config.overrides import from_settings, lay_over
from hrf.core.window import Window
from hrf.rewards import CATALOGUE, family_of
from hrf.study.definition import Study
from hrf_pipelines.cli.main import app
from tests.docs.pages import ALL_PAGES, OTHER_PAGES, OUTSIDE_FENCES, PAGES, ROOT, fenced


def typed_commands() -> list[list[str]]:
    """Arguments of every `hrf` command line in a fenced block, without variables set before it and without comments."""
    commands = []
    for line in "\n".join(fenced("sh", ALL_PAGES + "\n".join(OTHER_PAGES.values()))).splitlines():
        if found := re.match(r"(?:[A-Z_]+=\S* )*hrf (.*)", line):
            commands.append(shlex.split(found[1], comments=True))
    return commands


def parse(arguments: list[str]) -> None:
    """Parse a command line as `hrf` would, without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("hrf", list(arguments))
    rest = list(arguments)
    while hasattr(command, "resolve_command") and rest:
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, list(rest), parent=context)
        # What the options of a group have left for its commands.
        rest = [*context._protected_args, *context.args] if hasattr(command, "resolve_command") else []


class TestCommands:
    def test_there_are_commands_to_check(self) -> None:
        here = {"run", "study", "compile", "presets", "doctor", "runs"}
        here |= {"report", "sample", "front", "rewards", "plan"}
        on_a_cluster = {"submit", "schedule", "schedules", "compare-runs"}
        assert here | on_a_cluster == {arguments[0] for arguments in typed_commands()}

    @pytest.mark.parametrize("arguments", typed_commands(), ids=" ".join)
    def test_a_command_line_is_one_that_hrf_takes(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in arguments:
            if re.fullmatch(r"[\w-]+\.\w+", name):  # A file of the reader's.
                Path(name).touch()
        # N stands for a number.
        parse(["1" if word == "N" else word for word in arguments])

    @pytest.mark.parametrize("arguments", [["run", "avatars-hrf", "--no-such-option"], ["runs", "no-such-command"]])
    def test_a_wrong_command_line_would_be_found(self, arguments: list[str]) -> None:
        with pytest.raises(Exception, match="No such"):
            parse(arguments)

    def test_commands_named_in_the_text_exist(self) -> None:
        command: Any = typer.main.get_command(app)
        for name in re.findall(r"`hrf ([a-z-]+)", OUTSIDE_FENCES):
            assert name in command.commands

    def test_options_named_in_the_text_exist(self) -> None:
        command: Any = typer.main.get_command(app)
        known = {option for sub in command.commands.values() for parameter in sub.params for option in parameter.opts}
        for group, name in (("runs", "show"), ("rewards", "fit-direction")):
            below = command.commands[group].commands[name]
            known |= {option for parameter in below.params for option in parameter.opts}
        server = (ROOT / "hrf" / "rewards" / "serve.py").read_text(encoding="utf-8")
        known |= set(re.findall(r'add_argument\("(--[a-z-]+)"', server))
        named = set(re.findall(r"`(--[a-z-]+)", OUTSIDE_FENCES))
        assert named <= known
        assert "--traceback" in named

    @pytest.mark.parametrize("arguments", [words for words in typed_commands() if words[0] in ("run", "compile")])
    def test_its_settings_make_a_configuration_that_can_be_run(self, arguments: list[str]) -> None:
        if arguments[1].endswith(".yaml"):
            return
        settings = [value for option, value in pairwise(arguments) if option == "--set"]
        epochs = arguments[arguments.index("--epochs") + 1] if "--epochs" in arguments else None
        changes = from_settings([*settings, *([f"run.epochs={epochs}"] if epochs else [])])
        resolve(arguments[1], lay_over("", changes))

    def test_make_has_the_targets(self) -> None:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(re.findall(r"^make ([\w-]+)", "\n".join(fenced("sh")), re.MULTILINE)) <= set(targets)

    def test_python_scripts_and_modules_exist(self) -> None:
        for words in re.findall(r"^python (.*)$", "\n".join(fenced("sh")), re.MULTILINE):
            name = words.removeprefix("-m ").split()[0]
            assert (ROOT / (name if name.endswith(".py") else name.replace(".", "/") + ".py")).is_file()

    def test_the_file_is_a_configuration_that_can_be_run(self) -> None:
        (text,) = fenced("yaml", PAGES["docs/configuration.md"])
        config = resolve("", text)
        assert config.switch_step == 6
        assert config.window_schedule(8).window(0) == Window(6, 8)

    @pytest.mark.parametrize("page", [page for page in PAGES if fenced("yaml", PAGES[page])])
    def test_every_configuration_shown_is_one_that_can_be_run(self, page: str) -> None:
        for text in fenced("yaml", PAGES[page]):
            if page == "docs/study.md":
                Study.from_yaml(text)
                continue
            if text.startswith("apiVersion:"):  # an object of Kubernetes
                assert {"kind", "metadata", "spec"} < set(yaml.safe_load(text))
                continue
            pinned = text.replace("40-HEX-DIGITS", "'" + 40 * "0" + "'").replace("64-HEX-DIGITS", "'" + 64 * "0" + "'")
            resolve("" if "extends:" in pinned else "avatars-compressibility", pinned)

    def test_fields_named_in_the_text_exist(self) -> None:
        config = resolve("sd15-compressibility").to_mapping()
        config["reward"] = {field for record in CATALOGUE for field in family_of(record.name).model_fields}
        for dotted in set(re.findall(rf"`((?:{'|'.join(config)})\.\w+)", OUTSIDE_FENCES)):
            top, field = dotted.split(".")
            # `update.json` and the like are files.
            assert field in ("json", "yaml") or field in config[top], dotted
