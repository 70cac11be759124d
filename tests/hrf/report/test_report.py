"""The HTML reports: complete, small, self-contained, and honest about what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hrf.errors import ArtifactError
from hrf.evaluation.record import Estimate, Interval, NamedEstimate
from hrf.report import render_evaluation, render_run
from hrf.report.charts import Axis, Point, Rule, Series, line_chart, round_ticks
from hrf.report.formatting import interval, number, significant
from hrf.report.summary import ReportedRun
from hrf.storage.folders import writing_folder
from tests.hrf.summary_folders import evaluation, stripped, summary_record, write_grid, write_summary

LARGEST_PAGE = 3_000_000


class Page(HTMLParser):
    """Collects the elements of a page and its text, and checks that elements close in order."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces)).replace("\u202f", " ")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_self_contained(html: str) -> None:
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "srcset", "poster", "data"}:
                assert value is not None
                assert value.startswith("data:image/")
            if name == "href":
                assert value is not None
                assert value.startswith("#")
    assert "url(" not in html
    assert "@import" not in html


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_summary(tmp_path / "summary", summary_record())


def test_run_report_is_one_small_file_that_asks_the_network_for_nothing(folder: Path) -> None:
    html = render_run(folder)
    assert len(html.encode()) < LARGEST_PAGE
    assert_self_contained(html)


def test_every_image_has_a_text_and_every_header_cell_a_scope(folder: Path) -> None:
    page = Page(render_run(folder))
    assert len(page.all("img")) == 6
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))
    assert all(chart.get("aria-label") for chart in page.all("svg") if chart.get("role") == "img")


def test_headline_says_what_was_promoted_what_it_gained_and_what_it_cost(folder: Path) -> None:
    text = Page(render_run(folder)).text
    assert "Promoted, epoch 1" in text
    assert "2 later candidates were not promoted" in text
    assert "+0.090 kB" in text
    assert "[+0.078, +0.102]; −1.277 → −1.187 kB" in text
    assert "[0.91, 0.98]; lower bound above the floor of 0.90" in text
    assert "61 760" in text
    assert "rewards are negative and a value nearer to zero is better" in text
    assert "the base's weights take the steps before 10 of 20" in text
    assert "[10, 19) in epochs 0 to 4" in text


def test_rejected_run_leads_with_the_reason(tmp_path: Path) -> None:
    record = summary_record()
    for entry in record["epochs"][:2]:
        entry["decision"]["outcome"] = "rejected"
    text = Page(render_run(write_summary(tmp_path / "summary", record))).text
    assert "Not promoted Epoch 4: diversity: the lower bound 0.785 is not above the floor 0.900" in text
    assert "lower bound not above the floor of 0.90" in text


def test_every_decision_is_there_with_all_its_numbers_and_checks(folder: Path) -> None:
    record = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    text = Page(render_run(folder)).text
    decided = [entry["decision"] for entry in record["epochs"] if entry["decision"]]
    assert len(decided) == 4
    for made in decided:
        assert made["candidate_id"] in text
        assert interval(Estimate(**made["reward_vs_incumbent"]), 4, sign=True) in text
        assert interval(Interval(**made["diversity_ratio"]), 3) in text
        assert made["time"] in text
        assert number(made["reward_vs_incumbent"]["standard_error"], 4) in text
        assert made["candidate_digest"][:16] in text
        assert all(check["detail"] in text for check in made["checks"])
        assert all(reason in text for reason in made["reasons"])


def test_every_epoch_has_its_row_and_the_one_without_evaluation_says_so(folder: Path) -> None:
    record = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    text = Page(render_run(folder)).text
    assert text.count("2 – [10, 19) 37 056 35 s −1.210 ± 0.140 not evaluated") == 1
    for entry in record["epochs"]:
        if entry["evaluation"]:
            assert interval(NamedEstimate(**entry["evaluation"]["reward"])) in text
            assert interval(Interval(**entry["evaluation"]["diversity"]["vendi_order2_ratio"]), 2) in text


def test_what_shapes_the_reward_is_said_and_has_a_column_where_it_is_recorded(folder: Path, tmp_path: Path) -> None:
    assert "Rollout shaping" not in Page(render_run(folder)).text
    record = summary_record()
    record["config"]["shaping"] = {"reward": {"name": "classifier", "label": "unrecognised"}, "weight": -0.33}
    for entry in record["epochs"]:
        entry["update"]["shaping_mean"] = 0.0631
    text = Page(render_run(write_summary(tmp_path / "shaped", record))).text
    assert "2 – [10, 19) 37 056 35 s −1.210 ± 0.140 0.063 not evaluated" in text
    words = "Trained on that plus −0.330 × a second reward: the classifier's probability of “unrecognised”."
    assert words in text


@pytest.mark.parametrize("render", ["run", "evaluation"])
def test_hostile_names_stay_text(tmp_path: Path, render: str) -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    record = summary_record()
    record["run"]["run_id"] = record["config"]["description"] = record["base"]["reward"]["name"] = hostile
    record["config"][hostile] = hostile
    record["versions"][hostile] = hostile
    record["base"]["modes"][hostile] = 3
    first = record["epochs"][0]
    first["evaluation"]["modes"][hostile] = 3
    first["evaluation"]["monitors"][hostile] = first["evaluation"]["monitors"]["edge_density"]
    first["decision"]["reasons"] = [hostile]
    first["decision"]["checks"][0]["detail"] = hostile
    folder = write_summary(tmp_path / "summary", record)
    (folder / "evaluation.json").write_text(json.dumps(record["base"]), encoding="utf-8")
    pages = {
        "run": lambda: render_run(folder),
        "evaluation": lambda: render_evaluation(folder),
    }
    html = pages[render]()
    assert_self_contained(html)
    assert "<script" not in html
    assert "alert(1)" in Page(html).text


def test_what_is_null_is_said_to_be_absent(tmp_path: Path) -> None:
    folder = write_summary(tmp_path / "summary", stripped(summary_record()), has_grids=False)
    page = Page(render_run(folder))
    assert "Not put to the gate" in page.text
    assert "no mode histogram" in page.text
    assert "No update recorded it." in page.text
    assert "The summary holds no pictures." in page.text
    assert "No candidate of this run was put to the gate." in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_run_without_any_evaluated_epoch_is_reported(tmp_path: Path) -> None:
    record = summary_record()
    for entry in record["epochs"]:
        entry["evaluation"] = entry["decision"] = None
    folder = write_summary(tmp_path / "summary", record)
    assert "No epoch of this run was evaluated." in Page(render_run(folder)).text


def test_a_summary_with_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    record = summary_record()
    record["epochs"][0]["evaluation"]["diversity"]["vendi_order2_ratio"]["low"] = float("nan")
    with pytest.raises(ArtifactError, match=r"epochs\.0\.evaluation\.diversity\.vendi_order2_ratio\.low: .* finite"):
        render_run(write_summary(tmp_path / "summary", record))


def test_huge_grids_are_made_smaller_and_the_page_says_so(tmp_path: Path) -> None:
    folder = write_summary(tmp_path / "summary", summary_record(gains=(0.04,)), tile=192, is_noise=True)
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) > LARGEST_PAGE
    html = render_run(folder)
    assert len(html.encode()) < LARGEST_PAGE
    assert "to keep the page small" in html


def test_evaluation_fragment_is_small_and_has_the_key_numbers(tmp_path: Path) -> None:
    record = evaluation(3, gain=0.11, ratio=0.96, spent=42_000)
    (tmp_path / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    write_grid(tmp_path / "grid.png", seed=3, tile=256, is_noise=True)
    html = render_evaluation(tmp_path)
    assert len(html.encode()) < 300_000
    assert_self_contained(html)
    text = Page(html).text
    assert "Evaluation after epoch 3" in text
    assert "+0.110 [+0.098, +0.122]" in text
    assert "42 000" in text
    (tmp_path / "grid.png").unlink()
    assert "no picture" in Page(render_evaluation(tmp_path)).text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ("[]", "should be an object"),
        ('{"run": {}}', "config: Field required"),
    ],
)
def test_broken_summary_is_named(tmp_path: Path, content: str | None, named: str) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=named):
        ReportedRun.load(tmp_path)


def test_broken_picture_is_named(folder: Path) -> None:
    (folder / "base_grid.png").write_bytes(b"not a picture")
    with pytest.raises(ArtifactError, match=r"base_grid\.png: it is not an image"):
        render_run(folder)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0512, "−0.0512"), (12345.6, "12346"), (1.5e-5, "1.50e−5"), (2.5e7, "2.50e7"), (None, "–")],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_rounding_to_zero_leaves_no_sign() -> None:
    assert number(-0.0001, 2) == "0.00"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-1.29, -0.93, [-1.2, -1.1, -1.0]), (0, 61_760, [0, 2e4, 4e4, 6e4])],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_chart_keeps_every_point_interval_and_rule_in_sight() -> None:
    points = [Point(x=0, y=1.0, y_range=(0.2, 1.4)), Point(x=3, y=2.0, y_range=(1.7, 2.2))]
    drawn = line_chart([Series(name="s", points=points)], description="d", x=Axis(), rules=[Rule(y=-0.5, text="floor")])
    assert drawn is not None
    heights = [float(value) for value in re.findall(r'cy="([\d.]+)"', drawn)]
    assert len(heights) == 2
    assert heights[0] > heights[1]
    rule = re.search(r'class="rule" d="M50.0 ([\d.]+)', drawn)
    assert rule is not None
    assert heights[0] < float(rule[1]) <= 210


def test_chart_of_one_point_or_equal_points_is_drawn() -> None:
    for points in ([Point(x=1, y=5)], [Point(x=1, y=0), Point(x=2, y=0)]):
        assert "<circle" in str(line_chart([Series(name="s", points=points)], description="d", x=Axis()))


def test_chart_of_nothing_is_none() -> None:
    assert line_chart([Series(name="s", points=[Point(x=0, y=float("inf"))])], description="d", x=Axis()) is None


def test_an_epoch_after_the_stop_of_a_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "evaluation", producer={"step": "evaluate", "stopped": True}):
        pass
    assert "The run had stopped before this epoch" in Page(render_evaluation(tmp_path / "evaluation")).text


def test_replicas_have_a_row_each_and_the_weights_that_were_averaged(folder: Path, tmp_path: Path) -> None:
    assert "Merged weights" not in Page(render_run(folder)).text
    record = summary_record()
    for entry in record["epochs"]:
        entry["update"]["replicas"] = [{**entry["update"], "reward_mean": mean} for mean in (1.25, 1.5)]
        parents = [{"replica": number, "run_seed": number, "weights": f"{number}" * 64} for number in (0, 1)]
        entry["merge"] = {"parents": parents, "adapter_left_out_fraction": 0.0} if entry["evaluation"] else None
    text = Page(render_run(write_summary(tmp_path / "replicas", record))).text
    assert "Merged weights" in text
    for shown in ("1.25", "1.5", "0" * 12, "1" * 12):
        assert shown in text


def test_a_monitor_is_shown_in_its_unit_and_a_hue_that_there_is_not_as_a_dash(tmp_path: Path) -> None:
    record = summary_record(gains=(0.04,))
    monitors = record["epochs"][0]["evaluation"]["monitors"]
    turned = {"value": 352.0, "base": 7.0, "change": -15.0, "limit": 10.0, "tripped": True}
    monitors["mean_hue"] = turned
    lost = {"value": 0.15, "base": 0.2, "change": -0.25, "limit": None, "tripped": False}
    monitors["photographic_variance"] = lost
    text = Page(render_run(write_summary(tmp_path / "turned", record))).text
    assert "mean hue 7.00 352 \u221215.0° change of 10° past the limit 0" in text
    assert "photographic variance 0.200 0.150 \u221225.0 % none reported only none" in text
    monitors["mean_hue"] = {**turned, "value": None, "change": None}
    text = Page(render_run(write_summary(tmp_path / "grey", record))).text
    assert "mean hue 7.00 – – change of 10° past the limit 0" in text


def test_what_was_measured_of_other_strengths_is_a_curve_and_the_chosen_one_is_named(tmp_path: Path) -> None:
    """Kills: the strength left out beside numbers that are not those of the trained weights; a curve of one point."""
    record = summary_record(gains=(0.04, 0.30))
    plain = Page(render_run(write_summary(tmp_path / "plain", record))).text
    assert "by strength" not in plain
    assert "Strength" not in plain
    measured = record["epochs"][0]["evaluation"]
    point = {
        "reward_vs_base": measured["reward_vs_base"],
        "diversity_ratio": measured["diversity"]["vendi_order2_ratio"],
        "coverage": 0.9,
        "monitors": measured["monitors"],
    }
    measured |= {"strength": 0.375, "front": [{**point, "strength": 1.0}, {**point, "strength": 0.375}]}
    page = render_run(write_summary(tmp_path / "weighed", record))
    assert "Diversity ratio against reward gain, by strength" in page
    assert "epoch 0, strength 0.375: gain +0.040" in page
    assert "Reward gain, epoch 0, strength 0.375" in Page(page).text


def test_report_needs_no_torch() -> None:
    code = "import sys, hrf.report; sys.exit(bool({'torch', 'kfp', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
