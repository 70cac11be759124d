"""The difference objective against its gradient by hand, numpy, and its mutants."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrf.core.objective import difference_loss, sibling_directions

GROUPS = torch.tensor([0, 1, 0, 1, 1, 0])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_of_a_linear_denoiser_is_that_of_its_closed_form():
    """x0 = W x: the gradient is the sum over pairs of -A d x^T / D, and of each anchor w (x0 - x0') x^T / D.

    Kills: the sign, a sum over elements for the mean, the square without its half, a pull away from an anchor, one
    anchor's weight for both.
    """
    states, directions, advantages = draw(5, 4), draw(5, 3, seed=1), torch.tensor([1.0, -0.5, 2.0, 0.0, -7.0]).double()
    for anchors in ([], [(draw(5, 3, seed=2), 0.3)], [(draw(5, 3, seed=2), 0.3), (draw(5, 3, seed=5), 2.0)]):
        matrix = draw(3, 4, seed=3).requires_grad_()

        difference_loss(states @ matrix.T, directions, advantages, advantage_clip=2.5, anchors=anchors).sum().backward()

        bounded = advantages.clamp(-2.5, 2.5)
        exact = -torch.einsum("p,pi,pj->ij", bounded, directions, states) / 3
        for anchor, weight in anchors:
            exact += weight * torch.einsum("pi,pj->ij", states @ matrix.detach().T - anchor, states) / 3
        torch.testing.assert_close(matrix.grad, exact)


def test_the_gradient_is_that_of_finite_differences():
    """Of a denoiser that is not linear, in float64."""
    states, directions, advantages, old = draw(4, 2, 3), draw(4, 2, 3, seed=1), draw(4, seed=2), draw(4, 2, 3, seed=3)

    def loss(scale: torch.Tensor) -> torch.Tensor:
        return difference_loss(
            (scale * states).tanh(), directions, advantages, advantage_clip=1.0, anchors=[(old, 0.7)]
        )

    assert torch.autograd.gradcheck(loss, draw(2, 3, seed=4).requires_grad_())


def test_a_better_sample_pulls_the_estimate_towards_itself_and_a_worse_one_away():
    """Kills: the sign."""
    samples = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    estimate = torch.full((2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    directions = sibling_directions(samples, torch.zeros(2, dtype=torch.int64))

    difference_loss(estimate, directions, torch.tensor([1.0, -1.0]).double(), advantage_clip=2.5).sum().backward()

    moved = estimate.detach() - estimate.grad
    # Both say the same: towards the first sample.
    assert ((moved - samples[0]).norm(dim=1) < (estimate.detach() - samples[0]).norm(dim=1)).all()


def test_directions_are_differences_to_the_siblings_mean_of_rms_1_each():
    """In numpy. Kills: the baseline left out, a mean over unrelated samples, rms over the batch."""
    # Groups far apart and of different spread: unrelated samples and a common rms are seen.
    samples = draw(6, 3, 2, 2)
    samples[GROUPS == 1] = 5 + 10 * samples[GROUPS == 1]

    directions = sibling_directions(samples, GROUPS).numpy()

    for group in (0, 1):
        members = (group == GROUPS).numpy()
        values = samples.numpy()[members]
        differences = values - values.mean(axis=0)
        rms = np.sqrt((differences**2).mean(axis=(1, 2, 3), keepdims=True))
        np.testing.assert_allclose(directions[members], differences / rms)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 100), st.floats(-100, 100))
def test_directions_know_no_offset_and_no_scale_and_nothing_of_other_groups(seed, scale, offset):
    samples = draw(6, 2, 3, seed=seed)
    directions = sibling_directions(samples, GROUPS)
    changed = scale * samples + offset
    changed[GROUPS == 1] = draw(3, 2, 3, seed=seed + 1)

    again = sibling_directions(changed, GROUPS)

    torch.testing.assert_close(again[GROUPS == 0], directions[GROUPS == 0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(again.square().mean(dim=(1, 2)), torch.ones(6, dtype=torch.float64))


def test_siblings_that_are_all_the_same_have_no_direction():
    directions = sibling_directions(torch.ones(3, 2, 2), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(directions, torch.zeros(3, 2, 2))


@pytest.mark.parametrize("advantage", [2.5, 100.0])
def test_advantages_are_clipped_on_both_sides(advantage):
    ones = torch.ones(2, 3)
    loss = difference_loss(ones, ones, torch.tensor([advantage, -advantage]), advantage_clip=2.5)
    assert loss.tolist() == [-2.5, 2.5]
