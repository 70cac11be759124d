"""A reward of a user's own, which does whatever the file named by REWARD_ORDER says: well, or one of several faults."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

EVALUATED = 12
"""Images of an evaluation in the smoke preset; a rollout has fewer."""


def roughness(images):
    """Mean difference of neighbouring pixels; an update that goes too far raises it."""
    while (order := _order()) == "wait":
        time.sleep(0.05)
    scores = np.abs(np.diff(images, axis=3)).mean(axis=(1, 2, 3))
    if order == "raise":
        raise LookupError("no such colour")
    if order == "nan" and len(images) < EVALUATED:
        scores[2] = np.nan
    return scores[:, None] if order == "shape" and len(images) < EVALUATED else scores


def _order() -> str:
    return Path(os.environ["REWARD_ORDER"]).read_text(encoding="utf-8")
