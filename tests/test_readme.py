"""README and docs against the code: links, files, commands, numbers, and their lines of Python, which are run."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import pytest
import torch
import typer
import yaml
from diffusers import PNDMScheduler
from numpy.typing import NDArray

from hrf import errors
from hrf.config import Config, Evaluation, Monitors, list_presets, resolve, rewards
from hrf.config.overrides import from_settings, lay_over
from hrf.core.window import Window
from hrf.evaluation.measure import Measured, evaluation_record
from hrf.evaluation.monitors import MONITORS
from hrf.images import to_images
from hrf.policies.components import load_denoiser
from hrf.policies.diffusion import DiffusionPolicy
from hrf.policies.folders import load_policy, save_fresh_policy, save_policy, weights_of
from hrf.policies.kinds import normalise_base
from hrf.policies.text import embed_prompts
from hrf.promotion.gate import decide
from hrf.rewards import build_reward
from hrf.rewards.remote import RemoteScorer
from hrf.storage.objects import Storage
from hrf.storage.shipped import shipped_folder
from hrf.study.definition import Study
from hrf.trainer.update import UpdateMetrics
from hrf_pipelines.cli.main import app
from hrf_pipelines.placement import ROLES
from tests.hrf import tiny_stable_diffusion
from tests.hrf.candidates import EXPERIMENT, candidate_of, put_forward

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, ALL_PAGES = PAGES["README.md"], "\n".join(PAGES.values())
#: Of folders: with configurations of other programs, and with tables that other tests check.
OTHER_PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("images", "manifests", "benchmarks/studies", "hrf/assets/avatars-32")
    for path in (ROOT / folder / "README.md",)
}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTSIDE_FENCES = FENCE.sub("", ALL_PAGES)


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


def section(heading: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {heading!r}"
    return found[1]


def fenced(language: str, text: str = ALL_PAGES) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


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


def file_tree() -> list[str]:
    """Paths of the section Files: two spaces of indentation per level, a folder ends in a slash."""
    (block,) = fenced("text", section("Files"))
    above: list[str] = []
    paths = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above = above[:depth]
        paths.append("".join(above) + name)
        if name.endswith("/"):
            above.append(name)
    return paths


class TestFiles:
    @pytest.mark.parametrize("path", file_tree())
    def test_a_named_file_exists(self, path: str) -> None:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()

    @pytest.mark.parametrize("package", ["hrf", "components", "pipelines", "benchmarks"])
    def test_every_module_has_its_line(self, package: str) -> None:
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        told = {path for path in modules if path.startswith("pipelines/commands/") or path.endswith("__init__.py")}
        assert modules - told - set(file_tree()) == set()

    def test_every_preset_is_listed(self) -> None:
        rows = re.findall(r"^\| \[`([\w-]+)`\]", section("Use it"), re.MULTILINE)
        assert sorted(rows) == sorted(preset.name for preset in list_presets())


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
        here = {"run", "compare", "study", "compile", "presets", "doctor", "runs"}
        here |= {"report", "sample", "rewards", "plan"}
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
        for name in re.findall(r"`hrf ([a-z]+)", OUTSIDE_FENCES):
            assert name in command.commands

    def test_options_named_in_the_text_exist(self) -> None:
        command: Any = typer.main.get_command(app)
        known = {option for sub in command.commands.values() for parameter in sub.params for option in parameter.opts}
        known |= {option for parameter in command.commands["runs"].commands["show"].params for option in parameter.opts}
        server = (ROOT / "hrf" / "reward_server.py").read_text(encoding="utf-8")
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
        (text,) = fenced("yaml", section("Use it"))
        config = resolve("", text)
        assert config.switch_step == 12
        assert config.window_schedule(18).window(0) == Window(12, 18)

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
        families = [
            entry for name, entry in vars(rewards).items() if name.endswith("Reward") and isinstance(entry, type)
        ]
        config["reward"] = {field for family in families for field in family.model_fields}
        for dotted in set(re.findall(rf"`((?:{'|'.join(config)})\.\w+)", OUTSIDE_FENCES)):
            top, field = dotted.split(".")
            # `update.json` and the like are files.
            assert field in ("json", "yaml") or field in config[top], dotted


class TestExitCodes:
    def test_the_table_has_the_codes_of_the_errors(self) -> None:
        rows = dict(re.findall(r"^\| (\d+) \| .*\(`(\w+)`\) \|$", section("Exit codes"), re.MULTILINE))
        classes = [entry for entry in vars(errors).values() if isinstance(entry, type)]
        assert rows == {
            str(error.exit_code): error.__name__
            for error in classes
            if error.__subclasses__() == [] or error.exit_code > 1
        }


def glossary_names() -> set[str]:
    """What the first columns of the glossary's tables explain, and what its text names."""
    return set(re.findall(r"`(\w+)`", section("Glossary")))


def logged_names(path: str, function: str, variables: tuple[str, ...] = ()) -> set[str]:
    """Names in the dicts that a function returns or puts into the given variables, without those of nested dicts."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (body,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    names: set[str] = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Return) and node.value is not None:
            names |= dict_keys(node.value)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id in variables and node.value is not None:
                names |= dict_keys(node.value)
            if isinstance(target, ast.Subscript) and ast.unparse(target.value) in variables:
                names |= key_name(target.slice)
    return names


def dict_keys(node: ast.expr) -> set[str]:
    if not isinstance(node, ast.Dict):
        return set()
    keys = (
        dict_keys(value) if key is None else key_name(key) for key, value in zip(node.keys, node.values, strict=True)
    )
    return set().union(*keys)


def key_name(key: ast.expr) -> set[str]:
    if isinstance(key, ast.Constant):
        return {str(key.value)}
    if isinstance(key, ast.JoinedStr):
        # Named after a preset.
        return {"PRESET" + "".join(str(part.value) for part in key.values if isinstance(part, ast.Constant))}
    return set()


FLAT_OUTPUTS = [
    ("hrf/steps/check.py", "check"),
    ("hrf/steps/fetch.py", "fetch"),
    ("hrf/steps/prepare.py", "prepare"),
    ("hrf/steps/baseline.py", "baseline"),
    ("hrf/steps/sample.py", "sampling_metrics"),
    ("hrf/steps/score.py", "score"),
    ("hrf/steps/numbers.py", "update_metrics"),
    ("hrf/steps/numbers.py", "evaluation_metrics"),
    ("hrf/steps/promote.py", "promote"),
    ("hrf/steps/steer.py", "steer"),
    ("hrf/steps/summarize.py", "closing_metrics"),
    ("hrf/steps/compare.py", "compare"),
    ("hrf/steps/report_status.py", "report_status"),
]
RECORDS = [
    ("hrf/steps/update.py", "learn", ("record",)),
    ("hrf/steps/summarize.py", "_totals", ()),
    ("hrf/promotion.py", "_verdict", ("about", "decision")),
]


def measured(seed: int) -> Measured:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[Any]:
        return generator.random(shape)

    return Measured(
        rewards=draw(24),
        reward_name="brightness",
        held_out_rewards=draw(24),
        held_out_reward_name="redness",
        features=draw(24, 6).astype(np.float32),
        dark_pixel_fraction=draw(24),
        edge_density=draw(24),
        colour_entropy=draw(24),
        hue_vectors=draw(24, 2) / 2,
        exposures=draw(24, 3) / 2,
        probabilities=generator.dirichlet(np.ones(3), 24),
        labels=("cat", "dog", "unrecognised"),
    )


class TestGlossary:
    @pytest.mark.parametrize(("path", "function"), FLAT_OUTPUTS)
    def test_it_has_every_flat_output_of_the_steps(self, path: str, function: str) -> None:
        names = logged_names(path, function, ("metrics",))
        assert names, f"{path}: {function} returns no dict any more"
        assert names - glossary_names() == set()

    def test_no_step_is_left_out(self) -> None:
        decorated = {
            path.stem
            for path in (ROOT / "hrf" / "steps").glob("*.py")
            if re.search(r"^@step\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        }
        # `train` returns what `update` does, `gather` what `sample` does, and `numbers` holds what two of them return.
        named = {Path(path).stem for path, _ in FLAT_OUTPUTS} - {"numbers"} | {"update", "evaluate"}
        assert decorated - {"train", "gather"} == named

    @pytest.mark.parametrize(("path", "function", "variables"), RECORDS)
    def test_it_has_the_fields_of_the_records(self, path: str, function: str, variables: tuple[str, ...]) -> None:
        names = logged_names(path, function, variables)
        assert names
        assert names - glossary_names() == set()

    def test_it_has_every_metric_of_an_update(self) -> None:
        assert {field.name for field in fields(UpdateMetrics)} - glossary_names() == set()

    def test_it_has_everything_in_an_evaluation_and_in_a_decision(self) -> None:
        settings = Evaluation(num_samples=24)
        record = evaluation_record(
            measured(0), measured(1), settings=settings, limits=Monitors(), epoch=0, num_evaluations=0
        )
        names = {*record, *record["diversity"], *record["fidelity"], *record["monitors"], *record["reward"]}
        names |= set(record["monitors"]["edge_density"]) | set(record["fidelity"]["classifier_inception_score"])
        decision = decide(record, incumbent_rewards=[0.0] * 24, diversity_floor=0.9, confidence=0.95).as_record()
        assert {*names, *decision, *decision["checks"][0]} - glossary_names() == set()
        assert set(MONITORS) <= set(record["monitors"])


class TestEquations:
    ROWS = re.findall(r"\| `(hrf\.[\w.]+)` \|", section("Equations"))

    def test_there_are_some(self) -> None:
        assert len(self.ROWS) > 10

    @pytest.mark.parametrize("dotted", ROWS)
    def test_the_function_exists(self, dotted: str) -> None:
        module, _, name = dotted.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def first_python(heading: str) -> str:
    return fenced("python", section(heading))[0]


def with_values(code: str, **values: object) -> str:
    """The code with other values for variables that it sets at the beginning of a line."""
    for name, value in values.items():
        code, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", code, flags=re.MULTILINE)
        assert count == 1, f"the README's code sets {name} {count} times"
    return code


class TestOwnReward:
    def test_the_function_is_a_reward(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_rewards.py").write_text(
            fenced("python", section("Bring your own model, prompts and reward"))[0]
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
        config = resolve("avatars-smoke", "reward: {name: python, function: 'my_rewards:warmth'}")
        images = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
        expected = [image[0].mean() - image[2].mean() for image in images]
        np.testing.assert_allclose(build_reward(config.reward, None)(images), expected, rtol=1e-5, atol=1e-6)


class TestOwnRewardServer:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        """Of the server that docs/remote-reward.md shows: thirty lines that know nothing of this library."""
        shown: dict[str, Any] = {"__name__": "scorer"}
        exec(fenced("python", PAGES["docs/remote-reward.md"])[0], shown)
        with shown["HTTPServer"](("127.0.0.1", 0), shown["Scorer"]) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

    @pytest.mark.parametrize("prompts", [None, ["a cat"] * 7])
    def test_it_is_one_that_a_run_can_ask(self, url: str, prompts: list[str] | None) -> None:
        config = resolve("avatars-smoke", f"reward: {{name: remote, url: '{url}', scorer: warmth, batch_size: 3}}")
        images = np.random.default_rng(0).random((7, 3, 8, 8), dtype=np.float32)
        warmth = images[:, 0].mean(axis=(1, 2)) - images[:, 2].mean(axis=(1, 2))
        assert build_reward(config.reward, None)(images, prompts).tolist() == [float(number) for number in warmth]

    def test_it_says_what_it_is(self, url: str) -> None:
        assert RemoteScorer(url=url, scorer="warmth").health().range == (-1, 1)


class TestGettingAPromotedModel:
    def test_the_lines_download_it(
        self, storage: Storage, storage_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_forward(storage, candidate_of(tmp_path, "first", 0.1))
        monkeypatch.setenv("HRF_BUCKET", storage_uri)
        monkeypatch.chdir(tmp_path)
        exec(first_python("Get a promoted model").replace('"default"', repr(EXPERIMENT)), {})
        assert (tmp_path / "promoted" / "weights.bin").read_text() == "first 0.1"


def drawn(policy: DiffusionPolicy, num_images: int, prompts: torch.Tensor | None = None) -> torch.Tensor:
    """Our own samples, with noise from the generator that the README's lines take."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_images, *policy.sample_shape, generator=generator)
    with torch.no_grad():
        for step in range(policy.schedule.num_steps):
            mean, std = policy.transition(states, torch.full((num_images,), step), prompts=prompts)
            states = mean + std * torch.randn(states.shape, generator=generator)
    return states


class TestPlainDiffusers:
    # Few steps, half of them the reference's.
    PRESET = "avatars-smoke"
    NUM_IMAGES = 2

    SAMPLERS = ("", "sampler: {spacing: trailing, steps: 6}\nstarts: {windows: [{fractions: [0.5, 0.9]}]}")
    """As the preset has it; and a number of steps that does not divide the timesteps."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """The shipped one under a scheduler that has no clip_sample, as PNDM's, DPM-Solver's and Euler's have none."""
        model = Path(shutil.copytree(shipped_folder("avatars-32"), tmp_path / "model"))
        PNDMScheduler(set_alpha_to_one=True).save_pretrained(model / "scheduler")
        tiny_stable_diffusion.edit_json(model / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
        return model

    @pytest.fixture
    def folders(self, tmp_path: Path, model: Path, config: Config) -> tuple[Path, Path]:
        """A base, and one whose weights are visibly others, saved as a tuned policy with a switch step."""
        base, tuned = tmp_path / "base", tmp_path / "tuned"
        for folder in (base, tuned):
            folder.mkdir()
        normalise_base(model, base)
        denoiser = load_denoiser(base / "unet")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in denoiser.parameters():
                weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
        about = {"switch_step": config.switch_step, "sampler": config.sampler.model_dump(mode="json")}
        save_policy(tuned, denoiser, base, about, None)
        return base, tuned

    @pytest.fixture(params=SAMPLERS)
    def config(self, request: pytest.FixtureRequest) -> Config:
        return resolve(self.PRESET, request.param)

    def test_the_lines_make_the_pictures_of_our_own_policy(
        self, model: Path, folders: tuple[Path, Path], config: Config
    ) -> None:
        base, tuned = folders
        code = first_python("Run a promoted model with plain diffusers")
        made: dict[str, Any] = {}
        settings = {"reference_folder": str(model), "tuned_folder": str(tuned)}
        exec(with_values(code, **settings, num_images=self.NUM_IMAGES), made)
        images = made["images"]
        assert images.shape == (self.NUM_IMAGES, 3, 32, 32)
        policy = load_policy(config, base, tuned)
        # Where the last step does not lead to a finished sample, there is a rest of noise on it.
        assert images.abs().max() <= (1 if policy.schedule.alpha_bars[-1] == 1 else 1.05)
        assert policy.switch_step == policy.schedule.num_steps // 2
        # Float32: the two compute the same in another order.
        torch.testing.assert_close(images, drawn(policy, self.NUM_IMAGES), rtol=0, atol=1e-4)
        # The wrong half of the weights, or none of the tuned ones, would be seen.
        elsewhere = DiffusionPolicy(**{**policy.__dict__, "switch_step": policy.switch_step - 1})
        assert (images - drawn(elsewhere, self.NUM_IMAGES)).abs().max() > 1e-3


class TestPlainDiffusersWithAnAdapter:
    PROMPTS = ("a red cat", "a blue dog", "a wet fox")
    SETTINGS: ClassVar = {
        "model": {"source": "x", "guidance_scale": 3.0},
        "prompts": {"texts": list(PROMPTS)},
        "sampler": {"steps": 6},
    }

    @pytest.mark.parametrize(
        ("scheduler", "split", "spacing"),
        [
            ("DDIMScheduler", 0.0, "trailing"),
            ("DDIMScheduler", 0.5, "leading"),
            ("PNDMScheduler", 0.5, "leading"),
            ("EulerDiscreteScheduler", 0.5, "leading"),
            ("DPMSolverMultistepScheduler", 0.5, "leading"),
        ],
    )
    def test_the_lines_make_the_pictures_of_our_own_policy(
        self, scheduler: str, split: float, spacing: str, tmp_path: Path
    ) -> None:
        """Kills: an adapter that is on from the start, or from a step too late on; latents clipped where the base's
        scheduler has no clip_sample; the offset that StableDiffusionPipeline puts into its scheduler."""
        model = tiny_stable_diffusion.save(tmp_path / "model")
        if scheduler != "DDIMScheduler":
            settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
            getattr(diffusers, scheduler)(**settings).save_pretrained(model / "scheduler")
            tiny_stable_diffusion.edit_json(model / "model_index.json", scheduler=["diffusers", scheduler])
            assert "clip_sample" not in (model / "scheduler" / "scheduler_config.json").read_text()
        base, fresh, tuned = (tmp_path / name for name in ("base", "fresh", "tuned"))
        for folder in (base, fresh, tuned):
            folder.mkdir()
        normalise_base(model, base)
        embed_prompts(base, self.PROMPTS, negative="").save(base)
        config = Config.from_mapping({**self.SETTINGS, "policy": {"lora": {"rank": 2, "alpha": 4}, "split": split}})
        config = config.with_changes({"sampler": {"spacing": spacing}})
        about = {"switch_step": config.switch_step, "sampler": config.sampler.model_dump(mode="json")}
        save_fresh_policy(fresh, config, base, about, run_seed=0)
        policy = load_policy(config, base, fresh, prompts=base)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in policy.denoiser.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        save_policy(tuned, policy.denoiser, base, about, None, weights_of(config))

        code = fenced("python", section("Run a promoted model with plain diffusers"))[1]
        settings = {"base_folder": str(model), "tuned_folder": str(tuned), "prompts": list(self.PROMPTS)}
        made: dict[str, Any] = {}
        exec(with_values(code, **settings, guidance_scale=3.0), made)
        theirs = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in made["images"]]).transpose(0, 3, 1, 2)

        def ours(policy: DiffusionPolicy) -> NDArray[np.float32]:
            samples = drawn(policy, len(self.PROMPTS), torch.arange(len(self.PROMPTS)))
            return to_images(policy.decode(samples).numpy())

        assert policy.switch_step == (3 if split else 0)
        assert np.abs(ours(policy) - theirs).max() < 1 / 255
        elsewhere = DiffusionPolicy(**{**policy.__dict__, "switch_step": policy.switch_step + 1})
        assert np.abs(ours(elsewhere) - theirs).max() > 2 / 255
