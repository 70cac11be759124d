"""The corrected cosine against its expansion by hand, and the fit against the closed form of short directions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from hrf.core.text_direction import fit_direction, guided_texts, mean_cosine, mean_images, small_direction

WEIGHTS = st.floats(-3, 4)
P, D, N = 5, 12, 40
PROMPTS = torch.arange(N) % P


def units(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, D, generator=generator, dtype=torch.float64), dim=1)


TEXTS = units(P, 0)
# They have something in common that no prompt says, as a base model's pictures have.
IMAGES = normalize(units(N, 1) + TEXTS[PROMPTS] + units(1, 2), dim=1)
MEANS = mean_images(IMAGES, PROMPTS, P)
B = units(1, 3)[0]


def across(texts: Tensor, direction: Tensor) -> Tensor:
    """The part of a direction that is orthogonal to each text."""
    return direction - texts * (texts @ direction)[:, None]


@given(weight=WEIGHTS)
def test_without_a_direction_texts_are_themselves_for_every_weight(weight):
    """Kills: w (e+ - e-) without e-."""
    torch.testing.assert_close(guided_texts(TEXTS, torch.zeros_like(B), weight), TEXTS)


@given(weight=WEIGHTS, length=st.floats(-0.9, 0.9))
def test_a_direction_along_a_prompt_changes_no_score_and_so_no_rank_of_its_images(weight, length):
    """Kills: e + b and e - b that are not brought to length 1."""
    guided = guided_texts(TEXTS[:1], length * TEXTS[0], weight)
    torch.testing.assert_close(guided, TEXTS[:1])
    assert (IMAGES @ guided[0]).argsort().tolist() == (IMAGES @ TEXTS[0]).argsort().tolist()


@given(length=st.floats(0, 0.9))
def test_at_half_a_direction_across_a_prompt_changes_nothing_however_long(length):
    """Kills: w and 2w - 1 taken for one another; e+ as the start instead of e-; no last normalisation."""
    direction = length * across(TEXTS, B)[0]
    torch.testing.assert_close(guided_texts(TEXTS[:1], direction, 0.5), TEXTS[:1])


def test_at_half_what_is_left_is_of_second_order_and_known():
    """<u, e~> - <u, e> = -<e, b> <u, P b> + O(|b|^4): a tenth of b leaves a ten-thousandth of the error."""
    errors = []
    for length in (1e-1, 1e-2):
        b = length * B
        change = guided_texts(TEXTS, b, 0.5) - TEXTS
        errors.append(float((change + (TEXTS @ b)[:, None] * across(TEXTS, b)).norm()))
    assert errors[1] < 1.2e-4 * errors[0]
    assert errors[0] < 1e-3


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, 3.0])
def test_to_first_order_the_score_gains_what_the_direction_has_across_the_prompt(weight):
    """<u, e~> = <u, e> + (2w - 1) <u, P b> + O(|b|^2). Kills: w and 1 - w exchanged; b added twice."""
    errors = []
    for length in (1e-2, 1e-3):
        b = length * B
        errors.append(float((guided_texts(TEXTS, b, weight) - TEXTS - (2 * weight - 1) * across(TEXTS, b)).norm()))
    assert errors[1] < 2e-2 * errors[0]
    assert errors[0] < 3e-3


@given(weight=WEIGHTS, length=st.floats(0, 0.9))
def test_a_guided_text_has_length_one_so_that_a_score_stays_a_cosine(weight, length):
    """Kills: the last normalisation left out."""
    torch.testing.assert_close(guided_texts(TEXTS, length * B, weight).norm(dim=1), torch.ones(P, dtype=torch.float64))


def test_the_gradient_is_that_of_finite_differences():
    b = (0.3 * B).requires_grad_()
    assert torch.autograd.gradcheck(lambda direction: mean_cosine(MEANS, guided_texts(TEXTS, direction, 1.5)), (b,))


def test_a_mean_over_images_is_that_of_each_with_its_own_prompt():
    """Kills: a mean over prompts where they have unlike numbers of images; images at other prompts."""
    prompts = torch.tensor([0, 0, 0, 1, 4, 4, 2, 0])
    by_hand = sum(float(IMAGES[i] @ TEXTS[p]) for i, p in enumerate(prompts.tolist())) / 8
    assert float(mean_cosine(mean_images(IMAGES[:8], prompts, P), TEXTS)) == pytest.approx(by_hand, rel=1e-12)


def test_the_closed_form_is_the_mean_image_without_its_prompts_parts():
    """Kills: P left out; the projection on e instead of across it; the length."""
    parts = [image - TEXTS[p] * (TEXTS[p] @ image) for image, p in zip(IMAGES, PROMPTS.tolist(), strict=True)]
    mean = torch.stack(parts).mean(dim=0)
    torch.testing.assert_close(small_direction(MEANS, TEXTS, 0.3), 0.3 * mean / mean.norm())


def fit(norm: float, **changes) -> Tensor:
    return fit_direction(MEANS, TEXTS, **{"weight": 1.5, "norm": norm, "steps": 300, "learning_rate": 0.05, **changes})


@pytest.mark.parametrize("weight", [0.75, 1.5, 4.0])
def test_the_fit_of_a_short_direction_is_the_closed_form(weight):
    """Kills: descent for ascent; Adam under the projection, whose cosine to it is 0.9; a projection on length 1."""
    found, closed = fit(1e-3, weight=weight), small_direction(MEANS, TEXTS, 1e-3)
    assert float(cosine_similarity(found, closed, dim=0)) > 1 - 1e-5
    assert float(found.norm()) == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("norm", [0.1, 0.5])
def test_the_fit_is_the_best_within_its_bound_and_better_than_the_closed_form(norm):
    """Whatever it is turned to, by a little or to a direction drawn at random, the mean score is no higher."""
    found = fit(norm)
    assert float(found.norm()) <= norm * (1 + 1e-9)

    def score(direction: Tensor) -> float:
        return float(mean_cosine(MEANS, guided_texts(TEXTS, direction, 1.5)))

    best = score(found)
    assert best > score(small_direction(MEANS, TEXTS, norm)) > score(torch.zeros_like(B))
    for other in units(50, 4):
        assert score(norm * other) < best
        assert score(norm * normalize(found + 1e-2 * norm * other, dim=0)) < best


def test_where_the_best_is_within_the_bound_the_length_is_its_own():
    """Images near their prompt leave little to add: the projection only bounds. Kills: b on the sphere."""
    near = mean_images(normalize(TEXTS[PROMPTS] + 0.02 * units(1, 2), dim=1), PROMPTS, P)
    found = fit_direction(near, TEXTS, weight=1.5, norm=0.5, steps=300, learning_rate=0.05)
    assert float(found.norm()) < 0.1
    (gradient,) = torch.autograd.grad(mean_cosine(near, guided_texts(TEXTS, found.requires_grad_(), 1.5)), found)
    assert float(gradient.norm()) < 1e-6


def test_a_fit_gives_the_same_bits_twice():
    assert fit(0.2).tolist() == fit(0.2).tolist()


@pytest.mark.parametrize("changes", [{"weight": 0.5}, {"norm": 0.0}, {"norm": 1.0}])
def test_a_weight_and_a_norm_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=r"above 0.5 and a norm in \(0, 1\)"):
        fit_direction(MEANS, TEXTS, **{"weight": 1.5, "norm": 0.2, "steps": 1, "learning_rate": 0.1, **changes})
