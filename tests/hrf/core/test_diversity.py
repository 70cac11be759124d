"""Diversity metrics against numpy and scipy, and the intervals against populations whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, special, stats
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from hrf.core.diversity import (
    classifier_inception_score,
    coverage_density,
    frechet_distance,
    mean_pairwise_distance,
    vendi_order2,
    vendi_order2_interval,
    vendi_order2_ratio_interval,
    vendi_score,
)
from hrf.core.statistics import Interval

UNEVEN = np.array([0.24, 0.2, 0.2, 0.18, 0.1, 0.08])


def clusters(count: int, seed: int, weights: NDArray[np.float64] = UNEVEN, dimensions: int = 8) -> Tensor:
    generator = np.random.default_rng(seed)
    mode = generator.choice(len(weights), count, p=weights)
    return torch.from_numpy(np.eye(dimensions)[mode] + 0.3 * generator.normal(size=(count, dimensions)))


def cosines(features: Tensor) -> NDArray[np.float64]:
    return 1.0 - cdist(features.numpy(), features.numpy(), "cosine")


def order2_by_hand(features: Tensor) -> float:
    similarities = cosines(features)
    upper = similarities[np.triu_indices(len(similarities), k=1)]
    return float(1.0 / np.mean(upper**2))


def without(features: Tensor, index: int) -> Tensor:
    return torch.cat([features[:index], features[index + 1 :]])


def jackknife_by_hand(value: float, replicates: list[float]) -> Interval:
    # Tukey's pseudo-values: their mean's standard error is the jackknife's.
    count = len(replicates)
    pseudo = count * value - (count - 1) * np.array(replicates)
    error = stats.sem(pseudo)
    margin = stats.t.ppf(0.975, count - 1) * error
    return Interval(value=value, low=value - margin, high=value + margin, standard_error=error)


def ends(interval: Interval) -> tuple[float, float, float, float]:
    return interval.value, interval.low, interval.high, interval.standard_error


@pytest.mark.parametrize("dimensions", [8, 60])
def test_vendi_score_is_the_exponential_entropy_of_the_kernels_eigenvalues(dimensions: int) -> None:
    """Kills: the primal kernel scaled by d in the dual; log base 2; K not divided by n."""
    features = clusters(40, seed=0, dimensions=dimensions)
    eigenvalues = linalg.eigvalsh(cosines(features) / 40)
    assert vendi_score(features) == pytest.approx(np.exp(stats.entropy(eigenvalues.clip(0.0))))


def test_the_dual_of_the_vendi_score_equals_the_primal() -> None:
    features = clusters(40, seed=1)
    padded = torch.cat([features, torch.zeros(40, 60)], dim=1)
    assert vendi_score(features) == pytest.approx(vendi_score(padded))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_vendi_score_counts_distinct_samples(count: int) -> None:
    assert vendi_score(torch.eye(7)[torch.arange(70) % count]) == pytest.approx(count)


def test_order_2_is_the_inverse_mean_squared_cosine_of_different_samples() -> None:
    """Kills: the diagonal kept; the mean over n² pairs; cosines not squared."""
    features = clusters(30, seed=2)
    assert vendi_order2(features) == pytest.approx(order2_by_hand(features))


def test_order_2_does_not_depend_on_the_number_of_samples_where_order_1_does() -> None:
    small = [clusters(24, seed=seed, dimensions=64) for seed in range(200)]
    large = [clusters(240, seed=seed, dimensions=64) for seed in range(40)]
    mean_similarity = [np.mean([1.0 / vendi_order2(features) for features in sets]) for sets in (small, large)]
    assert mean_similarity[0] == pytest.approx(mean_similarity[1], rel=0.03)
    assert vendi_score(large[0]) > 2 * vendi_score(small[0])


def test_the_order_2_interval_is_the_jackknife_of_explicit_deletions() -> None:
    """Kills: only the row of a deleted sample subtracted; the pairs of the rest miscounted; the diagonal kept."""
    features = clusters(25, seed=3)
    replicates = [order2_by_hand(without(features, index)) for index in range(25)]
    expected = jackknife_by_hand(order2_by_hand(features), replicates)
    assert ends(vendi_order2_interval(features)) == pytest.approx(ends(expected))


def test_the_ratio_interval_deletes_a_seed_from_both_sets() -> None:
    """Kills: candidate and base swapped; only one set's sample deleted; two independent errors added."""
    base = clusters(25, seed=4)
    candidate = base + 0.2 * clusters(25, seed=5)
    replicates = [
        order2_by_hand(without(candidate, index)) / order2_by_hand(without(base, index)) for index in range(25)
    ]
    expected = jackknife_by_hand(order2_by_hand(candidate) / order2_by_hand(base), replicates)
    assert ends(vendi_order2_ratio_interval(candidate, base)) == pytest.approx(ends(expected))


def test_a_set_is_exactly_as_diverse_as_itself() -> None:
    base = clusters(64, seed=6)
    assert ends(vendi_order2_ratio_interval(base, base.clone())) == (1.0, 1.0, 1.0, 0.0)


def test_pairing_by_seed_narrows_the_ratio() -> None:
    base = clusters(128, seed=7)
    candidate = base + 0.05 * torch.from_numpy(np.random.default_rng(8).normal(size=base.shape))
    paired = vendi_order2_ratio_interval(candidate, base)
    shuffled = vendi_order2_ratio_interval(candidate.roll(1, dims=0), base)
    assert shuffled.value == pytest.approx(paired.value)
    assert shuffled.standard_error > 3 * paired.standard_error


def von_mises_clusters(
    count: int, weights: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return generator.choice(len(weights), count, p=weights), generator.vonmises(0.0, 4.0, count)


def plane_features(mode: NDArray[np.int64], angle: NDArray[np.float64]) -> Tensor:
    features = np.zeros((len(mode), len(UNEVEN), 2))
    features[np.arange(len(mode)), mode] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return torch.from_numpy(features.reshape(len(mode), -1))


def true_order2(weights: NDArray[np.float64]) -> float:
    """1 / E[K²]: two samples meet in a mode with probability sum w², and E cos²(a - b) = (1 + E[cos 2a]²)/2."""
    resultant = special.ive(2, 4.0) / special.ive(0, 4.0)
    return float(2.0 / (np.square(weights).sum() * (1.0 + resultant**2)))


def test_nominal_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time() -> None:
    """Kills: a standard error wrong by a third either way, and an interval of the biased score.

    500 repetitions: the bounds are the nominal level, three standard errors of 1%, and half a percent that the method
    itself is off (`benchmarks/interval_coverage.py`).
    """
    generator = np.random.default_rng(9)
    collapsed = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    truth = true_order2(UNEVEN)
    true_ratio = true_order2(0.8 * UNEVEN + 0.2 * collapsed) / truth
    score_hits = ratio_hits = 0
    for _ in range(500):
        mode, angle = von_mises_clusters(128, UNEVEN, generator)
        # A fifth of the seeds moves to the first mode; the others stay where they are.
        moved = np.where(generator.random(128) < 0.2, 0, mode)
        base, candidate = plane_features(mode, angle), plane_features(moved, angle)
        score, ratio = vendi_order2_interval(base), vendi_order2_ratio_interval(candidate, base)
        score_hits += score.low <= truth <= score.high
        ratio_hits += ratio.low <= true_ratio <= ratio.high
    assert 0.915 <= score_hits / 500 <= 0.985
    assert 0.915 <= ratio_hits / 500 <= 0.985


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scales=st.lists(st.floats(1e-3, 1e3), min_size=12, max_size=12))
def test_cosine_metrics_depend_on_directions_only(seed: int, scales: list[float]) -> None:
    features = clusters(12, seed=seed)
    scaled = features * torch.tensor(scales, dtype=torch.float64)[:, None]
    for metric in (vendi_score, vendi_order2, mean_pairwise_distance):
        assert metric(scaled) == pytest.approx(metric(features))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(1, 11))
def test_metrics_of_a_set_do_not_depend_on_its_order(seed: int, shift: int) -> None:
    features = clusters(12, seed=seed)
    rolled = features.roll(shift, dims=0)
    assert ends(vendi_order2_interval(rolled)) == pytest.approx(ends(vendi_order2_interval(features)))
    assert vendi_score(rolled) == pytest.approx(vendi_score(features))
    assert coverage_density(rolled, features, 3) == (1.0, 1.0)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(12, 24))
def test_copying_one_sample_over_half_of_the_set_lowers_diversity(seed: int, copies: int) -> None:
    features = clusters(24, seed=seed)
    collapsed = features.clone()
    collapsed[:copies] = features[0]
    assert vendi_order2(collapsed) < vendi_order2(features)
    assert mean_pairwise_distance(collapsed) < mean_pairwise_distance(features)


def test_mean_pairwise_distance_agrees_with_scipy() -> None:
    """Kills: the n zero distances of samples to themselves counted in."""
    features = clusters(20, seed=10)
    assert mean_pairwise_distance(features) == pytest.approx(pdist(features.numpy(), "cosine").mean())


def coverage_density_by_hand(candidate: NDArray[np.float64], base: NDArray[np.float64], k: int) -> tuple[float, float]:
    covered, inside = 0, 0
    for index, centre in enumerate(base):
        others = np.delete(base, index, axis=0)
        radius = sorted(np.linalg.norm(others - centre, axis=1))[k - 1]
        count = int(np.sum(np.linalg.norm(candidate - centre, axis=1) < radius))
        covered, inside = covered + (count > 0), inside + count
    return covered / len(base), inside / (k * len(candidate))


@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_coverage_and_density_agree_with_their_definition(num_neighbours: int) -> None:
    """Kills: a sample counted as its own neighbour; balls around candidates; n and m swapped in density."""
    candidate, base = clusters(45, seed=11) * 1.5, clusters(30, seed=12)
    expected = coverage_density_by_hand(candidate.numpy(), base.numpy(), num_neighbours)
    assert 0.0 < expected[0] < 1.0
    assert coverage_density(candidate, base, num_neighbours) == pytest.approx(expected)


def test_the_base_covers_itself_even_where_it_repeats_itself() -> None:
    base = clusters(30, seed=13)
    assert coverage_density(base.clone(), base) == (1.0, 1.0)
    repeated = torch.cat([base, base[:1].repeat(8, 1)])
    assert coverage_density(repeated, repeated)[0] == 1.0


def test_a_candidate_that_lost_a_mode_leaves_it_uncovered() -> None:
    base = torch.cat([clusters(30, seed=14) + 50.0, clusters(30, seed=15) - 50.0])
    coverage, _ = coverage_density(base[:30], base)
    assert coverage == 0.5


@pytest.mark.parametrize("count", [100, 5])
def test_frechet_distance_agrees_with_the_matrix_square_root(count: int) -> None:
    """Kills: covariances divided by n; the cross term counted once; the difference of means not squared."""
    first, second = clusters(count, seed=16), clusters(2 * count, seed=17, weights=UNEVEN[::-1].copy())
    covariances = [np.cov(features.numpy(), rowvar=False) for features in (first, second)]
    root = linalg.sqrtm(linalg.sqrtm(covariances[0]).real @ covariances[1] @ linalg.sqrtm(covariances[0]).real).real
    means = first.mean(dim=0).numpy() - second.mean(dim=0).numpy()
    expected = means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)
    # Five samples in eight dimensions: the square root of a singular matrix is good to about 1e-8.
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_two_lines_is_in_closed_form() -> None:
    first, second = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[9.0], [10.0], [11.0]])
    assert frechet_distance(first, second) == pytest.approx((2.0 - 10.0) ** 2 + (2.0 - 1.0) ** 2)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("count", [60, 64])
def test_inception_score_is_the_exponential_mean_divergence_in_each_split(count: int) -> None:
    """Kills: the divergence turned round; one marginal for all splits; the sample deviation; left-over rows dropped."""
    probabilities = special.softmax(3 * np.random.default_rng(18).normal(size=(count, 7)), axis=1)
    scores = []
    for split in range(10):
        part = probabilities[split * count // 10 : (split + 1) * count // 10]
        scores.append(np.exp(special.rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()))
    mean, deviation = classifier_inception_score(torch.from_numpy(probabilities), splits=10)
    assert (mean, deviation) == pytest.approx((np.mean(scores), np.std(scores)))


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert classifier_inception_score(torch.full((20, 4), 0.25), splits=2) == pytest.approx((1.0, 0.0))
    assert classifier_inception_score(torch.eye(4).repeat(5, 1), splits=1)[0] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "metric",
    [
        vendi_score,
        vendi_order2,
        vendi_order2_interval,
        mean_pairwise_distance,
        lambda features: vendi_order2_ratio_interval(features, features),
        lambda features: coverage_density(features, features, 1),
        lambda features: frechet_distance(features, features),
    ],
)
@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(0, 3),
        torch.ones(4),
        torch.ones(4, 0),
        torch.ones(2, 2, 2),
        torch.ones(4, 3, dtype=torch.int64),
        torch.tensor([[1.0, float("nan")], [1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, float("inf")], [1.0, 0.0], [0.0, 1.0]]),
    ],
    ids=["empty", "vector", "no dimensions", "cube", "integers", "nan", "inf"],
)
def test_malformed_features_are_refused(metric: Callable[[Tensor], object], features: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        metric(features)


def test_a_sample_without_a_direction_is_named() -> None:
    with pytest.raises(ValueError, match="sample 1 has features of length zero"):
        vendi_score(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))


def test_orthogonal_samples_have_no_order_2_score() -> None:
    with pytest.raises(ValueError, match="infinite"):
        vendi_order2(torch.eye(4))
    with pytest.raises(ValueError, match="without one sample"):
        vendi_order2_interval(torch.eye(4)[[0, 0, 1, 2]])


def test_a_jackknife_needs_three_samples() -> None:
    with pytest.raises(ValueError, match="at least 3 samples, got 2"):
        vendi_order2_interval(torch.ones(2, 3))


def test_sets_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds: got 5 and 6"):
        vendi_order2_ratio_interval(clusters(5, seed=0), clusters(6, seed=0))
    with pytest.raises(ValueError, match="same size"):
        frechet_distance(torch.ones(4, 2), torch.ones(4, 3))
    with pytest.raises(ValueError, match="same size"):
        coverage_density(torch.ones(4, 2), torch.ones(4, 3), 1)


@pytest.mark.parametrize("num_neighbours", [0, 4, -1])
def test_a_neighbour_that_does_not_exist_is_refused(num_neighbours: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.3 for 4 samples"):
        coverage_density(torch.eye(4), torch.eye(4), num_neighbours)


@pytest.mark.parametrize("rows", [[[0.5, 0.4]] * 4, [[1.5, -0.5]] * 4], ids=["sums to 0.9", "negative"])
def test_rows_that_are_no_probabilities_are_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="rows of probabilities"):
        classifier_inception_score(torch.tensor(rows), splits=1)


def test_splits_of_fewer_than_two_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="19 samples in 10 splits"):
        classifier_inception_score(torch.full((19, 2), 0.5), splits=10)
