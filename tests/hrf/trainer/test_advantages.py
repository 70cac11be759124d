"""Advantages of a reward and of the distance to siblings."""

import numpy as np
import pytest
import torch

from hrf.config import resolve
from hrf.errors import NumericalError
from hrf.rewards import build_reward
from hrf.rewards.python import PythonReward
from hrf.trainer.advantages import advantages_of
from hrf.trainer.episodes import Finished
from hrf.trainer.rollout import Trajectories
from hrf.trainer.trainer import score_episodes

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
REWARDS = np.array([1.0, 2.0, 6.0, 10.0, 10.0, 40.0])
DISTANCES = np.array([0.3, 0.1, 0.2, 0.5, 0.1, 0.9])


def advantages(weight: float, distances: np.ndarray | None) -> np.ndarray:
    trajectories = Trajectories(
        states=torch.empty(0),
        log_probs=torch.empty(0),
        start_steps=torch.zeros(6, dtype=torch.int64),
        groups=GROUPS,
        num_trained_steps=1,
    )
    config = resolve("avatars-compressibility", f"update: {{sibling_distance_weight: {weight}}}")
    return advantages_of(REWARDS, trajectories, config, distances=distances).numpy()


def test_the_distance_to_siblings_is_standardised_by_itself_and_weighted():
    """In numpy. Kills: distances added to rewards before these are standardised, standardised over all groups, a weight
    of the sum or of the rewards."""

    def standardised(values: np.ndarray) -> np.ndarray:
        parts = np.split(values, 2)
        return np.concatenate([(part - part.mean()) / part.std() for part in parts])

    for weight in (0.0, 0.7):
        found = advantages(weight, DISTANCES if weight else None)
        np.testing.assert_allclose(found, standardised(REWARDS) + weight * standardised(DISTANCES), rtol=1e-5)


def test_a_weight_without_distances_is_refused():
    with pytest.raises(ValueError, match="distances"):
        advantages(0.5, None)


def test_features_without_a_direction_stop_the_run_with_its_epoch():
    finished = Finished(samples=torch.zeros(6, 3, 8, 8), groups=GROUPS, prompts=None)
    reward = build_reward(PythonReward(name="python", function="tests.hrf.shared_work:mean_red"))
    with pytest.raises(NumericalError, match=r"length zero.*epoch=4"):
        score_episodes(finished, reward, epoch=4, embed=lambda images: torch.zeros(len(images), 2))
