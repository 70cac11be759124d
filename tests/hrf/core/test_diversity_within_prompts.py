"""Diversity within prompts and across them: by hand, and against populations whose truth is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hrf.core.diversity import (
    across_prompt_vendi_order2,
    vendi_order2,
    within_prompt_vendi_order2_interval,
    within_prompt_vendi_order2_ratio_interval,
)
from hrf.core.statistics import means_by


def population(seed: int, num_prompts: int = 6, per_prompt: int = 4, spread: float = 0.5) -> tuple:
    """Each prompt has a direction of its own, and its samples lie around it."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_prompts, 8))
    prompts = np.arange(num_prompts * per_prompt) % num_prompts
    features = centres[prompts] + spread * generator.normal(size=(len(prompts), 8))
    return torch.from_numpy(features), torch.from_numpy(prompts)


def similarities_by_hand(features, prompts) -> list[float]:
    units = (features / features.norm(dim=1, keepdim=True)).numpy()
    result = []
    for prompt in prompts.unique():
        own = units[(prompts == prompt).numpy()]
        pairs = [float(a @ b) ** 2 for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
        result.append(np.mean(pairs))
    return result


@given(st.integers(0, 200), st.integers(2, 5))
def test_score_and_interval_are_those_of_the_definition(seed, per_prompt):
    """Pairs by hand, pseudo-values for the jackknife. Kills: the diagonal kept, pairs across prompts, seeds deleted."""
    features, prompts = population(seed, per_prompt=per_prompt)
    own = similarities_by_hand(features, prompts)
    value = 1 / np.mean(own)
    left_out = [1 / np.mean(own[:p] + own[p + 1 :]) for p in range(len(own))]
    pseudo = len(own) * value - (len(own) - 1) * np.array(left_out)
    margin = stats.t.ppf(0.975, len(own) - 1) * stats.sem(pseudo)

    interval = within_prompt_vendi_order2_interval(features, prompts)

    assert interval.value == pytest.approx(value)
    assert (interval.low, interval.high) == pytest.approx((value - margin, value + margin))


def test_the_score_is_the_harmonic_mean_of_the_prompts_own_scores():
    features, prompts = population(0)
    own = [vendi_order2(features[prompts == prompt]) for prompt in range(6)]

    assert within_prompt_vendi_order2_interval(features, prompts).value == pytest.approx(stats.hmean(own))


def test_one_picture_for_each_prompt_scores_one_within_and_much_across():
    """The collapse that a score over all samples does not see: kills a gate on all samples."""
    centres = torch.eye(6, 8, dtype=torch.float64) + 0.01
    prompts = torch.arange(24) % 6
    features = centres[prompts]

    assert within_prompt_vendi_order2_interval(features, prompts).value == pytest.approx(1)
    assert vendi_order2(features) > 5
    assert across_prompt_vendi_order2(features, prompts) > 100


def test_forgotten_prompts_show_across_and_not_within():
    """Every prompt answered with the same varied pictures."""
    features = torch.eye(4, 8, dtype=torch.float64).repeat_interleave(6, dim=0) + 0.1
    prompts = torch.arange(24) % 6

    within = within_prompt_vendi_order2_interval(features, prompts).value
    assert within > 5
    assert across_prompt_vendi_order2(features, prompts) < within


def test_a_candidate_that_is_the_base_has_ratio_one_exactly():
    features, prompts = population(1)
    interval = within_prompt_vendi_order2_ratio_interval(features, features.clone(), prompts)

    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_the_ratio_pairs_prompts():
    """Halving every prompt's deviation lowers all scores alike: the paired interval excludes 1, the scores overlap."""
    features, prompts = population(2, num_prompts=12, per_prompt=8)
    narrow, _ = population(2, num_prompts=12, per_prompt=8, spread=0.35)

    ratio = within_prompt_vendi_order2_ratio_interval(narrow, features, prompts)
    ours, theirs = (within_prompt_vendi_order2_interval(each, prompts) for each in (narrow, features))

    assert ratio.value == pytest.approx(ours.value / theirs.value)
    assert ratio.high < 1
    assert ours.high > theirs.low


def test_the_interval_covers_what_holds_for_other_prompts():
    """400 sets of 10 prompts by 6 samples: a nominal 95% covers the truth of all prompts in 90-99%."""
    generator = np.random.default_rng(0)
    truth = 1 / np.mean(similarities_by_hand(*_drawn(generator, 20_000, 4)))
    inside = 0
    for _ in range(400):
        interval = within_prompt_vendi_order2_interval(*_drawn(generator, 10, 6))
        inside += interval.low <= truth <= interval.high

    assert 0.90 <= inside / 400 <= 0.99


def _drawn(generator, num_prompts, per_prompt):
    """Prompts differ in how varied their samples are."""
    prompts = np.repeat(np.arange(num_prompts), per_prompt)
    spread = generator.uniform(0.3, 1.2, size=num_prompts)[prompts, None]
    centres = generator.normal(size=(num_prompts, 8))[prompts]
    features = centres + spread * generator.normal(size=(len(prompts), 8))
    return torch.from_numpy(features), torch.from_numpy(prompts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([0, 0, 1, 1], "at least three prompts"), ([0, 0, 1, 1, 2], "at least two samples"), ([0, 0], "the prompt of")],
)
def test_prompts_that_say_nothing_are_refused(prompts, message):
    features = torch.randn(max(4, len(prompts)), 8)
    with pytest.raises(ValueError, match=message):
        within_prompt_vendi_order2_interval(features, torch.tensor(prompts))


def test_means_by_group_come_in_the_order_of_first_appearance():
    assert means_by([1.0, 10.0, 3.0, 20.0], [7, 2, 7, 2]) == [2.0, 15.0]
    with pytest.raises(ValueError, match="a group for each value"):
        means_by([1.0], [1, 2])
