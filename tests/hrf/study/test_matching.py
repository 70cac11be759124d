"""Numbers read off curves, and their intervals.

Mutants that the tests below kill: the last crossing instead of the first; the share of a segment turned round; the
largest gain among measured points alone; seeds that do not reach a level dropped from the mean; differences that are
not paired; the normal quantile instead of Student's; levels from the reference's best seed; a front by gain alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.matching_coverage import LATE, LINEAR, SATURATING, Scenario, simulate
from hrf.study.matching import (
    QUANTITIES,
    RATIO,
    ArmPoint,
    Comparison,
    Curve,
    arm_points,
    compare,
    default_gains,
    mean_over_seeds,
    pareto_front,
    read_curves,
)
from hrf.study.table import frame_of
from tests.hrf.study_folders import ARMS, row, rows


def curve(gain: Sequence[float], ratio: Sequence[float], *, seed: int = 0) -> Curve:
    values = np.array(ratio, dtype=np.float64)
    return Curve(
        seed=seed,
        points=range(len(gain)),
        evaluations=np.arange(len(gain), dtype=np.float64),
        gain=np.array(gain, dtype=np.float64),
        quantities=dict.fromkeys(QUANTITIES, values),
    )


steps = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6)
#: In millionths: the smallest floats of all have no digits to interpolate with.
changes = st.integers(-(10**6), 10**6).map(lambda millionths: millionths / 10**6)
levels = st.integers(0, 10**6).map(lambda millionths: millionths / 10**6)
paths = st.lists(st.tuples(changes, levels), min_size=1, max_size=6).map(
    lambda points: ([0.0, *(gain for gain, _ in points)], [1.0, *(ratio for _, ratio in points)])
)


class TestPromoted:
    @pytest.mark.parametrize(
        ("passed", "gain"), [([0, 0, 0], 0.0), ([1, 0, 0], 0.1), ([1, 0, 1], 0.2), ([0, 1, 0], 0.3)]
    )
    def test_the_last_promotion_counts_and_the_base_where_there_is_none(self, passed, gain):
        """Kills: the best promotion, the first, the last point."""
        gains = [0.0, 0.1, 0.3, 0.2]
        made = [
            row("hrf", "compressibility", 3, point, evaluations=point, gain=gains[point], ratio=1.0, promoted=promoted)
            for point, promoted in enumerate([0, *passed])
        ]
        assert read_curves(frame_of(made[::-1]), "compressibility")["hrf"][3].promoted_gain == gain


class TestDiversityAtMatchedReward:
    @pytest.mark.parametrize(
        ("gain", "ratio", "level", "expected"),
        [
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.2, 0.7),
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.1, 0.9),
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.05, 0.95),
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.3, 0.5),
            # Back and forth: the first time counts.
            ([0, 0.2, 0.1, 0.3], [1, 0.8, 0.7, 0.3], 0.15, 0.85),
            # Below the base at first.
            ([0, -0.1, 0.1], [1, 0.9, 0.7], 0.05, 0.75),
        ],
    )
    def test_by_hand(self, gain, ratio, level, expected):
        assert curve(gain, ratio).at_gain(RATIO, level) == pytest.approx(expected)

    def test_a_gain_that_is_never_reached_has_no_diversity(self):
        assert curve([0, 0.1, 0.3], [1, 0.9, 0.5]).at_gain(RATIO, 0.31) is None

    @given(steps, st.data())
    def test_on_a_rising_curve_it_is_linear_interpolation(self, rises, data):
        gain = np.cumsum([0.0, *rises])
        ratio = data.draw(st.lists(st.floats(0, 1), min_size=len(gain), max_size=len(gain)))
        level = data.draw(st.floats(0.0, float(gain[-1])))
        assert curve(gain, ratio).at_gain(RATIO, level) == pytest.approx(np.interp(level, gain, ratio), abs=1e-9)

    @given(paths, levels)
    def test_no_earlier_place_on_the_curve_has_that_gain(self, path, level):
        gain, ratio = path
        times = np.linspace(0, len(gain) - 1, 40 * (len(gain) - 1) + 1)
        reached = np.interp(times, range(len(gain)), gain) >= level
        found = curve(gain, ratio).at_gain(RATIO, level)
        assert (found is None) == (not reached.any())
        if found is not None and level > 0:
            # The first grid place at or above the level is at most a step behind the crossing.
            first = int(np.argmax(reached))
            around = np.interp(times[[first - 1, first]], range(len(ratio)), ratio)
            assert min(around) - 1e-9 <= found <= max(around) + 1e-9


class TestRewardAtMatchedDiversity:
    @pytest.mark.parametrize(
        ("gain", "ratio", "level", "expected"),
        [
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.7, 0.2),
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.9, 0.1),
            ([0, 0.1, 0.3], [1, 0.9, 0.5], 0.4, 0.3),
            # Below the level and back: what comes after counts as well.
            ([0, 0.1, 0.2, 0.3], [1, 0.8, 0.95, 0.7], 0.9, 0.22),
            # A run that gains nothing has the base's reward.
            ([0, -0.1], [1, 0.5], 0.9, 0.0),
        ],
    )
    def test_by_hand(self, gain, ratio, level, expected):
        assert curve(gain, ratio).gain_within(level) == pytest.approx(expected)

    def test_a_diversity_that_is_nowhere_has_no_reward(self):
        assert curve([0, 0.1], [1, 0.9]).gain_within(1.1) is None

    @given(paths, st.floats(0.05, 0.95))
    def test_it_is_the_largest_of_all_places_on_the_curve(self, path, level):
        gain, ratio = path
        times = np.linspace(0, len(gain) - 1, 200 * (len(gain) - 1) + 1)
        gains, ratios = (np.interp(times, range(len(gain)), values) for values in (gain, ratio))
        found = curve(gain, ratio).gain_within(level)
        assert found is not None
        # No place on the curve is better, and a place a grid step away is as good.
        assert found >= gains[ratios >= level].max() - 1e-9
        near = np.abs(gains - found) <= np.abs(np.diff(gains)).max() + 1e-12
        assert ratios[near].max() >= level - np.abs(np.diff(ratios)).max() - 1e-12


def comparison(arms: dict[str, list[float | None]], arm: str) -> Comparison:
    """Compare arms whose runs, seed by seed, have the given ratio at gain 1; None never gets there."""
    curves = {
        name: {
            seed: curve([0, 0.5 if ratio is None else 1.0], [1, ratio or 0.0], seed=seed)
            for seed, ratio in enumerate(ratios)
        }
        for name, ratios in arms.items()
    }
    return compare(curves, lambda one: one.at_gain(RATIO, 1.0), reference="reference")[arm]


class TestCompare:
    ours, theirs = [0.9, 0.85, 0.95, 0.7, 0.8], [0.8, 0.7, 0.9, 0.6, 0.75]

    def test_a_mean_has_students_interval(self):
        mean = comparison({"reference": self.theirs, "arm": self.ours}, "arm").mean
        assert mean is not None
        low, high = stats.t.interval(0.95, 4, loc=np.mean(self.ours), scale=stats.sem(self.ours))
        assert (mean.value, mean.low, mean.high) == pytest.approx((np.mean(self.ours), low, high))
        assert mean.num_seeds == 5

    def test_a_difference_is_paired_by_seed(self):
        difference = comparison({"reference": self.theirs, "arm": self.ours}, "arm").difference
        assert difference is not None
        expected = stats.ttest_rel(self.ours, self.theirs).confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
        assert difference.value == pytest.approx(np.mean(self.ours) - np.mean(self.theirs))
        assert difference.is_clear

    def test_the_reference_is_not_compared_with_itself(self):
        assert comparison({"reference": self.theirs, "arm": self.ours}, "reference").difference is None

    def test_without_the_reference_there_is_no_difference(self):
        found = comparison({"arm": self.ours}, "arm")
        assert found.mean is not None
        assert found.difference is None

    def test_a_seed_that_never_gets_there_is_not_left_out_in_silence(self):
        found = comparison({"reference": self.theirs, "arm": [*self.ours[:4], None]}, "arm")
        assert (found.num_reached, found.num_runs) == (4, 5)
        assert found.mean is None
        assert found.difference is None

    def test_a_reference_that_never_gets_there_leaves_the_arm_its_mean(self):
        found = comparison({"reference": [*self.theirs[:4], None], "arm": self.ours}, "arm")
        assert found.mean is not None
        assert found.difference is None

    def test_of_a_half_finished_study_the_seeds_of_both_are_compared(self):
        difference = comparison({"reference": self.theirs[:3], "arm": self.ours}, "arm").difference
        assert difference is not None
        assert difference.num_seeds == 3
        assert difference.value == pytest.approx(np.mean(np.subtract(self.ours[:3], self.theirs[:3])))

    def test_one_seed_has_a_value_without_an_interval(self):
        mean = mean_over_seeds([0.5])
        assert (mean.value, mean.low, mean.high) == (0.5, None, None)
        assert not mean.is_clear


class TestDefaultLevels:
    def test_they_are_shares_of_the_smallest_of_the_largest_gains(self):
        runs = {seed: curve([0, top, 0.05], [1, 1, 1]) for seed, top in enumerate((0.25, 0.2, 0.3))}
        assert default_gains(runs) == (0.1, 0.16)

    @pytest.mark.parametrize(("least", "expected"), [(0.6, (0.3, 0.48)), (0.0333, (0.016, 0.026)), (37.0, (18, 29))])
    def test_they_are_rounded_down_to_two_digits(self, least, expected):
        assert default_gains({0: curve([0, least], [1, 1])}) == expected

    @given(st.floats(1e-6, 1e6))
    def test_the_reference_reaches_them(self, least):
        levels = default_gains({0: curve([0, least], [1, 1])})
        assert len(levels) == 2
        assert all(0.4 * least < level <= least for level in levels)

    def test_a_reference_that_gains_nothing_gives_none(self):
        assert default_gains({0: curve([0, -0.1], [1, 1]), 1: curve([0, 0.2], [1, 1])}) == ()
        assert default_gains({}) == ()


class TestPoints:
    def test_curves_are_read_in_the_order_of_their_points(self):
        table = frame_of(rows(ARMS, ["compressibility", "planets"], [3, 1], 4))
        shuffled = table.sample(frac=1, random_state=0)
        (found,) = (read_curves(shuffled, "planets")["hrf"][seed] for seed in [1])
        own = table[(table.arm == "hrf") & (table.seed == 1) & (table.reward_name == "planets")]
        assert found.gain.tolist() == own.reward_vs_base.tolist()
        assert found.quantities["coverage"].tolist() == own.coverage.tolist()
        assert list(found.points) == [0, 1, 2, 3, 4]

    def test_an_arms_point_is_the_mean_over_its_seeds(self):
        table = frame_of(rows(ARMS, ["compressibility"], range(5), 3))
        (point,) = [p for p in arm_points(read_curves(table, "compressibility")) if (p.arm, p.point) == ("hrf", 2)]
        values = table[(table.arm == "hrf") & (table.point == 2)].vendi_order2_ratio
        low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
        assert (point.ratio.value, point.ratio.low, point.ratio.high) == pytest.approx((values.mean(), low, high))

    def test_a_quantity_that_is_not_measured_is_left_out(self):
        table = frame_of(
            row("ddpo", "planets", seed, point, evaluations=point, gain=0.1 * point, ratio=1.0, mode_entropy=None)
            for seed in range(2)
            for point in range(2)
        )
        assert set(arm_points(read_curves(table, "planets"))[0].quantities) == set(QUANTITIES) - {"mode_entropy"}

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
    def test_the_front_has_what_no_point_beats(self, places):
        points = [
            ArmPoint(
                arm=str(n),
                point=1,
                evaluations=1.0,
                gain=mean_over_seeds([float(x)]),
                quantities={RATIO: mean_over_seeds([float(y)])},
            )
            for n, (x, y) in enumerate(places)
        ]
        expected = {
            str(n)
            for n, (x, y) in enumerate(places)
            if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in places)
        }
        front = pareto_front(points)
        assert {point.arm for point in front} == expected
        assert [point.gain.value for point in front] == sorted(point.gain.value for point in front)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(arm=LINEAR, arm_loss=0.1, reference=LINEAR, reference_loss=0.4, points=4),
        Scenario(arm=LINEAR, arm_loss=0.15, reference=LATE, reference_loss=0.5, points=3),
        Scenario(arm=SATURATING, arm_loss=0.15, reference=SATURATING, reference_loss=0.4, points=6),
        Scenario(arm=LATE, arm_loss=0.1, reference=LATE, reference_loss=0.5, points=4, gain=None),
    ],
    ids=lambda scenario: scenario.name,
)
def test_matched_reward_intervals_cover_the_truth_as_often_as_they_say(scenario):
    found = {row.question: row for row in simulate(scenario, repetitions=2000, seed=1)}
    for kind in ("arm", "difference"):
        row = found[f"diversity at matched reward, {kind}"]
        assert row.given > 0.99
        assert 0.93 <= row.covered <= 0.97
