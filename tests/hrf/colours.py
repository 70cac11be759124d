"""Rewards of colour, which a few weights reach."""

import numpy as np


def warmth(images):
    """Mean red minus mean blue of each image."""
    return images[:, 0].mean(axis=(1, 2)) - images[:, 2].mean(axis=(1, 2))


def named_length(images, prompts):
    """The length of each image's prompt, whatever the image shows."""
    return np.array([float(len(prompt)) for prompt in prompts])
