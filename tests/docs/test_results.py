"""The results of the pages: what the committed tables give, word for word."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks import results
from hrf.config import resolve
from hrf.errors import ArtifactError, ConfigError
from hrf.study.definition import Study
from hrf.study.report import read_results
from hrf.study.table import frame_of, read_table_file
from tests.hrf.study_folders import definition, row, rows

ROOT = results.PROJECT
MARKERS = [
    (results.BEGIN, results.END),
    (results.FRESH_BEGIN, results.FRESH_END),
    (results.PRESETS_BEGIN, results.PRESETS_END),
]


def test_the_pages_and_their_figure_are_what_the_committed_table_gives():
    if not (ROOT / results.TABLE).is_file():
        pytest.skip(f"NO RESULTS ARE CHECKED: {results.TABLE} is not committed yet")
    assert results.differing(ROOT) == [], "run python -m benchmarks.results"


def test_sentences_hold_no_number_that_is_written_by_hand():
    words = yaml.safe_load((ROOT / results.WORDS).read_text(encoding="utf-8"))
    for sentence in words["sentences"] + words["brief"] + words["fresh"]:
        by_hand = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`.*?`", "", sentence, flags=re.DOTALL)
        # The confidence is that of `hrf.study.matching`; names such as order-2 are none.
        assert re.findall(r"(?<![\w-])\d[\d.,]*", by_hand.replace("95% intervals", "")) == []


def test_the_presets_study_trains_the_presets_as_they_ship():
    study = Study.from_yaml((ROOT / results.STUDY).with_name("presets.yaml").read_text(encoding="utf-8"))
    for arm in study.arms:
        given = study.config(arm, "compressibility", 201, epochs=6)
        shipped = resolve(arm).with_changes(study.overrides)
        # What a study decides on.
        kept = {field: shipped.to_mapping()[field] for field in ("description", "run")}
        assert given.with_changes(kept | {"evaluation": {"every": shipped.evaluation.every}}) == shipped


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own with a made-up table of the committed study, and nothing written. Not to be changed."""
    tmp_path = tmp_path_factory.mktemp("bare")
    folder = Path(results.STUDY).parent
    others = [str(folder / f"{name}.{ending}") for name in results.FRESH for ending in ("yaml", "csv")]
    for name in (results.STUDY, results.WORDS, results.PAGE, results.BRIEF_PAGE, results.ARMS_PAGE, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # Without what the committed tables have given.
    page = (tmp_path / results.PAGE).read_text(encoding="utf-8")
    for begin, end in MARKERS:
        page = re.sub(f"{begin}.*?{end}", f"{begin}\n{end}", page, flags=re.DOTALL)
    (tmp_path / results.PAGE).write_text(page, encoding="utf-8")
    words = yaml.safe_load((tmp_path / results.WORDS).read_text(encoding="utf-8"))
    definition = yaml.safe_load((tmp_path / results.STUDY).read_text(encoding="utf-8"))
    # Of the committed study, the arms that are shown or asked for and what they need: all others have no say here.
    asked = re.findall(r'"([\w-]+)"', " ".join(words["sentences"] + words["brief"]))
    needed = [definition["reference"], *words["arms"], *(arm for arm in asked if arm in definition["arms"])]
    needed += [definition["arms"][arm]["weights_of"] for arm in needed if "weights_of" in definition["arms"][arm]]
    shown = {arm: definition["arms"][arm] for arm in dict.fromkeys(needed)}
    (tmp_path / results.STUDY).write_text(yaml.safe_dump(definition | {"arms": shown, "budgets": {}}), encoding="utf-8")
    study = Study.from_yaml((tmp_path / results.STUDY).read_text(encoding="utf-8"))
    arms = {arm: (0.2 + 0.002 * place, 0.4 - 0.01 * place) for place, arm in enumerate(study.arms)}
    table = frame_of(rows(arms, list(study.rewards), study.seeds, study.points))
    table.to_csv(tmp_path / results.TABLE, index=False, na_rep="nan")
    return tmp_path


@pytest.fixture(scope="module")
def outputs(bare: Path) -> dict[str, str]:
    """What is written into it: takes most of a test's time, so it is made once."""
    return results.outputs(bare)


@pytest.fixture
def root(bare: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    return Path(shutil.copytree(bare, tmp_path / "root"))


@pytest.fixture
def written(root: Path, outputs: dict[str, str]) -> Path:
    """A copy of the project as it is once written."""
    for path, text in outputs.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def check(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["results", "--check", "--root", str(root)])
    results.main()


class TestCheck:
    def test_what_was_written_passes(self, written, monkeypatch):
        check(written, monkeypatch)

    @pytest.mark.parametrize(
        "places",
        [
            {
                results.PAGE: results.BEGIN,
                results.BRIEF_PAGE: results.BRIEF_BEGIN,
                results.ARMS_PAGE: results.ARMS_BEGIN,
                results.FIGURE: "<text",
            },
            {
                results.PAGE: results.FRESH_BEGIN,
                results.ARMS_PAGE: results.FRONT_BEGIN,
                results.FRONT_FIGURE: "<text",
            },
            {results.PAGE: results.PRESETS_BEGIN},
        ],
        ids=["study", "fresh", "presets"],
    )
    def test_a_changed_digit_fails(self, written, monkeypatch, places):
        """One place in a file at a time, all of which are told."""
        for name, after in places.items():
            text = (written / name).read_text(encoding="utf-8")
            start = text.index(after)
            place = re.compile(r"\d").search(text, start + text[start:].index("0."))
            assert place is not None
            digit = str((int(place[0]) + 1) % 10)
            changed = text[: place.start()] + digit + text[place.end() :]
            (written / name).write_text(changed, encoding="utf-8")
        with pytest.raises(SystemExit) as told:
            check(written, monkeypatch)
        assert all(name in str(told.value) for name in places)

    @pytest.mark.parametrize(
        ("name", "arm"),
        [("window", "floor-90"), ("confirm", "split-50-pool"), ("presets", "avatars-hrf"), ("front", "ddpo-front")],
    )
    def test_a_changed_table_fails(self, written, monkeypatch, name, arm):
        path = (written / results.TABLE).with_name(f"{name}.csv")
        table = read_table_file(path)
        table.loc[table[table["arm"] == arm].index[-1], "reward_vs_base"] = 0.9
        table.to_csv(path, index=False, na_rep="nan")
        with pytest.raises(SystemExit):
            check(written, monkeypatch)

    def test_an_absent_figure_fails(self, written, monkeypatch):
        (written / results.FIGURE).unlink()
        with pytest.raises(SystemExit, match="svg"):
            check(written, monkeypatch)

    def test_a_check_writes_nothing(self, root, monkeypatch):
        before = (root / results.PAGE).read_text(encoding="utf-8")
        with pytest.raises(SystemExit):
            check(root, monkeypatch)
        assert (root / results.PAGE).read_text(encoding="utf-8") == before
        assert not (root / results.FIGURE).exists()


class TestReach:
    """How much a run gains at a diversity: by a number of evaluations, and with the strengths of its end."""

    @pytest.fixture
    def answers(self) -> results.Answers:
        arms = {
            "ddpo": {"description": "the reference"},
            "hot": {"description": "another"},
            "hot-front": {"description": "its end", "weights_of": "hot", "strengths": [0.5]},
        }
        study = Study.from_mapping(definition(("ddpo",), seeds=(1, 2)) | {"arms": arms})
        measured = {
            "ddpo": [(0, 0.0, 1.0), (1000, 0.01, 0.9), (5000, 0.03, 0.5)],
            "hot": [(0, 0.0, 1.0), (1000, 0.02, 0.95), (5000, 0.2, 0.5)],
            # A strength of the end counts as measured after the run.
            "hot-front": [(0, 0.0, 1.0), (5000, 0.1, 0.92)],
        }
        made = [
            row(arm, "compressibility", seed, point, evaluations=spent, gain=gain + 0.002 * seed * point, ratio=ratio)
            for arm, points in measured.items()
            for seed in study.seeds
            for point, (spent, gain, ratio) in enumerate(points)
        ]
        return results.Answers(study, {one.name: one for one in read_results(study, frame_of(made))})

    def test_by_a_number_of_evaluations_only_what_was_measured_until_then_counts(self, answers):
        """Kills: the way between the last measurement before and the first one after; the front of the end."""
        assert answers.reach("hot", "compressibility", by=3000).value == "0.023"

    def test_without_a_limit_the_better_of_path_and_front_counts(self, answers):
        """Kills: the path alone (0.045), the front without the run's end, strength 1, that it leads to (0.103)."""
        # From 0.103 at 0.92 to the end, 0.206 at 0.5.
        assert answers.reach("hot", "compressibility").value == "0.108"

    def test_the_difference_is_to_the_reference_by_seed(self, answers):
        assert answers.reach_less_reference("hot", "compressibility").value == "+0.095"


class TestSection:
    def test_the_rest_of_the_page_stays_as_it_is(self, root, outputs):
        before, after = (root / results.PAGE).read_text(encoding="utf-8"), outputs[results.PAGE]
        section = re.compile("|".join(f"{begin}.*?{end}" for begin, end in MARKERS), re.DOTALL)
        assert section.sub("", after) == section.sub("", before)

    def test_every_reward_and_arm_has_its_row(self, written):
        words = results.Words.model_validate(yaml.safe_load((written / results.WORDS).read_text(encoding="utf-8")))
        page = (written / results.PAGE).read_text(encoding="utf-8")
        section = page[page.index(results.BEGIN) : page.index(results.END)]
        study = Study.from_yaml((written / results.STUDY).read_text(encoding="utf-8"))
        for arm in words.arms:
            assert section.count(f"| `{arm}` |") == len(study.rewards)
        for reward in study.rewards:
            assert section.count(f"| {reward}, ") == 1

    def test_the_page_of_the_studies_names_every_arm_once_for_each_reward(self, root):
        """Kills: an arm without runs left unsaid; one with some of its seeds among those with all."""
        study = Study.from_yaml((root / results.STUDY).read_text(encoding="utf-8"))
        partial, absent = "ddpo-slow", "hrf-baseline"
        table = read_table_file(root / results.TABLE)
        dropped = (table["arm"] == absent) | ((table["arm"] == partial) & (table["seed"] == study.seeds[0]))
        kept = table[~(dropped & (table["reward_name"] == "planets"))]
        text = results.all_arms_of(results.Answers(study, {r.name: r for r in read_results(study, kept)}))
        sections = dict(zip(study.rewards, re.split(r"\n\n(?=\| )", text), strict=True))
        for reward, section in sections.items():
            assert section.startswith(f"| {reward} |")
            rows, _, without = section.partition("Not run, or not with all seeds,")
            named = {partial, absent} if reward == "planets" else set()
            assert set(re.findall(r"`(.+?)`", without)) == named
            assert re.findall(r"^\| `(.+?)` ", rows, re.MULTILINE) == [arm for arm in study.arms if arm not in named]

    def test_a_page_without_a_place_for_the_fresh_seeds_is_an_error(self, root):
        page = root / results.PAGE
        page.write_text(page.read_text(encoding="utf-8").replace(results.FRESH_BEGIN, ""), encoding="utf-8")
        with pytest.raises(ArtifactError, match="fresh"):
            results.outputs(root)

    def test_an_arm_that_is_not_in_the_comparison_is_refused(self, root):
        path = root / results.WORDS
        words = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(words | {"arms": ["no-such-arm"]}), encoding="utf-8")
        with pytest.raises(ConfigError, match="no-such-arm"):
            results.outputs(root)

    def test_a_table_that_is_absent_is_an_error(self, root):
        (root / results.TABLE).unlink()
        with pytest.raises(ArtifactError, match=r"window\.csv"):
            results.outputs(root)
