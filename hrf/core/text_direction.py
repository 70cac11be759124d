"""One direction for all prompts that corrects a reward which is the cosine of an image's and its prompt's embedding.

D2-Align (arXiv 2512.24146 v2), in the form for a trainer that sees nothing but scores (its appendix D.3). There Adam
fits the direction and nothing bounds it but rate times steps. Here |b| is bounded by projection, and plain gradient
ascent takes Adam's place: with the projection, Adam ends at the signs of the gradient, whatever its rate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def guided_texts(texts: Tensor, direction: Tensor, weight: float) -> Tensor:
    """e~ = n(e- + w (e+ - e-)), with e+ = n(e + b), e- = n(e - b), n(x) = x / |x|.

    To first order in b a cosine <u, e> becomes <u, e> + (2w - 1) <u, P b>, P = I - e e^T. It stays <u, e> exactly where
    b is parallel to e, b = 0 included, and for w = 1/2 where b is orthogonal to e.

    Args:
        texts: e, [n, D], of length 1.
        direction: b, [D], shorter than 1: e - b could vanish.
        weight: w.

    Returns:
        [n, D], of length 1.
    """
    towards, away = normalize(texts + direction, dim=-1), normalize(texts - direction, dim=-1)
    return normalize(away + weight * (towards - away), dim=-1)


def mean_images(images: Tensor, prompts: Tensor, num_prompts: int) -> Tensor:
    """Each prompt's part of the images' mean, [P, D]: all that a mean cosine depends on.

    Args:
        images: u, [n, D], of length 1.
        prompts: [n] int64, each image's prompt.
        num_prompts: P.
    """
    return images.new_zeros(num_prompts, images.shape[1]).index_add(0, prompts, images) / len(images)


def mean_cosine(means: Tensor, texts: Tensor) -> Tensor:
    """Mean over images of <u, e>, a scalar, from what `mean_images` gives [P, D] and the prompts' embeddings [P, D]."""
    return (means * texts).sum()


def small_direction(means: Tensor, texts: Tensor, norm: float) -> Tensor:
    """The best of all short directions: b = norm n(mean of P_e u), the mean image without its prompts' parts, [D].

    Args:
        means: What `mean_images` gives, [P, D].
        texts: e, [P, D], of length 1.
        norm: |b|.
    """
    across = means - texts * (means * texts).sum(dim=1, keepdim=True)
    return norm * normalize(across.sum(dim=0), dim=0)


def fit_direction(
    means: Tensor, texts: Tensor, *, weight: float, norm: float, steps: int, learning_rate: float
) -> Tensor:
    """Fit b = argmax over |b| <= norm of mean <u, e~(b)>, by projected gradient ascent from b = 0: [D].

    Args:
        means: What `mean_images` gives, [P, D] float64.
        texts: e, [P, D] float64, of length 1.
        weight: w, above 1/2: there and below the direction has no effect, or the opposite one.
        norm: Bound of |b|, in (0, 1).
        steps: Of the ascent.
        learning_rate: Of the ascent.

    Raises:
        ValueError: If weight or norm is out of its range.
    """
    if weight <= 0.5 or not 0 < norm < 1:
        raise ValueError(f"expected a weight above 0.5 and a norm in (0, 1), got {weight} and {norm}")
    direction = torch.zeros_like(texts[0])
    for _ in range(steps):
        direction.requires_grad_()
        (gradient,) = torch.autograd.grad(mean_cosine(means, guided_texts(texts, direction, weight)), direction)
        direction = direction.detach() + learning_rate * gradient
        direction = direction * min(1.0, norm / float(direction.norm()))
    return direction
