"""The page of a study: complete, self-contained, small, honest about what is missing, readable with many arms.

Mutants that the tests below kill: preliminary arms compared; arms in the table's order; missing and finished runs
confused; given levels ignored; no budget for pictures; the first points' modes; the caption without the arms that do
not get there; means in the column of differences; the reference without a colour; a colour for every arm.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hrf.errors import ArtifactError
from hrf.report.charts import NUM_COLOURS, Bars, sheet, stacked_bars
from hrf.report.formatting import number
from hrf.study.definition import Study
from hrf.study.matching import RATIO
from hrf.study.report import notices, read_results, render_study
from hrf.study.table import write_table
from tests.hrf.report.test_report import Page
from tests.hrf.study_folders import (
    ARMS,
    REWARDS,
    definition,
    many_arms,
    row,
    rows,
    write_pictures,
    write_study,
)

LARGEST_PAGE = 4_000_000
SEEDS = (0, 1, 2, 3, 4)


def study_of(mapping: dict) -> Study:
    return Study.from_yaml(json.dumps(mapping))


def whole(folder: Path, **more: object) -> pd.DataFrame:
    """A finished study of three arms and one reward."""
    return write_study(folder, definition(**more), rows(ARMS, ["compressibility"], SEEDS, 4))


def bounds(low: float, high: float, *, sign: bool = False) -> str:
    return f"[{number(low, 3, sign=sign)}, {number(high, 3, sign=sign)}]"


class TestNumbers:
    def test_the_matched_difference_is_that_of_an_independent_calculation(self, tmp_path):
        table = whole(tmp_path, matched={"reward_gains": {"compressibility": [0.08]}})
        at_level = {}
        for (arm, seed), own in table.groupby(["arm", "seed"]):
            gain, ratio = own.reward_vs_base.to_numpy(), own.vendi_order2_ratio.to_numpy()
            assert (np.diff(gain) > 0).all(), "numpy interpolates on rising curves only"
            at_level[arm, seed] = np.interp(0.08, gain, ratio)
        ours, theirs = ([at_level[arm, seed] for seed in SEEDS] for arm in ("split-5", "ddpo"))
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        text = Page(render_study(tmp_path)).text
        assert bounds(expected.low, expected.high, sign=True) in text
        low, high = stats.t.interval(0.95, 4, loc=np.mean(ours), scale=stats.sem(ours))
        assert bounds(low, high) in text
        assert "gain first reaches 0.08 kB (reward −1.179 kB)" in text

    def test_levels_that_are_not_given_come_from_the_reference(self, tmp_path):
        table = whole(tmp_path)
        least = table[table.arm == "ddpo"].groupby("seed").reward_vs_base.max().min()
        (results,) = read_results(study_of(definition()), table)
        assert results.gains == tuple(np.floor(share * least * 100 + 1e-9) / 100 for share in (0.5, 0.8))

    def test_the_end_of_the_budget_is_told_for_every_arm(self, tmp_path):
        table = whole(tmp_path)
        text = Page(render_study(tmp_path)).text
        for arm in ARMS:
            last = table[(table.arm == arm) & (table.point == 4)].reward_vs_base
            low, high = stats.t.interval(0.95, 4, loc=last.mean(), scale=stats.sem(last))
            assert bounds(low, high, sign=True) in text

    def test_an_arm_that_does_not_get_there_is_named_with_how_often_it_did(self, tmp_path):
        table = [row_ for row_ in rows(ARMS, ["compressibility"], SEEDS, 4) if row_["arm"] != "hrf"]
        table += [
            row("hrf", "compressibility", seed, point, evaluations=point, gain=0.02 * point * (seed > 1), ratio=1.0)
            for seed in SEEDS
            for point in range(5)
        ]
        write_study(tmp_path, definition(matched={"reward_gains": {"compressibility": [0.08]}}), table)
        assert "Not reached by all runs of hrf (3 of 5)" in Page(render_study(tmp_path)).text

    def test_a_preliminary_arm_is_shown_and_not_compared(self, tmp_path):
        study = definition()
        study["arms"]["hrf"]["preliminary"] = True
        table = write_study(tmp_path, study, rows(ARMS, ["compressibility"], SEEDS, 4))
        (results,) = read_results(study_of(study), table)
        assert "hrf" not in results.at_gain(0.05)
        assert {point.arm for point in results.points} == {"ddpo", "split-5"}
        page = render_study(tmp_path)
        assert "not in the comparison" in page
        assert {point.arm for point in results.last_points} == set(ARMS)

    def test_arms_come_in_the_order_of_the_definition_whichever_finished_first(self, tmp_path):
        table = write_study(tmp_path, definition(), rows(ARMS, ["compressibility"], SEEDS, 4)[::-1])
        (results,) = read_results(study_of(definition()), table)
        assert list(results.curves) == list(ARMS)
        assert [point.arm for point in results.last_points] == list(ARMS)

    def test_tripped_monitors_are_counted(self, tmp_path):
        table = whole(tmp_path)
        tripped = int(table[(table.arm == "ddpo")].monitors_tripped.str.contains("edge_density").sum())
        assert tripped > 0
        html = render_study(tmp_path)
        (monitors,) = re.findall(r"<caption>Measurements in which.*?</table>", html, re.DOTALL)
        (ours,) = re.findall(r"<tr><th[^>]*>ddpo</th>(.*?)</tr>", monitors)
        assert re.findall(r">(\d+)<", ours) == ["20", str(tripped), str(tripped)]

    def test_what_was_promoted_is_told_with_the_base_where_nothing_was(self, tmp_path):
        """Kills: only promoting runs averaged; the end of the budget; the lowest of all points; the upper ends."""
        table = whole(tmp_path)
        table.loc[(table.arm == "ddpo") & (table.seed > 1), "promoted"] = 0
        write_table(table, tmp_path)
        own = table[(table.arm == "ddpo") & (table.promoted == 1)].sort_values("point").groupby("seed").tail(1)
        assert len(own) == 2
        gains = [*own.reward_vs_base, 0.0, 0.0, 0.0]
        html = render_study(tmp_path)
        (promoted,) = re.findall(r"<caption>What the gate promoted last.*?</table>", html, re.DOTALL)
        (text,) = [row_ for row_ in promoted.split("</tr>") if ">ddpo<" in row_]
        low, high = stats.t.interval(0.95, 4, loc=np.mean(gains), scale=stats.sem(gains))
        assert "2 of 5" in text
        assert bounds(low, high) in text
        assert number(own.vendi_order2_ratio_low.min(), 3) in text

    def test_modes_are_the_means_of_the_last_points(self, tmp_path):
        table = whole(tmp_path)
        last = table[(table.arm == "ddpo") & (table.point == 4)]
        counts = [name for name in table.columns if name.startswith("mode_") and name != "mode_entropy"]
        share = last.mode_landscape.mean() / last[counts].mean().sum()
        assert f"<title>ddpo, landscape: {100 * share:.0f} %</title>" in render_study(tmp_path)


class TestPage:
    def test_it_is_one_file_without_outside_requests(self, tmp_path):
        table = whole(tmp_path)
        write_pictures(tmp_path, table)
        page = Page(render_study(tmp_path))
        links = [value for _, given in page.elements for name, value in given.items() if name in ("src", "href")]
        assert links
        assert all(link.startswith(("#", "data:image/")) for link in links if link is not None)
        ids = {given["id"] for _, given in page.elements if "id" in given}
        assert {link[1:] for link in links if link.startswith("#")} <= ids

    def test_the_same_folder_gives_the_same_page(self, tmp_path):
        whole(tmp_path)
        assert render_study(tmp_path) == render_study(tmp_path)

    def test_thirty_arms_with_pictures_stay_below_the_limit_and_have_few_colours(self, tmp_path):
        arms, rewards = many_arms(30), list(REWARDS)
        table = write_study(tmp_path, definition(arms, rewards=rewards, seeds=[0, 1]), rows(arms, rewards, [0, 1], 4))
        write_pictures(tmp_path, table[table.seed == 0], columns=12, rows=8, is_noise=True)
        html = render_study(tmp_path)
        assert len(html.encode()) < LARGEST_PAGE
        assert html.count("<img") == 3 * 31
        first_key = re.findall(r'<ul class="legend">.*?</ul>', html)[0]
        assert first_key.count("<li>") == NUM_COLOURS + 1
        assert ">ddpo<" in first_key
        assert "24 other arms" in first_key

    def test_text_of_the_definition_is_escaped(self, tmp_path):
        whole(tmp_path, description="Is <b>a</b> & b?")
        assert "Is &lt;b&gt;a&lt;/b&gt; &amp; b?" in render_study(tmp_path)

    def test_arms_on_a_dial_are_drawn_over_their_position(self, tmp_path):
        arms = many_arms(12)
        write_study(tmp_path, definition(arms), rows(arms, ["compressibility"], SEEDS, 4))
        html = render_study(tmp_path)
        assert "Diversity ratio at the end of the budget" in html
        assert "position of the dial" in html

    def test_without_a_dial_there_is_none(self, tmp_path):
        whole(tmp_path)
        assert "position of the dial" not in render_study(tmp_path)

    def test_decisions_of_a_diversity_floor_are_shown_where_there_are_some(self, tmp_path):
        whole(tmp_path)
        assert "diversity floor" not in Page(render_study(tmp_path)).text
        file = tmp_path / "decisions" / "split-5--compressibility--0.json"
        file.parent.mkdir()
        file.write_text(json.dumps([{"action": "back_up", "reason": "bound 0.880", "setting": {"switch_step": 7}}]))
        text = Page(render_study(tmp_path)).text
        assert "back_up" in text
        assert "setting.switch_step" in text
        file.write_text("[1]")
        with pytest.raises(ArtifactError, match="not a list of records"):
            render_study(tmp_path)


class TestUnfinished:
    def test_missing_runs_are_named(self, tmp_path):
        table = [
            row_
            for row_ in rows(ARMS, ["compressibility", "planets"], SEEDS, 4)
            if not (row_["reward_name"] == "planets" and (row_["seed"] > 2 or row_["arm"] == "hrf"))
        ]
        write_study(tmp_path, definition(rewards=["compressibility", "planets"]), table)
        text = Page(render_study(tmp_path)).text
        assert "Not finished on planets: ddpo (seeds 3, 4), hrf, split-5 (seeds 3, 4)." in text
        assert "Not finished on compressibility" not in text
        assert "21 of 30" in text

    def test_one_seed_makes_a_page_without_intervals(self, tmp_path):
        write_study(tmp_path, definition(), rows(ARMS, ["compressibility"], [0], 4))
        text = Page(render_study(tmp_path)).text
        assert "one seed" in text
        assert "3 of 15" in text

    def test_a_study_that_has_not_begun_makes_a_page(self, tmp_path):
        write_study(tmp_path, definition(), [])
        text = Page(render_study(tmp_path)).text
        assert "Not finished on compressibility: ddpo, hrf, split-5." in text
        assert "0 of 15" in text

    def test_without_the_reference_there_are_no_differences(self, tmp_path):
        table = [row_ for row_ in rows(ARMS, ["compressibility"], SEEDS, 4) if row_["arm"] != "ddpo"]
        write_study(tmp_path, definition(), table)
        assert "split-5" in Page(render_study(tmp_path)).text

    def test_an_arm_that_the_definition_has_not_is_named_and_left_out(self, tmp_path):
        study = definition({"ddpo": ARMS["ddpo"]})
        table = write_study(tmp_path, study, rows(ARMS, ["compressibility"], SEEDS, 4))
        assert "hrf, split-5. They are left out." in " ".join(notices(study_of(study), table))
        (results,) = read_results(study_of(study), table)
        assert set(results.curves) == {"ddpo"}
        render_study(tmp_path)

    def test_a_folder_without_a_definition_is_refused(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"study\.yaml"):
            render_study(tmp_path)

    def test_a_study_without_modes_makes_a_page(self, tmp_path):
        table = [
            {name: value for name, value in one.items() if not name.startswith("mode_") or name == "mode_entropy"}
            | {"mode_entropy": None}
            for one in rows(ARMS, ["compressibility"], SEEDS, 4)
        ]
        frame = write_study(tmp_path, definition(), table)
        text = Page(render_study(tmp_path)).text
        assert "no mode histogram" in text
        (results,) = read_results(study_of(definition()), frame)
        assert results.measured_quantities == [RATIO, "coverage", "unrecognised_fraction"]


class TestCharts:
    def test_pieces_of_a_bar_have_the_lengths_of_their_shares_and_touch(self):
        groups = [Bars(name="a", values=[1, 0]), Bars(name="b", values=[3, 2], colour=1)]
        drawn = stacked_bars(["x", "y"], groups, description="")
        assert drawn is not None
        pieces = [(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)]
        (first, second, nothing, all_) = pieces
        assert second[1] == pytest.approx(3 * first[1], abs=0.02)
        assert second[0] == pytest.approx(first[0] + first[1], abs=0.02)
        assert nothing[1] == 0
        assert all_ == pytest.approx((first[0], first[1] + second[1]), abs=0.02)

    def test_without_counts_there_are_no_bars(self):
        assert stacked_bars(["x"], [Bars(name="a", values=[None])], description="") is None

    def test_a_sheet_is_xml_that_holds_every_panel(self, tmp_path):
        chart = stacked_bars(["a & b"], [Bars(name="a", values=[1])], description="x < y")
        assert chart is not None
        text = sheet([("first", chart), ("se<cond", chart), ("third", chart)], [("arm", 0)], style="a > b {}")
        drawn = ElementTree.fromstring(text)
        titles = [element.text for element in drawn.iter() if element.get("class") == "panel-title"]
        assert titles == ["first", "se<cond", "third"]

    def test_a_long_key_goes_over_several_lines_within_the_sheet(self):
        chart = stacked_bars(["a"], [Bars(name="a", values=[1])], description="x")
        assert chart is not None
        arms = [(f"an-arm-with-a-long-name-{colour}", colour) for colour in range(6)]
        drawn = ElementTree.fromstring(sheet([("only", chart)], arms, style="a {}"))
        names = [element for element in drawn.iter() if (element.text or "").startswith("an-arm")]
        assert len(names) == 6
        assert len({element.get("y") for element in names}) > 1
        ends = [float(element.get("x", 0)) + 6 * len(element.text or "") for element in names]
        assert max(ends) < float(drawn.get("width", 0))
